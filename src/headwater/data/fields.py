"""JSON files of questions, gzipped or not, and fields that are what they should be."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.data.documents import check_text
from headwater.data.records import json_object
from headwater.data.text import decode, read_bytes
from headwater.errors import FormatError, InputError


@dataclass(frozen=True)
class Record:
    """A JSON object and where it stands, so that every error names the place.

    Attributes:
        fields: the object.
        where: file and line or number, for messages.
    """

    fields: Mapping[str, Any]
    where: str

    def text(self, name: str) -> str:
        """A field that is text and not blank.

        Raises:
            FormatError: it is missing, blank, something else, or holds half a character.
        """
        return self._checked(self.fields.get(name), f"the field {name!r}")

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that is a list of texts, none of them blank. Raises `FormatError`."""
        return tuple(self._checked(each, f"an element of {name!r}") for each in self.list(name))

    def list(self, name: str) -> Sequence[Any]:
        """A field that is a list. Raises `FormatError`."""
        found = self.fields.get(name)
        if not isinstance(found, list):
            raise self.wrong(f"the field {name!r} is missing or not a list")
        return found

    def records(self, name: str) -> Sequence[Record]:
        """A field that is a list of objects. Raises `FormatError`."""
        found = [Record(each, f"{self.where}, {name} {number}") for number, each in enumerate(self.list(name), 1)]
        for each in found:
            if not isinstance(each.fields, Mapping):
                raise each.wrong(f"expected an object, got {type(each.fields).__name__}")
        return found

    def yes(self, name: str) -> bool:
        """A field that is true or false; missing counts as false. Raises `FormatError`."""
        found = self.fields.get(name, False)
        if not isinstance(found, bool):
            raise self.wrong(f"the field {name!r} is neither true nor false")
        return found

    def wrong(self, reason: str) -> FormatError:
        """The error that says what is wrong here."""
        return FormatError(f"{self.where}: {reason}.")

    def _checked(self, text: object, what: str) -> str:
        if not isinstance(text, str) or not text.strip():
            raise self.wrong(f"{what} is missing, blank or not text")
        try:
            return check_text(text, what)
        except InputError as error:
            raise self.wrong(str(error).rstrip(".")) from error


def read_source(path: Path) -> str:
    """The text of a file, unpacked where its name ends in .gz.

    Raises:
        InputError: it cannot be opened.
        FormatError: it is binary, or no whole gzip file.
    """
    raw = read_bytes(path)
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise FormatError(f"{path} is not a whole gzip file ({error}).") from error
    return decode(raw, str(path))


def read_record(path: Path) -> Record:
    """A file that is one JSON object. Raises what `read_source` raises, and `FormatError` for anything else."""
    found = _parsed(read_source(path), path)
    if not isinstance(found, dict):
        raise FormatError(f"{path}: expected a JSON object, got {type(found).__name__}.")
    return Record(found, str(path))


def read_records(path: Path) -> list[Record]:
    """The objects of a file: a JSON list of them, or one per line.

    Raises:
        InputError: the file cannot be opened.
        FormatError: it is not JSON, something in it is not an object, or it holds nothing.
    """
    text = read_source(path)
    if text.lstrip().startswith("["):
        found = list(Record({"record": _parsed(text, path)}, str(path)).records("record"))
    else:  # only \n ends a line: JSON strings may hold U+2028
        numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        found = [Record(json_object(line, path, number), f"{path}, line {number}") for number, line in numbered]
    if not found:
        raise FormatError(f"{path} holds no records.")
    return found


def distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts without repetitions, in their order."""
    return tuple(dict.fromkeys(texts))


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FormatError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not valid JSON ({error}).") from None
