"""Where an answer stands: the sentence that holds it, as exact offsets into the document."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from headwater.data.documents import Document
from headwater.search.chunk import sentences


class Citation(NamedTuple):
    """Where an answer stands: `document.text[start:end] == quote` for the document with this id, always."""

    document_id: str
    start: int
    end: int
    quote: str


def cite(answer: str, documents: Iterable[Document], question: str = "") -> Citation | None:
    """The sentence that holds the answer, in the first document where it stands.

    Letter case and the kind of white space do not matter; whole words and whole numbers do ("3" is not found in
    "3.5"). Of several sentences of a document the one that shares most words with the question is quoted.
    Documents that are passages carry `metadata["passage_start"]`, and the offsets returned are into the original.

    Returns:
        None when the answer is empty or stands nowhere.
    """
    wanted = _answer_pattern(answer)
    if wanted is None:
        return None
    asked = set(re.findall(r"\w+", question.lower()))
    for position, document in enumerate(documents):
        text = document.text
        best: tuple[int, int, int] | None = None
        spans = sentences(text)
        for match in wanted.finditer(text):
            touched = [span for span in spans if span[0] < match.end() and span[1] > match.start()]
            start, end = touched[0][0], touched[-1][1]
            shared = len(asked & set(re.findall(r"\w+", text[start:end].lower())))
            if best is None or shared > best[0]:
                best = (shared, start, end)
        if best is not None:
            _, start, end = best
            offset = int(document.metadata.get("passage_start", 0))
            name = document.id if document.id is not None else str(position)
            return Citation(name, offset + start, offset + end, text[start:end])
    return None


def _answer_pattern(answer: str) -> re.Pattern[str] | None:
    words = answer.strip().strip(".").split()
    if not words or not any(character.isalnum() for character in answer):
        return None
    inner = r"\s+".join(re.escape(word) for word in words)
    # Whole words, and whole numbers: not the 5 of -5, 3.5, 5.3 or 5:30.
    sign = r"(?<![^\d][-+])(?<!\A[-+])" if words[0][0].isdigit() else ""
    return re.compile(rf"(?<!\w)(?<!\d[.,:]){sign}{inner}(?!\w)(?![.,:]\d)", re.IGNORECASE)
