"""Dense retrievers and cross-encoders of sentence-transformers, to compare with; code from a model's repository is
never run.

A document is given to them as `title text`, one space between the two, as in BEIR (arXiv 2104.08663).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import InputError, MissingExtraError, ModelError
from headwater.search.bm25 import Hit

Progress = Callable[[int, int], None]
KINDS = ("query", "document")
_HEAD = "ForSequenceClassification"
_BLOCK = 1024  # documents between two calls of `progress`


class DenseModel:
    """A bi-encoder: queries and documents as vectors.

    The prompts and the similarity (cosine, dot product, ...) are those that the checkpoint brings along; a plain
    encoder without such settings gets mean pooling and cosine, as the library does it.

    Args:
        name_or_path: a hub id or a checkpoint folder.
        device: None: the library's choice.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        ModelError: the checkpoint cannot be loaded.
    """

    def __init__(self, name_or_path: str | Path, device: str | None = None) -> None:
        """Load the model."""
        self.model = _load("SentenceTransformer", name_or_path, device)

    def encode(self, texts: Sequence[str], kind: Literal["query", "document"]) -> np.ndarray:
        """Vectors of texts, with the checkpoint's prompt for their kind: float32 `[texts, dimensions]`.

        Raises:
            InputError: a kind other than "query" and "document".
        """
        if kind not in KINDS:
            raise InputError(f"Unknown kind of text {kind!r}; use one of {', '.join(KINDS)}.")
        encode = self.model.encode_query if kind == "query" else self.model.encode_document
        vectors = encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, np.float32).reshape(len(texts), -1 if texts else 0)

    def scores(self, query: str, documents: Iterable[DocumentLike]) -> np.ndarray:
        """Similarity of every document to the query.

        Returns:
            float32 `[documents]` in input order; blank documents get -inf.

        Raises:
            InputError: a blank query.
        """
        query = check_query(query)
        return self.index(documents).scores(query)

    def index(self, documents: Iterable[DocumentLike], progress: Progress | None = None) -> DenseIndex:
        """Encode documents once for many queries.

        Args:
            documents: the collection; blank ones are never found.
            progress: called with (documents done, documents in all).
        """
        given = as_documents(documents)
        places = [place for place, document in enumerate(given) if not document.blank]
        texts = [full_text(given[place]) for place in places]
        parts = []
        for start in range(0, len(texts), _BLOCK):
            parts.append(self.encode(texts[start : start + _BLOCK], "document"))
            if progress is not None:
                progress(min(start + _BLOCK, len(texts)), len(texts))
        vectors = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
        return DenseIndex(self, given, places, _unit(vectors) if self._cosine else vectors)

    @property
    def _cosine(self) -> bool:
        return str(self.model.similarity_fn_name) == "cosine"

    def _similarity(self, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Similarity of one query to the vectors of an index (unit vectors where it is cosine)."""
        if self._cosine:
            return vectors @ _unit(query)[0]
        return np.asarray(self.model.similarity(query, vectors)[0], np.float32)


@dataclass(frozen=True)
class DenseIndex:
    """Encoded documents, searched without approximation.

    Attributes:
        model: what encoded them.
        documents: the collection.
        places: places in `documents` of those that are not blank.
        vectors: float32 `[len(places), dimensions]`; of length one where the similarity is cosine.
    """

    model: DenseModel
    documents: list[Document]
    places: list[int]
    vectors: np.ndarray

    def scores(self, query: str) -> np.ndarray:
        """As `DenseModel.scores`."""
        query = check_query(query)
        scores = np.full(len(self.documents), -np.inf, np.float32)
        if self.places:
            scores[self.places] = self.model._similarity(self.model.encode([query], "query"), self.vectors)
        return scores

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The k most similar documents, best first, ties by position.

        Raises:
            InputError: for a blank query or k below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}.")
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[: min(k, len(self.places))]
        return [Hit(int(i), float(scores[i]), self.documents[i]) for i in best]


class CrossEncoderModel:
    """A cross-encoder: query and document read together, one number out.

    Args:
        name_or_path: a hub id or a checkpoint folder.
        device: None: the library's choice.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        ModelError: the checkpoint cannot be loaded, gives more than one number for a pair, or is a plain encoder, to
            which the library would add a head with random weights.
    """

    def __init__(self, name_or_path: str | Path, device: str | None = None) -> None:
        """Load the model."""
        self.name = str(name_or_path)
        self.model = _load("CrossEncoder", name_or_path, device)
        if self.model.num_labels != 1:
            raise ModelError(
                f"{str(name_or_path)!r} gives {self.model.num_labels} numbers for a pair of texts; ranking needs a "
                "cross-encoder that gives one."
            )
        inner = self.model.model
        trained = getattr(getattr(inner, "config", None), "architectures", None) or []
        if type(inner).__name__.endswith(_HEAD) and trained and not any(name.endswith(_HEAD) for name in trained):
            raise ModelError(
                f"{str(name_or_path)!r} is a {trained[0]} without a head that scores pairs, so its scores would be "
                "random; give a checkpoint that was trained as a cross-encoder."
            )

    def scores(self, query: str, documents: Iterable[DocumentLike]) -> np.ndarray:
        """Relevance of every document to the query, as the checkpoint scales it.

        Returns:
            float32 `[documents]` in input order; blank documents get -inf.

        Raises:
            InputError: a blank query.
        """
        query, given = check_query(query), as_documents(documents)
        scores = np.full(len(given), -np.inf, np.float32)
        places = [place for place, document in enumerate(given) if not document.blank]
        if places:
            pairs = [(query, full_text(given[place])) for place in places]
            scores[places] = self.model.predict(pairs, show_progress_bar=False, convert_to_numpy=True)
        return scores


def full_text(document: Document) -> str:
    """Title and text of a document, one space between the two."""
    return f"{document.title or ''} {document.text}".strip()


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(lengths, 1e-12)
    return unit


def _load(family: str, name_or_path: str | Path, device: str | None) -> Any:
    try:
        import sentence_transformers
    except ImportError as error:
        raise MissingExtraError(
            f"Dense models and cross-encoders need {error.name}, which the extra [eval] brings: "
            "pip install 'headwater[eval]'."
        ) from error
    try:
        return getattr(sentence_transformers, family)(str(name_or_path), device=device, trust_remote_code=False)
    except Exception as error:  # the library, transformers and the hub client raise a dozen unrelated types here
        reason = " ".join(str(error).split())[:400]
        raise ModelError(
            f"Could not load the {family} {str(name_or_path)!r}: give a checkpoint folder or a hub id that can be "
            f"reached, and a device that is there. Reason: {reason}"
        ) from error
