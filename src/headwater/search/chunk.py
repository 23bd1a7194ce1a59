"""Passages: slices of a document that fit a prompt, with exact offsets into the original.

A passage is always `document.text[start:end]`, so whatever is found in a passage can be cited in the document itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from headwater.data.documents import Document
from headwater.errors import InputError

Span = tuple[int, int]
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*|\r\n[^\S\n]*\r\n\s*")
# A sentence ends with . ! or ? (and closing quotes or brackets) before white space and something that starts one;
# a one-letter initial or a common abbreviation does not end it.
_SENTENCE = re.compile(
    r"(?<!\b[A-Z]\.)(?<!\b[A-Z]\.[A-Z]\.)(?<!\bapprox\.)(?<!\bca\.)(?<!\best\.)(?<!\bNo\.)(?<!\bSt\.)(?<!\bMt\.)"
    r"(?:(?<=[.!?])|(?<=[.!?][\"'\u2019\u201d)\]]))\s+(?=[\"'\u2018\u201c(\[]?[^\sa-z])"
)


@dataclass(frozen=True)
class Passage:
    """A slice of a document.

    Attributes:
        document: the original.
        start: first character of the slice in `document.text`.
        end: one past the last character.
    """

    document: Document
    start: int
    end: int

    @property
    def text(self) -> str:
        """The slice itself."""
        return self.document.text[self.start : self.end]

    def as_document(self) -> Document:
        """The slice as a document of its own: same id and title, the start kept as metadata."""
        metadata = {**self.document.metadata, "passage_start": self.start}
        return Document(self.text, self.document.id, self.document.title, metadata)


def sentences(text: str) -> list[Span]:
    """Half-open spans of the sentences of a text, without the white space between them."""
    spans: list[Span] = []
    for start, end in _cut(text, 0, len(text), _PARAGRAPH):
        spans += _cut(text, start, end, _SENTENCE)
    return spans


def passages(document: Document, max_chars: int = 1000) -> list[Passage]:
    """Split a document into passages of at most `max_chars` characters.

    Whole paragraphs are packed while they fit; a longer paragraph is split between sentences, a longer sentence
    between words, a longer word anywhere. A document that fits is one passage. A blank text has none.

    Raises:
        InputError: when max_chars is not positive.
    """
    if max_chars < 1:
        raise InputError(f"max_chars must be at least 1, got {max_chars}.")
    text = document.text
    pieces: list[Span] = []
    whole = _trim(text, 0, len(text))
    if whole is None:
        return []
    if whole[1] - whole[0] <= max_chars:
        return [Passage(document, *whole)]
    for paragraph in _cut(text, 0, len(text), _PARAGRAPH):
        pieces += _shorten(text, paragraph, max_chars)
    packed = [pieces[0]]
    for start, end in pieces[1:]:
        if end - packed[-1][0] <= max_chars:
            packed[-1] = (packed[-1][0], end)
        else:
            packed.append((start, end))
    return [Passage(document, start, end) for start, end in packed]


def split(documents: Iterable[Document], max_chars: int = 1000) -> list[Passage]:
    """Passages of many documents, in order."""
    return [passage for document in documents for passage in passages(document, max_chars)]


def _shorten(text: str, span: Span, max_chars: int) -> list[Span]:
    """Spans of at most max_chars that cover a paragraph: sentences, else words, else plain slices."""
    if span[1] - span[0] <= max_chars:
        return [span]
    out: list[Span] = []
    for start, end in _cut(text, *span, _SENTENCE):
        while end - start > max_chars:
            space = max(text.rfind(mark, start + 1, start + max_chars + 1) for mark in " \n\t")
            stop = space if space > start else start + max_chars
            trimmed = _trim(text, start, stop)
            if trimmed is not None:
                out.append(trimmed)
            start = stop
            while start < end and text[start].isspace():
                start += 1
        if start < end:
            out.append((start, end))
    return out


def _cut(text: str, start: int, end: int, boundary: re.Pattern[str]) -> list[Span]:
    """Trimmed, non-empty spans between the matches of a boundary."""
    spans: list[Span | None] = []
    at = start
    for match in boundary.finditer(text, start, end):
        spans.append(_trim(text, at, match.start()))
        at = match.end()
    spans.append(_trim(text, at, end))
    return [span for span in spans if span is not None]


def _trim(text: str, start: int, end: int) -> Span | None:
    """The span without white space at its ends; None when nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None
