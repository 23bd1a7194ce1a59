"""Bringing an index up to date: which documents are new, changed or gone, and in which order that is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from headwater.data.documents import Document
from headwater.data.files import documents_in, find_files
from headwater.errors import FormatError, HeadwaterError, InputError

Progress = Callable[[int, int], None]
BATCH_DOCUMENTS = 1000
BATCH_CHARS = 8_000_000
Rows = Callable[[Sequence[tuple[Document, str, str]]], list[dict[str, Any]]]


@dataclass
class Added:
    """What an `add` did, in documents.

    Attributes:
        new: were not there.
        changed: were there with another text, title or metadata.
        unchanged: were there as they are; of files with unchanged bytes nothing is counted.
        removed: are gone from their file, or with it.
        files: files read; skipped: files with unchanged bytes.
        notes: one sentence for each thing left out or guessed.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    files: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class _File:
    """A file that is being read: its path, the hash of its bytes, and the ids it holds."""

    path: str
    hash: str
    ids: set[str] = field(default_factory=set)


class Sync:
    """One writing session on the two tables of an index, under its lock.

    Small files are gathered and written in batches, each in one commit; a large file is written in batches of its own
    after all of it has been checked. A file is entered in the table of files only after its documents are written and
    those it no longer holds are deleted.
    """

    def __init__(self, passages: Any, files: Any, rows: Rows) -> None:
        """`rows` turns (document, hash, source) into rows of the passages table."""
        self._passages, self._files, self._rows = passages, files, rows
        self._added = Added()
        self._waiting: list[tuple[Document, str]] = []  # document, source; of whole files only
        self._complete: list[_File] = []
        self._replaceable: set[str] = set()  # files that are gone, or will be read again
        self._done: dict[str, set[str]] = {}  # files read in this session, and what they hold

    def documents(self, documents: Sequence[Document], progress: Progress | None) -> Added:
        """Add documents that came from no file."""
        blank = sum(not document.text.strip() for document in documents)
        if blank:
            self._note(f"{blank} document{'s' if blank > 1 else ''} without text left out.")
        documents = [document for document in documents if document.text.strip()]
        ids = [str(document.id) for document in documents]
        if len(set(ids)) < len(ids):
            raise InputError(f"The document id {_twice(ids)!r} stands twice; ids must be unique.")
        for part in _parts(ids):
            self._refuse_taken(self._known(part), "")
        for done in range(0, len(documents), BATCH_DOCUMENTS):
            self._write([(document, "") for document in documents[done : done + BATCH_DOCUMENTS]])
            if progress is not None:
                progress(min(done + BATCH_DOCUMENTS, len(documents)), len(documents))
        self._finish()
        return self._added

    def path(self, path: Path, prefix: str, progress: Progress | None) -> Added:
        """Add a file or a folder, and remove what was read there before and is gone."""
        files, self._added.notes = find_files(path)
        root = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
        read = {row["file"]: row["hash"] for row in self._files.search().limit(None).to_list()}
        sources = [str(root / file.relative_to(path)) if path.is_dir() else str(root) for file, _ in files]
        present = set(sources)
        gone = [file for file in read if file not in present and (file == str(root) or root in Path(file).parents)]
        changed: list[tuple[Path, str, _File]] = []
        for (file, name), source in zip(files, sources, strict=True):
            own = _File(source, _hash(file, prefix))
            if read.get(source) == own.hash:
                self._added.skipped += 1
            else:
                changed.append((file, name, own))
        self._replaceable = {own.path for _, _, own in changed} | set(gone)
        try:
            for done, (file, name, own) in enumerate(changed):
                if progress is not None:
                    progress(done, len(changed))
                self._read(file, name, own, prefix)
        except HeadwaterError:
            self._flush()  # the files before the bad one are whole
            self._finish()
            raise
        self._flush()
        self._forget(gone)
        if progress is not None:
            progress(len(changed), len(changed))
        self._finish()
        return self._added

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents; returns how many there were."""
        from lancedb.expr import col

        found = [i for part in _parts(list(dict.fromkeys(ids))) for i in self._known(part)]
        for part in _parts(found):
            self._passages.delete(col("id").isin(part))
        if found:
            self._finish()
        return len(found)

    def _read(self, file: Path, name: str, own: _File, prefix: str) -> None:
        """Check all documents of a file, then put them; a file of many is read twice rather than held."""
        held, size = [], 0
        documents = self._checked(file, name, own, prefix)
        for document in documents:
            held.append(document)
            size += len(document.text)
            if len(held) == BATCH_DOCUMENTS or size > BATCH_CHARS:
                break
        else:
            taken = {str(document.id) for document, _ in self._waiting}
            if not taken.isdisjoint(own.ids) or len(self._waiting) + len(held) > BATCH_DOCUMENTS:
                self._flush()
            self._waiting += [(document, own.path) for document in held]
            self._is_read(own)
            if sum(len(document.text) for document, _ in self._waiting) > BATCH_CHARS:
                self._flush()
            return
        self._flush()
        for _ in documents:  # the rest, checked and let go
            pass
        for part in _parts(sorted(own.ids)):
            self._refuse_taken(self._known(part), own.path)
        self._enter([_File(own.path, "")])
        again = self._checked(file, name, _File(own.path, own.hash), prefix, quiet=True)
        while batch := list(islice(again, BATCH_DOCUMENTS)):
            self._write([(document, own.path) for document in batch])
        self._is_read(own)
        self._flush()

    def _is_read(self, own: _File) -> None:
        self._added.files += 1
        self._complete.append(own)
        self._done[own.path] = own.ids

    def _checked(self, file: Path, name: str, own: _File, prefix: str, quiet: bool = False) -> Iterator[Document]:
        """The documents of a file that are not blank, with their ids noted in `own`."""
        blank = 0
        for document in documents_in(file, name, None if quiet else self._note):
            if not document.text.strip():
                blank += 1
                continue
            identifier = prefix + str(document.id)
            if identifier in own.ids:
                raise FormatError(f"{file}: the document id {identifier!r} stands twice; ids must be unique.")
            own.ids.add(identifier)
            yield Document(document.text, identifier, document.title, document.metadata)
        if blank and not quiet:
            self._note(f"{file}: {blank} document{'s' if blank > 1 else ''} without text left out.")

    def _note(self, text: str) -> None:
        if text not in self._added.notes:
            self._added.notes.append(text)

    def _flush(self) -> None:
        """Write what waits, in this order: documents, deletions, files."""
        batch, self._waiting = self._waiting, []
        files, self._complete = self._complete, []
        refused = None
        if batch:
            known = self._known([str(document.id) for document, _ in batch])
            for place, file in enumerate(files):
                try:
                    self._refuse_taken({name: known[name] for name in file.ids if name in known}, file.path)
                except InputError as error:  # the files before it are whole
                    refused, files = error, files[:place]
                    break
            kept = {file.path for file in files}
            # a file is known, as not yet read, before any document of it is there
            self._enter([_File(file.path, "") for file in files])
            self._write([pair for pair in batch if pair[1] in kept])
        if files:
            self._drop_stale(files)
            self._enter(files)
        if refused is not None:
            raise refused

    def _drop_stale(self, files: Sequence[_File]) -> None:
        """Delete what files held before and hold no more."""
        from lancedb.expr import col

        held = {file.path: file.ids for file in files}
        wanted = col("source").isin(list(held)).and_(col("part").isin([0]))
        rows = self._passages.search().where(wanted).select(["id", "source"]).limit(None).to_list()
        stale = [row["id"] for row in rows if row["id"] not in held[row["source"]]]
        for part in _parts(stale):
            self._passages.delete(col("id").isin(part))
        self._added.removed += len(stale)

    def _enter(self, files: Sequence[_File]) -> None:
        """Enter files with the hash they were read at; without one they will be read again."""
        if not files:
            return
        entries = [{"file": file.path, "hash": file.hash} for file in files]
        self._files.merge_insert("file").when_matched_update_all().when_not_matched_insert_all().execute(entries)

    def _write(self, batch: list[tuple[Document, str]]) -> None:
        """New and changed documents of a batch, replaced in one commit."""
        import pyarrow as pa
        from lancedb.expr import col

        known = self._known([str(document.id) for document, _ in batch])
        fresh = []
        for document, source in batch:
            digest = _hash_document(document)
            before = known.get(str(document.id))
            if before == (digest, source):
                self._added.unchanged += 1
                continue
            self._added.new += before is None
            self._added.changed += before is not None
            fresh.append((document, digest, source))
        if not fresh:
            return
        table = pa.Table.from_pylist(self._rows(fresh), schema=self._passages.schema)
        ids = [str(document.id) for document, _, _ in fresh]
        merge = self._passages.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(col("id").isin(ids)).execute(table)

    def _refuse_taken(self, known: dict[str, tuple[str, str]], source: str) -> None:
        """Raise where a known id belongs to another file than `source` that still holds it, as far as can be seen."""
        for name, (_, before) in known.items():
            if before in ("", source):
                continue
            if before in self._done:
                held = name in self._done[before]
            else:
                held = before not in self._replaceable and Path(before).exists()
            if held:
                raise InputError(
                    f"The document id {name!r} is taken by {before}; give these ids a prefix "
                    "(Index.add_path(..., prefix=), `headwater index add --prefix`)."
                )

    def _known(self, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Hash and source of those ids that are there."""
        from lancedb.expr import col

        wanted = col("id").isin(list(ids)).and_(col("part").isin([0]))
        rows = self._passages.search().where(wanted).select(["id", "hash", "source"]).limit(None).to_list()
        return {row["id"]: (row["hash"], row["source"]) for row in rows}

    def _forget(self, gone: Sequence[str]) -> None:
        """Delete the documents of files that are gone, then the files."""
        from lancedb.expr import col

        for part in _parts(gone):
            documents = col("source").isin(part).and_(col("part").isin([0]))
            self._added.removed += self._passages.count_rows(documents.to_sql())
            self._passages.delete(col("source").isin(part))
            self._files.delete(col("file").isin(part))

    def _finish(self) -> None:
        """Bring the indexes of the tables up to date; searches see the new rows before, but more slowly."""
        self._passages.optimize()
        self._files.optimize()


def _parts(items: Sequence[str], size: int = 1000) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _twice(ids: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _hash(file: Path, prefix: str) -> str:
    """Of a file's bytes and of what stands before its ids."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror or error}.") from error
    return f"{digest.hexdigest()} {prefix}"


def _hash_document(document: Document) -> str:
    parts = [document.text, document.title, dict(document.metadata)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
