"""`Document` and `RankingExample`: what rankers, detectors and the pipeline take in.

Plain strings are accepted wherever documents are, and become documents without an id or a title.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headwater.errors import InputError


@dataclass(frozen=True)
class Document:
    """One retrievable text.

    Attributes:
        text: the body; citations are offsets into exactly this string.
        id: the caller's name for the document (None: results are told apart by position).
        title: shown to the model on a line of its own before the text.
        metadata: anything else; headwater carries it along untouched.
    """

    text: str
    id: str | None = None
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse what would only fail later, inside a tokenizer."""
        if not isinstance(self.text, str):
            raise InputError(f"Document.text must be a string, got {type(self.text).__name__}.")
        for name in ("id", "title"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InputError(f"Document.{name} must be a string or None, got {type(value).__name__}.")

    @property
    def blank(self) -> bool:
        """Whether there is nothing to read: no title and no text beyond white space."""
        return not self.text.strip() and not (self.title or "").strip()


DocumentLike = Document | str
Relevant = Sequence[str | int] | Mapping[str | int, float]


def as_documents(documents: Iterable[DocumentLike]) -> list[Document]:
    """Turn strings into documents and check the rest.

    Raises:
        InputError: for a single string in place of a list, or an element that is neither text nor `Document`.
    """
    if isinstance(documents, (str, Document)):
        raise InputError("Expected a list of documents, got a single one; wrap it in a list.")
    out = []
    for index, document in enumerate(documents):
        if isinstance(document, str):
            out.append(Document(document))
        elif isinstance(document, Document):
            out.append(document)
        else:
            raise InputError(f"Document {index} is a {type(document).__name__}; give headwater.Document or a string.")
    return out


@dataclass(frozen=True)
class RankingExample:
    """A query, its candidate documents, and which of them are relevant.

    Attributes:
        query: the question.
        documents: candidates, in the order they were retrieved (strings or `Document`).
        relevant: ids or 0-based indices of the gold documents, or a mapping from those to a grade (> 0 is relevant).
        id: name of the query in results and shuffles (None: the query text).
        group: what examples have in common, for clustered intervals (in the fact world: the country).
    """

    query: str
    documents: Sequence[DocumentLike]
    relevant: Relevant
    id: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        """Normalise the documents once and check that every gold document is there."""
        object.__setattr__(self, "documents", tuple(as_documents(self.documents)))
        if isinstance(self.relevant, (str, int)):
            raise InputError("RankingExample.relevant must be a list of ids or indices, or a mapping to grades.")
        self.grades()

    def grades(self) -> list[float]:
        """One grade per document, 0 for the documents that are not listed.

        Raises:
            InputError: when an id or index in `relevant` names no document.
        """
        documents: Sequence[Document] = self.documents  # type: ignore[assignment]
        by_id: dict[str, list[int]] = {}
        for index, document in enumerate(documents):
            if document.id is not None:
                by_id.setdefault(document.id, []).append(index)
        graded = self.relevant.items() if isinstance(self.relevant, Mapping) else [(key, 1.0) for key in self.relevant]
        out = [0.0] * len(documents)
        for key, grade in graded:
            if isinstance(key, str):
                places = by_id.get(key, [])
            else:
                places = [key] if 0 <= key < len(documents) else []
            if not places:
                raise InputError(
                    f"Relevant document {key!r} of query {self.query!r} is not among its {len(documents)} documents."
                )
            for place in places:
                out[place] = float(grade)
        return out
