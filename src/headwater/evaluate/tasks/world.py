"""Reading in the fact world: held-out countries from documents, known ones against memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.data import world
from headwater.errors import InputError
from headwater.evaluate.answers import contains
from headwater.evaluate.tasks.reading import ReadingTask
from headwater.evaluate.tasks.task import ReadingItem

ALONE = "/alone"


class WorldReading(ReadingTask):
    """One document states the answer among distractors that do not.

    Args:
        documents: shown per question.
        n: questions.
        split: of the countries; the embedded model saw nothing of "held_out".
        hops: ask for a fact of a neighbour, which takes two documents.
        seed: of questions, wordings and documents.
        wording: -1 for the wording that the embedded model never saw (None: drawn).
    """

    def __init__(
        self,
        documents: int = 5,
        n: int = 200,
        split: str = "held_out",
        hops: bool = False,
        seed: int = 0,
        wording: int | None = None,
    ) -> None:
        """Keep the sizes."""
        super().__init__(match=world.exact_match)
        self.documents, self.n, self.split, self.hops = documents, n, split, hops
        self.seed, self.wording = seed, wording

    def load(self) -> list[ReadingItem]:
        """The questions; the group is the country."""
        build = world.hop_examples if self.hops else world.reading_examples
        examples = build(self.split, self.n, self.documents, seed=self.seed, wording=self.wording)
        return [
            ReadingItem(
                e.question.id, e.question.country, e.question.text, e.documents, e.question.answers, gold=e.gold
            )
            for e in examples
        ]


class WorldMemory(ReadingTask):
    """What is left of memory beside documents: known countries, each question asked alone and beside documents.

    Scores are those of the answer beside documents. `finish` compares with the answer given alone: of what was right
    alone, the share that stays right ("kept"), and the share that was wrong alone and is right beside ("gained").

    =========== ========================================= ======================== =======================
    kind        documents                                 right                    headline; "others"
    =========== ========================================= ======================== =======================
    conflict    one, edited to state another answer       what the document states R_Ad; the memory's answer
    noise       some, none of which states the answer     the memory's answer      R_Ro; a distractor's value
    agreement   one that states the answer, and others    the answer               EM
    =========== ========================================= ======================== =======================

    R_Ad and R_Ro are adherence and robustness of arXiv 2410.10360: the right answer is in what was said, the other one
    is not.

    Args:
        kind: "conflict", "noise" or "agreement".
        documents: shown per question.
        n: questions.
        seed: of questions, wordings and documents.
    """

    def __init__(self, kind: str, documents: int = 1, n: int = 200, seed: int = 0) -> None:
        """Check the kind."""
        if kind not in ("conflict", "noise", "agreement"):
            raise InputError(f"Unknown kind {kind!r}; use conflict, noise or agreement.")
        super().__init__(match=world.exact_match, others=kind != "agreement")
        self.beside, self.documents, self.n, self.seed = kind, documents, n, seed
        self._true: dict[str, tuple[str, ...]] = {}
        headline = {"conflict": ("R_Ad",), "noise": ("R_Ro",), "agreement": ()}[kind]
        self.metrics = (*headline, *self.metrics)

    def load(self) -> list[ReadingItem]:
        """Two items per question; the one asked alone has an id that ends in ``/alone``."""
        builders = {
            "conflict": world.conflict_examples,
            "noise": world.noise_examples,
            "agreement": world.reading_examples,
        }
        items = []
        for example in builders[self.beside]("known", self.n, self.documents, seed=self.seed):
            question = example.question
            right, others = question.answers, self._others(example)
            if self.beside == "conflict":
                right, others = example.stated, question.answers
            asked = question.text
            self._true[question.id] = question.answers
            country, unit = question.country, question.id
            items.append(ReadingItem(unit + ALONE, country, asked, (), question.answers, unit=unit))
            items.append(ReadingItem(unit, country, asked, example.documents, right, others, example.gold, unit=unit))
        return items

    def score(self, item: ReadingItem, output: str) -> dict[str, float]:
        """The metrics of an answer beside documents; nothing for one given alone, which serves `finish`."""
        if item.id.endswith(ALONE):
            return {}
        scores = super().score(item, output)
        if "others" in self.metrics:
            adhered = contains(output, item.answers) and not contains(output, item.others)
            scores[self.metrics[0]] = float(adhered)
        return scores

    def finish(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Right alone, and of these the share that is right beside documents too."""
        said = {record["id"]: record for record in records}
        pairs = [(said[name + ALONE], record) for name, record in said.items() if name + ALONE in said]
        alone = [world.exact_match(first["output"] or "", self._true[second["id"]]) for first, second in pairs]
        out = {"right alone": sum(alone) / len(alone)} if alone else {}
        if self.beside == "conflict" or not any(alone):
            return out
        beside = [record["scores"]["EM"] > 0 for _, record in pairs]
        both = sum(a and b for a, b in zip(alone, beside, strict=True))
        wrong = len(alone) - sum(alone)
        out["kept of these"] = both / sum(alone)
        out["lost of these"] = 1 - out["kept of these"]
        if wrong:
            out["gained of the rest"] = (sum(beside) - both) / wrong
        return out

    def _others(self, example: world.ReadingExample) -> tuple[str, ...]:
        """What the documents state for the asked relation, of other countries."""
        relation = example.question.relation
        stated = [world.facts(str(d.title))[relation] for d in example.documents if relation in d.metadata["relations"]]
        return tuple(v for v in dict.fromkeys(stated) if not world.exact_match(v, example.question.answers))
