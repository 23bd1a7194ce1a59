"""Files and folders into documents, BEIR collections and ranking examples.

Every reader says what it could not use: a line that does not hold its format is a `FormatError` with file and line,
files of unknown type are counted by suffix and named in `Loaded.notes`.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.data.documents import Document, RankingExample
from headwater.errors import FormatError, InputError

TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIXES = (".jsonl",)
SUFFIXES = TEXT_SUFFIXES + JSONL_SUFFIXES
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Loaded:
    """What a path held.

    Attributes:
        documents: in path order, with unique ids.
        notes: one sentence for each thing left out or guessed (unknown types, empty files, encodings).
    """

    documents: list[Document]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BeirData:
    """A BEIR collection.

    Attributes:
        documents: the corpus.
        queries: query id -> text.
        qrels: query id -> document id -> grade, of one split.
    """

    documents: list[Document]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def read_documents(path: str | Path) -> Loaded:
    """Read a .txt, .md or .jsonl file, or every such file below a folder.

    A text file is one document with its decoded text unchanged (citations are offsets into it), its path below the
    folder as id and its first markdown heading or file name as title. A line of a .jsonl file is one document with
    the fields text, id or _id, and title; other fields become metadata. Of a BEIR folder the corpus is read.

    Raises:
        InputError: for a path that does not exist or cannot be read.
        FormatError: for a file of unknown type, a bad line, a duplicate id, or nothing to read at all.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(f"There is no file or folder {str(root)!r}.")
    if root.is_dir() and (root / "corpus.jsonl").is_file() and (root / "queries.jsonl").is_file():
        files, notes = [root / "corpus.jsonl"], list[str]()
    elif root.is_dir():
        files, notes = _walk(root)
    elif root.suffix.lower() in SUFFIXES:
        files, notes = [root], list[str]()
    else:
        raise FormatError(f"{root}: cannot read files of type {root.suffix or 'none'!r}; known: {', '.join(SUFFIXES)}.")
    documents: list[Document] = []
    empty = 0
    for file in files:
        name = file.relative_to(root).as_posix() if root.is_dir() else file.name
        if file.suffix.lower() in JSONL_SUFFIXES:
            found = [_json_document(record, f"{name}:{line}", file, line) for line, record in _jsonl(file, notes)]
        else:
            text = read_text(file, notes.append)
            found = [Document(text, id=name, title=_title(text, file))] if text.strip() else [Document("", id=name)]
        empty += sum(document.blank for document in found)
        documents += [document for document in found if not document.blank]
    if empty:
        notes.append(f"{empty} empty document{'s' if empty > 1 else ''} left out.")
    if not documents:
        reasons = " ".join(notes)
        raise FormatError(f"{root} holds no documents to read (known types: {', '.join(SUFFIXES)}). {reasons}".strip())
    _refuse_duplicates(documents, root)
    return Loaded(documents, notes)


def read_text(path: Path, note: Callable[[str], object] | None = None) -> str:
    """Decode one text file: UTF-8 (with or without a mark), UTF-16 or UTF-32 with a mark, else Latin-1 with a note.

    Raises:
        InputError: when the file cannot be opened.
        FormatError: when it is binary, or does not hold the encoding that its mark promises.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    return decode(raw, str(path), note)


def decode(raw: bytes, path: str, note: Callable[[str], object] | None = None) -> str:
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


def parse_lines(text: str, name: str = "standard input") -> list[Document]:
    """One document per line: plain text, or a JSON object with a text field (then every line has to be one).

    Raises:
        FormatError: when nothing is left, a line is not what the first one was, or an id stands twice.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise FormatError(f"{name} holds no documents; give one per line.")
    if not lines[0][1].startswith("{"):
        return [Document(line, id=str(number)) for number, line in lines]
    documents = [
        _json_document(_json_object(line, Path(name), number), str(number), Path(name), number)
        for number, line in lines
    ]
    _refuse_duplicates(documents, Path(name))
    return documents


def read_beir(folder: str | Path, split: str = "test") -> BeirData:
    """Read corpus.jsonl, queries.jsonl and qrels/<split>.tsv.

    Raises:
        InputError: when one of the files is missing.
        FormatError: for a bad line, or a judgement of a query that does not exist.
    """
    root = Path(folder)
    qrels_path = root / "qrels" / f"{split}.tsv"
    for path in (root / "corpus.jsonl", root / "queries.jsonl", qrels_path):
        if not path.is_file():
            raise InputError(f"{root} is not a BEIR folder with the split {split!r}: {path.name} is missing.")
    documents = read_documents(root).documents
    queries: dict[str, str] = {}
    for line, record in _jsonl(root / "queries.jsonl", []):
        query = _json_document(record, str(line), root / "queries.jsonl", line)
        if query.id in queries:
            raise FormatError(f"{root / 'queries.jsonl'}, line {line}: query id {query.id!r} stands twice.")
        queries[str(query.id)] = query.text
    qrels: dict[str, dict[str, int]] = {}
    for line, text in enumerate(read_text(qrels_path).splitlines(), 1):
        fields = text.split("\t")
        if not text.strip() or (line == 1 and fields[-1].strip() == "score"):
            continue
        try:
            query_id, document_id, grade = fields[0], fields[1], int(fields[2])
        except (IndexError, ValueError):
            raise FormatError(f"{qrels_path}, line {line}: expected query id, document id, grade by tabs.") from None
        if query_id not in queries:
            raise FormatError(f"{qrels_path}, line {line}: there is no query {query_id!r} in queries.jsonl.")
        qrels.setdefault(query_id, {})[document_id] = grade
    if not qrels:
        raise FormatError(f"{qrels_path} holds no judgements.")
    return BeirData(documents, queries, qrels)


def read_examples(path: str | Path) -> list[RankingExample]:
    """Read ranking examples: one JSON object per line.

    `{"query": str, "documents": [str | {"text", "id", "title"}], "relevant": [id or index] | {id: grade},
    "id": str, "group": str}`; the last two may be left out.

    Raises:
        InputError: when there is no such file.
        FormatError: for a line that is not such an object; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no examples file {str(path)!r}.")
    examples = []
    for line, record in _jsonl(path, []):
        for key, kind in (("query", str), ("documents", list), ("relevant", (list, dict))):
            if not isinstance(record.get(key), kind):
                raise FormatError(f"{path}, line {line}: the field {key!r} is missing or of the wrong kind.")
        documents = [
            Document(item) if isinstance(item, str) else _json_document(item, str(index), path, line)
            for index, item in enumerate(record["documents"])
        ]
        known = {key: str(record[key]) for key in ("id", "group") if record.get(key) is not None}
        try:
            examples.append(RankingExample(record["query"], documents, record["relevant"], **known))
        except InputError as error:
            raise FormatError(f"{path}, line {line}: {error}") from error
    if not examples:
        raise FormatError(f"{path} holds no examples.")
    return examples


def _walk(root: Path) -> tuple[list[Path], list[str]]:
    """Readable files below a folder in path order, and what was left out."""
    files: list[Path] = []
    unknown: Counter[str] = Counter()
    hidden = 0
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            continue
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            hidden += 1
        elif path.suffix.lower() in SUFFIXES:
            files.append(path)
        else:
            unknown[path.suffix.lower() or "(no suffix)"] += 1
    notes = []
    if unknown:
        kinds = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(unknown.items()))
        notes.append(f"{unknown.total()} file{'s' if unknown.total() > 1 else ''} of unknown type left out: {kinds}.")
    if hidden:
        notes.append(f"{hidden} hidden file{'s' if hidden > 1 else ''} left out.")
    return files, notes


def _jsonl(path: Path, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    # Split on \n only: JSON strings may hold other line separators (U+2028) unescaped.
    for number, line in enumerate(read_text(path, notes.append).split("\n"), 1):
        if line.strip():
            yield number, _json_object(line, path, number)


def _json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or ("nested too deep" if isinstance(error, RecursionError) else str(error))
        raise FormatError(f"{path}, line {number}: not valid JSON ({reason}).") from None
    if not isinstance(record, dict):
        raise FormatError(f"{path}, line {number}: expected a JSON object, got {type(record).__name__}.")
    return record


def _json_document(record: object, default_id: str, path: Path, line: int) -> Document:
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
        return Document(record["text"], default_id if identifier is None else str(identifier), title, rest)
    except InputError as error:
        raise FormatError(f"{path}, line {line}: {error}") from error


def _title(text: str, path: Path) -> str:
    if path.suffix.lower() == ".md":
        heading = next((line for line in text.lstrip().splitlines() if line.strip()), "")
        if heading.startswith("#") and heading.strip("# \t"):
            return heading.strip("# \t")
    return path.stem.replace("_", " ")


def _refuse_duplicates(documents: list[Document], root: Path) -> None:
    seen: set[str | None] = set()
    for document in documents:
        if document.id in seen:
            raise FormatError(f"{root}: the document id {document.id!r} stands twice; ids must be unique.")
        seen.add(document.id)
