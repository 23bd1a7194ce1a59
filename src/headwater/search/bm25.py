"""BM25 candidates in memory, through bm25s (Lucene scoring).

k1 = 0.9 and b = 0.4 are the defaults of Anserini/Pyserini, which most published BM25 candidate lists were made with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import InputError

K1 = 0.9
B = 0.4


@dataclass(frozen=True)
class Hit:
    """One candidate.

    Attributes:
        index: position of the document in the collection; of an `Index` on disk, the place in the list of hits.
        score: higher is better; BM25 is 0 when no query word occurs.
        document: the document itself.
    """

    index: int
    score: float
    document: Document


class BM25:
    """Keyword search over a list of documents (title and text together).

    Words are lower-cased runs of two or more word characters, without bm25s' English stop words and without stemming.
    """

    def __init__(self, documents: Iterable[DocumentLike], k1: float = K1, b: float = B) -> None:
        """Index the documents.

        Raises:
            InputError: for an empty collection, a negative k1, or b outside 0..1.
        """
        if not k1 >= 0 or not 0 <= b <= 1:
            raise InputError(f"BM25 needs k1 >= 0 and 0 <= b <= 1, got k1={k1}, b={b}.")
        self.documents = as_documents(documents)
        if not self.documents:
            raise InputError("There are no documents to search.")
        self.k1, self.b = float(k1), float(b)
        words = _words([f"{document.title or ''}\n{document.text}" for document in self.documents])
        self._index = None
        if any(words):  # bm25s cannot index a vocabulary of nothing
            import bm25s

            self._index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
            self._index.index(words, show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """BM25 of every document: float32 [documents], input order.

        Raises:
            InputError: for a blank query.
        """
        words = _words([check_query(query)])[0]
        if self._index is None or not words:
            return np.zeros(len(self.documents), np.float32)
        return np.asarray(self._index.get_scores(words), np.float32)

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The k best documents, best first, ties by position; documents without any query word come last.

        Raises:
            InputError: for a blank query or k below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}.")
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[:k]
        return [Hit(int(i), float(scores[i]), self.documents[i]) for i in best]


def _words(texts: list[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
