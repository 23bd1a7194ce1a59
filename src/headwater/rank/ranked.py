"""What a ranker gives back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from headwater.data.documents import Document
from headwater.headset import Head
from headwater.model.memory import Memory


@dataclass(frozen=True)
class Ranked:
    """One document of a ranking.

    Attributes:
        index: its place in the list that was given, 0-based.
        id: its id, or None.
        score: higher is better, -inf for a blank document. Of `QRRetriever` calibrated attention mass, mean over the
            heads; of a list that was ranked in windows that of the last window that held the document, comparable
            within that window only.
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


@dataclass(frozen=True)
class TokenWeight:
    """A token of a document and the calibrated attention it got, mean over the heads."""

    text: str
    weight: float


@dataclass(frozen=True)
class Explanation:
    """Why documents got their scores.

    Attributes:
        query: the query.
        scores: float32 `[documents]`, as `QRRetriever.score` gives them.
        heads: the heads that ranked.
        head_scores: float32 `[heads, documents]`, each head alone.
        tokens: per document its tokens with their weights; their texts join to what was read: `[i] title\\ntext`.
    """

    query: str
    scores: np.ndarray
    heads: list[Head]
    head_scores: np.ndarray
    tokens: list[list[TokenWeight]]


@dataclass(frozen=True)
class Plan:
    """What a ranking would take: documents with text, tokens the model reads, and the memory of the prompt."""

    documents: int
    limit: int
    memory: Memory

    @property
    def fits(self) -> bool:
        """Whether the list fits both the model's context and the free memory, in one prompt."""
        return self.memory.tokens <= self.limit and self.memory.fits
