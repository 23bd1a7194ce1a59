"""Files and folders into documents, by file type.

Every reader says what it could not use: a line that does not hold its format is a `FormatError` with file and line,
files of unknown type are counted by suffix and named in the notes.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headwater.data.documents import Document
from headwater.data.markup import read_html, read_pdf
from headwater.data.records import json_document, json_lines
from headwater.data.text import Note, read_text
from headwater.errors import FormatError, InputError

TEXT_COLUMNS = ("text", "content", "body", "passage")


@dataclass(frozen=True)
class Loaded:
    """What a path held.

    Attributes:
        documents: in path order, with unique ids.
        notes: one sentence for each thing left out or guessed (unknown types, empty files, encodings).
    """

    documents: list[Document]
    notes: list[str] = field(default_factory=list)


def read_documents(path: str | Path) -> Loaded:
    """Read a file, or every file of a known type below a folder (`READERS`).

    A text file is one document with its decoded text unchanged (citations are offsets into it), its path below the
    folder as id and its first markdown heading or file name as title; of a .pdf or .html file the text is what the
    extraction gives. A line of a .jsonl file is one document with the fields text, id or _id, and title; a row of a
    .csv or .tsv file likewise, by its header line. Other fields become metadata. Of a BEIR folder the corpus is read.

    Raises:
        InputError: for a path that does not exist or cannot be read.
        FormatError: for a file of unknown type, a bad line, a duplicate id, or nothing to read at all.
        MissingExtraError: for a .pdf or .html file without the extra `docs`.
    """
    files, notes = find_files(path)
    documents: list[Document] = []
    empty = 0
    for file, name in files:
        for document in documents_in(file, name, notes.append):
            if document.blank:
                empty += 1
            else:
                documents.append(document)
    if empty:
        notes.append(f"{empty} empty document{'s' if empty > 1 else ''} left out.")
    if not documents:
        raise FormatError(f"{path} holds no documents to read (known types: {KNOWN}). {' '.join(notes)}".strip())
    refuse_duplicates(documents, Path(path))
    return Loaded(documents, notes)


def find_files(path: str | Path) -> tuple[list[tuple[Path, str]], list[str]]:
    """The readable files at a path, each with its name below it, in path order; and what was left out.

    Raises:
        InputError: for a path that does not exist.
        FormatError: for a file of unknown type.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(f"There is no file or folder {str(root)!r}.")
    if not root.is_dir():
        if root.suffix.lower() not in READERS:
            raise FormatError(f"{root}: cannot read files of type {root.suffix or 'none'!r}; known: {KNOWN}.")
        return [(root, root.name)], []
    if (root / "corpus.jsonl").is_file() and (root / "queries.jsonl").is_file():
        return [(root / "corpus.jsonl", "corpus.jsonl")], []
    files: list[tuple[Path, str]] = []
    unknown: Counter[str] = Counter()
    hidden = 0
    linked: list[str] = []
    for each in sorted(_walk(root, linked)):
        name = each.relative_to(root)
        if any(part.startswith(".") for part in name.parts):
            hidden += 1
        elif each.suffix.lower() in READERS:
            files.append((each, name.as_posix()))
        else:
            unknown[each.suffix.lower() or "(no suffix)"] += 1
    notes = []
    if unknown:
        kinds = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(unknown.items()))
        notes.append(f"{unknown.total()} file{'s' if unknown.total() > 1 else ''} of unknown type left out: {kinds}.")
    if hidden:
        notes.append(f"{hidden} hidden file{'s' if hidden > 1 else ''} left out.")
    notes += [f"The linked folder {name} was not entered; add it by its own path." for name in sorted(linked)]
    return files, notes


def _walk(root: Path, linked: list[str]) -> Iterator[Path]:
    """Every file below a folder; links to folders are not followed but listed."""

    def refuse(error: OSError) -> None:
        raise InputError(f"Cannot read {error.filename}: {error.strerror or error}.") from error

    for folder, folders, names in os.walk(root, onerror=refuse):
        here = Path(folder)
        linked += [str((here / name).relative_to(root)) for name in folders if (here / name).is_symlink()]
        yield from (here / name for name in names)


def documents_in(file: Path, name: str, note: Note | None = None) -> Iterator[Document]:
    """The documents of one file; `name` is the id of a document without an own one, with its line where there are many.

    Raises:
        InputError: when the file cannot be read.
        FormatError: when it does not hold what its suffix promises.
        MissingExtraError: for a .pdf or .html file without the extra `docs`.
    """
    return READERS[file.suffix.lower()](file, name, note)


def refuse_duplicates(documents: list[Document], root: Path) -> None:
    """Raise `FormatError` where an id stands twice."""
    seen: set[str | None] = set()
    for document in documents:
        if document.id in seen:
            raise FormatError(f"{root}: the document id {document.id!r} stands twice; ids must be unique.")
        seen.add(document.id)


def _text(file: Path, name: str, note: Note | None) -> Iterator[Document]:
    text = read_text(file, note)
    yield Document(text, name, _title(text, file)) if text.strip() else Document("", name)


def _title(text: str, path: Path) -> str:
    if path.suffix.lower() == ".md":
        heading = next((line for line in text.lstrip().splitlines() if line.strip()), "")
        if heading.startswith("#") and heading.strip("# \t"):
            return heading.strip("# \t")
    return path.stem.replace("_", " ")


def _jsonl(file: Path, name: str, note: Note | None) -> Iterator[Document]:
    for line, record in json_lines(file, note):
        yield json_document(record, f"{name}:{line}", file, line)


def _table(file: Path, name: str, note: Note | None) -> Iterator[Document]:
    """Rows of a .csv or .tsv file; the header line names the columns."""
    text = read_text(file, note)
    if not text.strip():
        return
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows = csv.DictReader(
        io.StringIO(text, newline=""), delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True
    )
    try:
        columns = {(column or "").strip().lower(): column for column in rows.fieldnames or []}
        wanted = next((columns[column] for column in TEXT_COLUMNS if column in columns), None)
        if wanted is None:
            raise FormatError(
                f"{file}: no column is called {', '.join(TEXT_COLUMNS[:-1])} or {TEXT_COLUMNS[-1]}; the header line "
                f"has {', '.join(map(repr, columns)) or 'nothing'}."
            )
        own, title = columns.get("_id", columns.get("id")), columns.get("title")
        for row in rows:
            line = rows.line_num
            if None in row or row[wanted] is None:
                raise FormatError(f"{file}, line {line}: the row has another number of fields than the header line.")
            identifier = (row[own] or "").strip() if own else ""
            rest = {key: value for key, value in row.items() if key not in (wanted, own, title)}
            yield Document(row[wanted], identifier or f"{name}:{line}", (row[title] or None) if title else None, rest)
    except csv.Error as error:
        raise FormatError(f"{file}, line {rows.line_num}: not valid CSV ({error}).") from error


READERS: dict[str, Callable[[Path, str, Note | None], Iterator[Document]]] = {
    ".txt": _text,
    ".md": _text,
    ".jsonl": _jsonl,
    ".csv": _table,
    ".tsv": _table,
    ".pdf": read_pdf,
    ".html": read_html,
    ".htm": read_html,
}
KNOWN = ", ".join(READERS)
