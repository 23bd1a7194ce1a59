"""Exact search in memory: inner products in blocks, in fp32, ties by position (llara.md 3.9)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from headwater.data.documents import DocumentLike, as_documents, check_query
from headwater.errors import InputError
from headwater.search.bm25 import Hit
from headwater.search.embedder import Embedder, Progress, embedded


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int, block: int = 65536) -> tuple[np.ndarray, np.ndarray]:
    """The k vectors of the highest inner product with each query.

    Args:
        queries: `[queries, dimension]`.
        vectors: `[vectors, dimension]`, in memory or mapped from a file, of any float type.
        k: how many; at most all there are.
        block: vectors taken at a time.

    Returns:
        Places int64 and scores float32, `[queries, k]`, best first, ties by place.
    """
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}.")
    wanted = np.asarray(queries, np.float32)
    places = np.zeros((len(wanted), 0), np.int64)
    scores = np.zeros((len(wanted), 0), np.float32)
    for start in range(0, len(vectors), block):
        part = np.asarray(vectors[start : start + block], np.float32)
        own = np.broadcast_to(np.arange(start, start + len(part)), (len(wanted), len(part)))
        places = np.concatenate([places, own], 1)
        scores = np.concatenate([scores, wanted @ part.T], 1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # what is kept stands before, so ties stay in order
        places, scores = np.take_along_axis(places, best, 1), np.take_along_axis(scores, best, 1)
    return places, scores


class Dense:
    """Exact search over documents in memory, by their vectors."""

    def __init__(
        self,
        documents: Iterable[DocumentLike],
        embedder: Embedder,
        vectors: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Embed the documents.

        Args:
            documents: the collection; blank ones are never found.
            embedder: makes the vectors.
            vectors: those of the documents that are not blank, where they are there already.
            progress: called with (documents done, documents in all).

        Raises:
            InputError: no documents, or vectors of another number or size.
        """
        self.documents, self.embedder = as_documents(documents), embedder
        self.places = embedded(self.documents)
        if not self.places:
            raise InputError("There are no documents to search.")
        if vectors is None:
            vectors = embedder.embed([self.documents[i] for i in self.places], "document", progress)
        if vectors.shape != (len(self.places), embedder.dimension):
            raise InputError(
                f"{len(self.places)} documents of {embedder.dimension} dimensions cannot have vectors of shape "
                f"{tuple(vectors.shape)}."
            )
        self.vectors = vectors

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The k nearest documents, best first.

        Raises:
            InputError: a blank query or k below 1.
        """
        return self.search_many([query], k)[0]

    def search_many(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """As `search`, for many queries at once."""
        wanted = self.embedder.embed([check_query(query) for query in queries], "query")
        places, scores = nearest(wanted, self.vectors, k)
        return [
            [
                Hit(self.places[at], float(score), self.documents[self.places[at]])
                for at, score in zip(own, found, strict=True)
            ]
            for own, found in zip(places, scores, strict=True)
        ]
