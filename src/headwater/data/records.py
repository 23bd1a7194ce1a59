"""JSON objects, one per line, into documents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headwater.data.documents import Document, check_text
from headwater.data.text import Note, lines
from headwater.errors import FormatError, InputError


def json_lines(path: Path, note: Note | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank.

    Raises:
        FormatError: for a line that is not a JSON object.
    """
    for number, line in lines(path, note):
        if line.strip():
            yield number, json_object(line, path, number)


def json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    """One line as an object."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or ("nested too deep" if isinstance(error, RecursionError) else str(error))
        raise FormatError(f"{path}, line {number}: not valid JSON ({reason}).") from None
    if not isinstance(record, dict):
        raise FormatError(f"{path}, line {number}: expected a JSON object, got {type(record).__name__}.")
    return record


def json_document(record: object, default_id: str | None, path: Path, line: int) -> Document:
    """The fields text, id or _id, and title as a document; the other fields become metadata."""
    if not isinstance(record, Mapping):
        raise FormatError(f"{path}, line {line}: a document must be text or an object, got {type(record).__name__}.")
    if not isinstance(record.get("text"), str):
        raise FormatError(f"{path}, line {line}: the field 'text' is missing or not text.")
    title = record.get("title") or None
    if title is not None and not isinstance(title, str):
        raise FormatError(f"{path}, line {line}: the field 'title' is not text.")
    identifier = record.get("_id", record.get("id"))
    if isinstance(identifier, (dict, list, bool, float)):
        raise FormatError(f"{path}, line {line}: the id must be text or a whole number.")
    rest = {key: value for key, value in record.items() if key not in ("text", "title", "id", "_id")}
    try:
        check_text(json.dumps(rest, ensure_ascii=False), "The metadata")
        return Document(record["text"], default_id if identifier is None else str(identifier), title, rest)
    except InputError as error:
        raise FormatError(f"{path}, line {line}: {error}") from error
