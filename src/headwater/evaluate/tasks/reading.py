"""What reading tasks share: answers scored against the item's, and whether they came from somewhere they should not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headwater.evaluate.answers import ANSWER_METRICS, answer_scores, contains
from headwater.evaluate.tasks.task import ReadingItem, Task


class ReadingTask(Task):
    """A task of kind "reading"; subclasses implement `load`.

    Scores of every item: EM, F1, sub-EM, words (length of the answer), abstained; and where the task has `others`,
    "others" (sub-span match with one of them and with none of the answers).

    Args:
        match: replaces the exact match of SQuAD, for answers whose signs and decimal points count.
        others: whether items say which answers give something away.
    """

    kind = "reading"

    def __init__(self, match: Callable[[str, Sequence[str]], bool] | None = None, others: bool = False) -> None:
        """Settle the metrics."""
        super().__init__()
        self.match = match
        self.metrics = (*ANSWER_METRICS, "others") if others else tuple(ANSWER_METRICS)

    def score(self, item: ReadingItem, output: str) -> dict[str, float]:
        """Every metric of one answer."""
        scores = answer_scores(output, item.answers)
        if self.match is not None and item.answers:
            scores["EM"] = float(self.match(output, item.answers))
        if "others" in self.metrics:
            scores["others"] = float(bool(contains(output, item.others)) and not contains(output, item.answers))
        return scores
