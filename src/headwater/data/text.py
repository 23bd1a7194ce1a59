"""Bytes into text: which encoding a file is in, and one clear error where it is none."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

from headwater.errors import FormatError, InputError

Note = Callable[[str], object]
MAX_BYTES = 512 * 2**20  # of one document's file, or one line of a .jsonl file
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        InputError: when it cannot be opened or is larger than 512 MiB.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(
                f"{path} has {size / 2**20:.0f} MiB, more than the {MAX_BYTES >> 20} that one file may have; split it, "
                "or make it a .jsonl file with a document per line."
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error


def read_text(path: Path, note: Note | None = None) -> str:
    """Decode one text file: UTF-8 (with or without a mark), UTF-16 or UTF-32 with a mark, else Latin-1 with a note.

    Raises:
        InputError: when the file cannot be opened or is too large.
        FormatError: when it is binary, or does not hold the encoding that its mark promises.
    """
    return decode(read_bytes(path), str(path), note)


def decode(raw: bytes, path: str, note: Note | None = None) -> str:
    """Bytes to text, as `read_text` does; `path` names them in errors and notes."""
    encoding = next((name for mark, name in _BOMS if raw.startswith(mark)), None)
    try:
        if encoding is not None:
            return raw.decode(encoding)
        if b"\0" in raw:
            raise FormatError(f"{path} is binary, not text (byte 0 at offset {raw.index(0)}).")
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise FormatError(f"{path} starts as {encoding} but byte {error.start} does not fit it.") from error
    if note is not None:
        note(f"{path} is not UTF-8; read as Latin-1.")
    return raw.decode("latin-1")


def lines(path: Path, note: Note | None = None) -> Iterator[tuple[int, str]]:
    r"""Numbered lines of a file, from 1, without holding it; only \n ends a line (JSON strings may hold U+2028).

    A file in UTF-16 or UTF-32 is read whole. Raises what `read_text` raises.
    """
    try:
        with path.open("rb") as stream:
            start = stream.peek(4)[:4]
            if any(start.startswith(mark) for mark, name in _BOMS if name != "utf-8-sig"):
                yield from enumerate(read_text(path, note).split("\n"), 1)
                return
            said: list[str] = []
            for number, raw in enumerate(iter(lambda: stream.readline(MAX_BYTES), b""), 1):
                if len(raw) == MAX_BYTES:
                    raise FormatError(f"{path}, line {number}: longer than {MAX_BYTES >> 20} MiB.")
                yield number, decode(raw, f"{path}, line {number}", said.append).rstrip("\n")
                if said and note is not None:
                    note(said[0])
                    note = None  # once is enough
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
