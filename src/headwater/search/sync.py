"""Bringing an index up to date: which documents are new, changed or gone, and in which order that is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
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

    Documents are gathered over files and written in batches, each in one commit; a file is entered in the table of
    files only after its documents are written and those it no longer holds are deleted.
    """

    def __init__(self, passages: Any, files: Any, rows: Rows) -> None:
        """`rows` turns (document, hash, source) into rows of the passages table."""
        self._passages, self._files, self._rows = passages, files, rows
        self._added = Added()
        self._waiting: list[tuple[Document, str]] = []  # document, source
        self._chars = 0
        self._complete: list[_File] = []
        self._replaceable: set[str] = set()  # files whose documents may move to another file

    def documents(self, documents: Sequence[Document], progress: Progress | None) -> Added:
        """Add documents that came from no file."""
        seen: set[str] = set()
        for document in documents:
            if document.id in seen:
                raise InputError(f"The document id {document.id!r} stands twice; ids must be unique.")
            seen.add(str(document.id))
        for done, document in enumerate(documents, 1):
            self._put(document, "")
            if progress is not None:
                progress(done, len(documents))
        self._flush()
        self._finish()
        return self._added

    def path(self, path: Path, prefix: str, progress: Progress | None) -> Added:
        """Add a file or a folder, and remove what was read there before and is gone."""
        files, self._added.notes = find_files(path)
        root = path.resolve()
        read = {row["file"]: row["hash"] for row in self._files.search().limit(None).to_list()}
        present = {str(file.resolve()) for file, _ in files}
        gone = [file for file in read if file not in present and (file == str(root) or root in Path(file).parents)]
        changed: list[tuple[Path, str, _File]] = []
        for file, name in files:
            own = _File(str(file.resolve()), _hash(file))
            if read.get(own.path) == own.hash:
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
        held = list(islice(self._checked(file, name, own, prefix), BATCH_DOCUMENTS))
        if len(held) < BATCH_DOCUMENTS:
            chosen: Iterable[Document] = held
        else:
            whole = _File(own.path, own.hash)
            for _ in self._checked(file, name, whole, prefix):
                pass
            own.ids.clear()
            chosen = self._checked(file, name, own, prefix, quiet=True)
        self._replaceable.discard(own.path)
        for document in chosen:
            self._put(document, own.path)
        self._complete.append(own)
        self._added.files += 1

    def _checked(self, file: Path, name: str, own: _File, prefix: str, quiet: bool = False) -> Iterator[Document]:
        """The documents of a file that are not blank, with their ids noted in `own`."""
        blank = 0
        for document in documents_in(file, name, None if quiet else self._note):
            if document.blank or not document.text.strip():
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

    def _put(self, document: Document, source: str) -> None:
        self._waiting.append((document, source))
        self._chars += len(document.text)
        if len(self._waiting) >= BATCH_DOCUMENTS or self._chars >= BATCH_CHARS:
            self._flush()

    def _flush(self) -> None:
        """Write what waits, in this order: documents, deletions, files."""
        from lancedb.expr import col

        batch, self._waiting, self._chars = self._waiting, [], 0
        if batch:
            self._write(batch)
        files, self._complete = self._complete, []
        if not files:
            return
        held = {file.path: file.ids for file in files}
        wanted = col("source").isin(list(held)).and_(col("part").isin([0]))
        rows = self._passages.search().where(wanted).select(["id", "source"]).limit(None).to_list()
        stale = [row["id"] for row in rows if row["id"] not in held[row["source"]]]
        for part in _parts(stale):
            self._passages.delete(col("id").isin(part))
        self._added.removed += len(stale)
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
            if before is not None and before[1] not in ("", source) and before[1] not in self._replaceable:
                raise InputError(
                    f"The document id {document.id!r} is taken by {before[1]}; give these ids a prefix "
                    "(Index.add_path(..., prefix=), `headwater index add --prefix`)."
                )
            self._added.new += before is None
            self._added.changed += before is not None
            fresh.append((document, digest, source))
        if not fresh:
            return
        table = pa.Table.from_pylist(self._rows(fresh), schema=self._passages.schema)
        ids = [str(document.id) for document, _, _ in fresh]
        merge = self._passages.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(col("id").isin(ids)).execute(table)

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


def _hash(file: Path) -> str:
    try:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror or error}.") from error


def _hash_document(document: Document) -> str:
    parts = [document.text, document.title, dict(document.metadata)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
