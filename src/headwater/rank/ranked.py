"""What a ranker gives back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from headwater.data.documents import Document
from headwater.heads.mass import PreparedDocuments
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
        shortened: how many documents lost their end (strategy "truncate", or `max_doc_tokens`).
    """

    def __init__(
        self, documents: Iterable[Ranked] = (), strategy: str = "one prompt", windows: int = 1, shortened: int = 0
    ) -> None:
        """Keep the list and how it came about."""
        super().__init__(documents)
        self.strategy, self.windows, self.shortened = strategy, windows, shortened


@dataclass(frozen=True)
class TokenWeight:
    """A token of a document and what it adds to the document's score: calibrated attention, mean over the heads.

    Zero for a token that the outlier filter leaves out.
    """

    text: str
    weight: float


@dataclass(frozen=True)
class Explanation:
    """Why documents got their scores.

    Attributes:
        query: the query.
        scores: float32 `[documents]`, as `QRRetriever.score` gives them.
        heads: the heads that ranked.
        head_scores: float32 `[heads, documents]`, each head alone and without its coefficient.
        tokens: per document its tokens with their weights, which add up to its score. Their texts join to what was
            read: `[i] title\\ntext`, or what `doc_span` takes of it. Of several orders they are those of the first.
    """

    query: str
    scores: np.ndarray
    heads: list[Head]
    head_scores: np.ndarray
    tokens: list[list[TokenWeight]]


def token_weights(prepared: PreparedDocuments, parts: Sequence[torch.Tensor]) -> list[list[TokenWeight]]:
    """Per document its counted tokens with their weights `parts`, `[tokens]` each."""
    out = []
    for place, weights in zip(prepared.place, parts, strict=True):
        texts = [] if place is None else prepared.texts(place)
        out.append([TokenWeight(text, weight) for text, weight in zip(texts, weights.tolist(), strict=True)])
    return out


def mean_explanation(found: Sequence[Explanation]) -> Explanation:
    """The mean of explanations of the same documents in several orders.

    Weights belong together from the end of a document on: its number, which stands first, may have more tokens in
    another order. What is left over there goes to the first token, so that weights still add up to the score.
    """
    first = found[0]
    if len(found) == 1:
        return first
    tokens = []
    for shown, *others in zip(*(one.tokens for one in found), strict=True):
        weights = np.array([token.weight for token in shown])
        for other in others:
            aligned = [token.weight for token in other][-len(shown) :] if shown else []
            weights[len(shown) - len(aligned) :] += aligned
            if len(other) > len(aligned):
                weights[0] += sum(token.weight for token in other[: len(other) - len(aligned)])
        means = (weights / len(found)).tolist()
        tokens.append([TokenWeight(token.text, weight) for token, weight in zip(shown, means, strict=True)])
    return replace(
        first,
        scores=np.mean([one.scores for one in found], axis=0),
        head_scores=np.mean([one.head_scores for one in found], axis=0),
        tokens=tokens,
    )


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
