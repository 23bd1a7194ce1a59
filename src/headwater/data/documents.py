"""`Document` and `RankingExample`: what rankers, detectors and the pipeline take in.

Plain strings are accepted wherever documents are, and become documents without an id or a title.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headwater.errors import InputError


def check_text(text: object, what: str) -> str:
    """A string that can be tokenised and written out.

    Raises:
        InputError: something else than a string, or half of a UTF-16 surrogate pair (broken decoding upstream).
    """
    if not isinstance(text, str):
        raise InputError(f"{what} must be a string, got {type(text).__name__}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half a character (a lone surrogate at {error.start}); decode it again from its bytes."
        ) from None
    return text


def check_query(query: object) -> str:
    """A query with something in it, without white space at its ends.

    Raises:
        InputError: something else than a string, a blank one, or one with a lone surrogate.
    """
    text = check_text(query, "The query").strip()
    if not text:
        raise InputError("The query is blank; give a question.")
    return text


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
        check_text(self.text, "Document.text")
        for name in ("id", "title"):
            if getattr(self, name) is not None:
                check_text(getattr(self, name), f"Document.{name}")

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
        check_query(self.query)
        object.__setattr__(self, "documents", tuple(as_documents(self.documents)))
        if not isinstance(self.relevant, (Mapping, Sequence)) or isinstance(self.relevant, str):
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
            elif isinstance(key, int) and not isinstance(key, bool):
                places = [key] if 0 <= key < len(documents) else []
            else:
                raise InputError(f"Relevant documents are ids or 0-based indices, got {key!r}.")
            if isinstance(grade, bool) or not isinstance(grade, (int, float)) or not math.isfinite(grade):
                raise InputError(f"The grade of relevant document {key!r} must be a finite number, got {grade!r}.")
            if not places:
                raise InputError(
                    f"Relevant document {key!r} of query {self.query!r} is not among its {len(documents)} documents."
                )
            for place in places:
                out[place] = float(grade)
        return out
