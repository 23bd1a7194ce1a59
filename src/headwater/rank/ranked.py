"""What a ranker gives back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headwater.data.documents import Document


@dataclass(frozen=True)
class Ranked:
    """One document of a ranking.

    Attributes:
        index: its place in the list that was given, 0-based.
        id: its id, or None.
        score: calibrated attention mass, mean over the heads; -inf for a blank document. Of a list that was ranked in
            windows: the score in the last window that held the document, comparable within that window only.
        document: the document.
    """

    index: int
    id: str | None
    score: float
    document: Document


class Ranking(list[Ranked]):
    """Documents best first, and how they were read.

    Attributes:
        strategy: "one prompt", or how a list that did not fit the model was ranked: "truncate", "tournament",
            "anchors", "slide".
        windows: how many prompts that took.
        shortened: how many documents lost their end (strategy "truncate").
    """

    def __init__(
        self, documents: Iterable[Ranked] = (), strategy: str = "one prompt", windows: int = 1, shortened: int = 0
    ) -> None:
        """Keep the list and how it came about."""
        super().__init__(documents)
        self.strategy, self.windows, self.shortened = strategy, windows, shortened
