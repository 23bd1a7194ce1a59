"""The needle test: how much of a hidden fact a model gives back, over lengths and depths (retrieval_heads.md 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headwater.data.needle import BUFFER, NEW_TOKENS, NeedleCase, needle_fingerprint
from headwater.data.rouge import rouge1_recall
from headwater.errors import ContextOverflowError, InputError
from headwater.evaluate.statistics import Interval, mean_interval
from headwater.model.greedy import greedy_line
from headwater.prompt.needle import needle_prompt

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

Measure = Literal["recall", "exact"]
PASSED = 0.5


@dataclass(frozen=True)
class NeedleResult:
    """What came of one case.

    Attributes:
        case: its id.
        needle: name of the needle.
        length: of the case, in tokens.
        depth: that was asked for.
        actual_depth: share of the text's tokens before the needle.
        after_sentence: whether the needle stands between sentences.
        tokens: of the prompt.
        recall: ROUGE-1 recall of the answer in the response, 0 to 1.
        exact: whether the response holds the answer letter by letter, 0 or 1.
        answer: the right one.
        response: the model's, up to its first line break.
    """

    case: str
    needle: str
    length: int
    depth: float
    actual_depth: float
    after_sentence: bool
    tokens: int
    recall: float
    exact: float
    answer: str
    response: str


@dataclass(frozen=True)
class NeedleGrid:
    """Results of all cases.

    Attributes:
        results: one per case, in the order of the cases.
        settings: model, template, lengths, depths, needles, fingerprint of the cases.
    """

    results: list[NeedleResult]
    settings: dict[str, Any]

    @property
    def lengths(self) -> list[int]:
        """Rows of the grid."""
        return sorted({result.length for result in self.results})

    @property
    def depths(self) -> list[float]:
        """Columns of the grid."""
        return sorted({result.depth for result in self.results})

    def cells(self, measure: Measure = "recall") -> np.ndarray:
        """Means over needles, float64 `[lengths, depths]`; NaN where there was no case."""
        out = np.full((len(self.lengths), len(self.depths)), np.nan)
        for row, length in enumerate(self.lengths):
            for column, depth in enumerate(self.depths):
                found = [getattr(r, measure) for r in self.results if (r.length, r.depth) == (length, depth)]
                if found:
                    out[row, column] = np.mean(found)
        return out

    @property
    def passed(self) -> float:
        """Share of cells with a mean recall of at least one half."""
        cells = self.cells()
        return float((cells[np.isfinite(cells)] >= PASSED).mean())

    def interval(self, measure: Measure = "recall") -> Interval:
        """Mean over all cases with its 95 % bootstrap interval, needles resampled.

        Raises:
            InputError: fewer than two needles.
            MissingExtraError: scipy is not installed.
        """
        return mean_interval([getattr(r, measure) for r in self.results], [r.needle for r in self.results])

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON. Grids are `[length][depth]`; the intervals resample needles (None for one needle)."""
        several = len({result.needle for result in self.results}) > 1
        measures: tuple[Measure, ...] = ("recall", "exact")
        summary: dict[str, Any] = {
            name: {
                "mean": float(np.mean([getattr(result, name) for result in self.results])),
                "interval": self.interval(name).as_dict() if several else None,
                "grid": self.cells(name).tolist(),
            }
            for name in measures
        }
        return {
            "settings": self.settings,
            "lengths": self.lengths,
            "depths": self.depths,
            **summary,
            "passed": self.passed,
            "results": [asdict(result) for result in self.results],
        }


def measure_needles(
    lm: LanguageModel,
    cases: Sequence[NeedleCase],
    template: str = "auto",
    max_new_tokens: int = NEW_TOKENS,
    buffer: int = BUFFER,
    progress: Callable[[int, int], None] | None = None,
) -> NeedleGrid:
    """Ask for every needle, greedily, up to a line break behind some text.

    Runs inside `hw.ablated` as well: the same cases with heads taken out.

    Args:
        lm: a loaded model.
        cases: see `headwater.data.needle.needle_cases`.
        template: of the prompt, see `headwater.prompt.needle.needle_prompt`.
        max_new_tokens: of a response.
        buffer: tokens of a case's length kept for question, template and answer.
        progress: called with (cases done, cases in all).

    Raises:
        InputError: no cases, a needle longer than its case, or less text than a case is long.
        ContextOverflowError: a case and its answer are longer than the model reads; raised before the model runs.
        InsufficientMemoryError: the device runs out of memory.
    """
    if not cases:
        raise InputError("There are no needle cases to measure.")
    prompts = [needle_prompt(lm.tokenizer, case, template, buffer) for case in cases]
    for case, prompt in zip(cases, prompts, strict=True):
        needed = len(prompt.ids) + max_new_tokens
        if lm.max_length is not None and needed > lm.max_length:
            raise ContextOverflowError(
                f"The case {case.id} takes {len(prompt.ids)} tokens and {max_new_tokens} for the answer, but {lm.name} "
                f"reads {lm.max_length}; take shorter lengths.",
                tokens=needed,
                limit=lm.max_length,
            )
    results = []
    for done, (case, prompt) in enumerate(zip(cases, prompts, strict=True), 1):
        _, response = greedy_line(lm, prompt.ids, max_new_tokens)
        results.append(
            NeedleResult(
                case=case.id,
                needle=case.name,
                length=case.length,
                depth=case.depth,
                actual_depth=prompt.depth,
                after_sentence=prompt.after_sentence,
                tokens=len(prompt.ids),
                recall=rouge1_recall(case.answer, response),
                exact=float(case.answer in response),
                answer=case.answer,
                response=response,
            )
        )
        if progress is not None:
            progress(done, len(cases))
    settings = {
        **lm.provenance(),
        "template": template,
        "max_new_tokens": max_new_tokens,
        "buffer": buffer,
        "needles": {case.name: case.needle.statement for case in cases},
        "data": needle_fingerprint(cases),
    }
    return NeedleGrid(results, settings)
