"""What every training of every row says to every question, kept on disk test by test."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from headwater.adapt.parenting.losses import PromptWriter
from headwater.data.parenting.items import ParentingItem
from headwater.data.parenting.match import LONGEST
from headwater.evaluate.files import Lines
from headwater.evaluate.main_job import Progress
from headwater.evaluate.parenting.questions import Tests, perplexity
from headwater.evaluate.parenting.workshop import Workshop
from headwater.model.greedy import greedy_lines
from headwater.model.lm import LanguageModel

TEXT = "perplexity"


class Answers:
    """Answers by test and model; those on disk are not asked again."""

    def __init__(self, shop: Workshop, tests: Tests, progress: Progress) -> None:
        """Read what an earlier run finished."""
        self.shop, self.tests, self._progress = shop, tests, progress
        self._lines = {name: Lines(shop.folder / "answers" / f"{name}.jsonl") for name in (*tests, TEXT)}

    def missing(self, key: str, names: Collection[str]) -> list[str]:
        """Tests, of some, that this model was not asked yet."""
        return [name for name in names if key not in self._lines[name].done]

    def ask(self, key: str, lm: LanguageModel, names: Sequence[str]) -> None:
        """Ask a model what is left of some tests."""
        step = self._progress(f"answers: {key}")
        left = self.missing(key, names)
        for place, name in enumerate(left):
            step(place, len(left))
            if name == TEXT:
                self._lines[name].add({"id": key, "value": perplexity(lm, self.shop.text)})
            else:
                self._lines[name].add({"id": key, "said": said(lm, self.tests[name], self.shop.settings.answered)})
        step(len(left), len(left))

    def of(self, key: str) -> Mapping[str, list[str]]:
        """Test -> answers of a model, for the tests that it was asked."""
        return {name: self._lines[name].done[key]["said"] for name in self.tests if key in self._lines[name].done}

    def perplexity(self, key: str) -> float:
        """Perplexity of plain text."""
        return float(self._lines[TEXT].done[key]["value"])


def said(lm: LanguageModel, items: Sequence[ParentingItem], batch: int) -> list[str]:
    """Greedy answers, so many prompts at once."""
    writer = PromptWriter(lm)
    return greedy_lines(lm, [writer.prompt(item) for item in items], LONGEST, batch)
