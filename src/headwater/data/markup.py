"""The text of .pdf and .html files, through pypdf and trafilatura (extra `docs`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from headwater.data.documents import Document
from headwater.data.text import Note, decode, read_bytes
from headwater.errors import FormatError, MissingExtraError


def read_pdf(file: Path, name: str, note: Note | None = None) -> Iterator[Document]:
    """One document: the text of all pages, an empty line between two; `metadata["pages"]` is where each page starts.

    Raises:
        FormatError: for a damaged file, or one that opens with a password only.
    """
    pypdf = _library("pypdf", file)
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it reports every oddity of a file that it can read
    read_bytes(file)  # its size and permission, before a parser sees it
    try:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise FormatError(f"{file} opens with a password only; save it without one.")
        pages = [(page.extract_text() or "").strip() for page in reader.pages]
        title = (reader.metadata.title if reader.metadata else None) or ""
    except FormatError:
        raise
    except Exception as error:  # pypdf raises its own and a handful of builtin errors on damaged files
        raise FormatError(f"{file} is not a readable PDF file: {_reason(error)}.") from error
    starts, at = [], 0
    for page in pages:
        starts.append(at)
        at += len(page) + 2
    text = _whole("\n\n".join(pages))
    if not text.strip() and note is not None:
        note(f"{file} holds no text, perhaps only scanned pages.")
    yield Document(text, name, _whole(str(title)).strip() or file.stem.replace("_", " "), {"pages": starts})


def read_html(file: Path, name: str, note: Note | None = None) -> Iterator[Document]:
    """One document: the main text of the page, without menus and scripts; all of its text where none stands out."""
    trafilatura = _library("trafilatura", file)
    page = _page(file)
    if not page.strip():
        yield Document("", name)
        return
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    try:
        text = trafilatura.extract(page, include_comments=False, favor_recall=True) or trafilatura.html2txt(page)
        metadata = trafilatura.extract_metadata(page)
    except Exception as error:  # lxml's errors on input it cannot take
        raise FormatError(f"{file} is not a readable HTML file: {_reason(error)}.") from error
    title = getattr(metadata, "title", None) or file.stem.replace("_", " ")
    yield Document(_whole(text or ""), name, _whole(title))


def _page(file: Path) -> str:
    """The text of a page: UTF-8 or marked as such files are; else what the page says of itself, or Latin-1."""
    raw, notes = read_bytes(file), list[str]()
    text = decode(raw, str(file), notes.append)
    said = re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", raw[:4096], re.IGNORECASE) if notes else None
    try:
        return raw.decode(said[1].decode("ascii")) if said else text
    except (LookupError, UnicodeDecodeError):
        return text


def _library(name: str, file: Path) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"Reading {file.suffix} files ({file}) needs {name}: pip install 'headwater[docs]', or convert it to .txt."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def _whole(text: str) -> str:
    """Without halves of characters, which damaged files can yield."""
    return text.encode("utf-8", "replace").decode("utf-8")
