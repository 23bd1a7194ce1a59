"""Facts about invented countries hidden in text about real ones: a needle test that needs no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from headwater.data.documents import Document
from headwater.data.needle import DEPTHS, NeedleCase, built_in_haystack, built_in_needles, needle_cases
from headwater.data.rouge import rouge1_recall
from headwater.errors import InputError
from headwater.evaluate.tasks.needle import word_count
from headwater.evaluate.tasks.reading import ReadingTask
from headwater.evaluate.tasks.task import ReadingItem


class InventedFacts(ReadingTask):
    """The needles for testing of `headwater.data.needle` at every depth of texts of every length.

    No model can know these facts, and no text of the fact world holds them; they are not those that retrieval heads are
    found with. Every item has one document. Lengths are in words, so that the items are the same for every tokenizer;
    `headwater needle` measures tokens. Facets are ``length`` and ``depth``; the group is the needle.

    The headline "recall" is the ROUGE-1 recall of the answer (retrieval_heads.md 8). `finish` adds the share of the
    cells of the grid, over all needles, with a mean recall of one half or more.

    Args:
        lengths: of the documents at most, in words.
        depths: shares of the paragraphs before the fact, 0 to 1.

    Raises:
        InputError: for no or repeated lengths or depths, or a depth outside 0 to 1.
    """

    def __init__(self, lengths: Sequence[int] = (128, 256, 512), depths: Sequence[float] = DEPTHS) -> None:
        """Check the knobs."""
        super().__init__()
        self.metrics = ("recall", *self.metrics)
        self.cases = needle_cases(built_in_needles("testing"), built_in_haystack("testing"), lengths, depths)

    def load(self) -> list[ReadingItem]:
        """Every needle in every cell.

        Raises:
            InputError: a needle and a paragraph do not fit into a length.
        """
        return [
            ReadingItem(
                case.id,
                case.name,
                case.question,
                (Document(_text(case), id=case.id),),
                (case.answer,),
                gold=(0,),
                facets={"length": str(case.length), "depth": f"{case.depth:g}"},
            )
            for case in self.cases
        ]

    def score(self, item: ReadingItem, output: str) -> dict[str, float]:
        """Recall, and the metrics of every reading task."""
        return {"recall": rouge1_recall(item.answers[0], output), **super().score(item, output)}

    def finish(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The share of cells with a mean recall of one half or more."""
        cell_of = {case.id: (case.length, case.depth) for case in self.cases}
        cells: dict[tuple[int, float], list[float]] = {}
        for record in records:
            cells.setdefault(cell_of[record["id"]], []).append(record["scores"]["recall"])
        return {"cells at half": mean(mean(values) >= 0.5 for values in cells.values())} if cells else {}


def _text(case: NeedleCase) -> str:
    """So many whole paragraphs as fit, one to a line, the needle on a line of its own."""
    room, hay = case.length - word_count(case.needle.statement), list[str]()
    for paragraph in case.rotated:
        if word_count(paragraph) > room:
            break
        room -= word_count(paragraph)
        hay.append(paragraph)
    if not hay:
        raise InputError(f"A needle and a paragraph do not fit into {case.length} words; give more.")
    cut = round(case.depth * len(hay))
    return "\n".join([*hay[:cut], case.needle.statement, *hay[cut:]])
