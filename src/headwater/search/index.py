"""`Index`: passages on disk in a LanceDB folder, searched by words (BM25), by vectors, or by both.

    folder/index.json       what the index was made with
    folder/passages.lance   one row per passage; the first one of a document also holds its whole text and metadata
    folder/files.lance      the files that were read, by path, with the hash of their bytes

Every change is one commit of LanceDB, which is there whole or not at all; a file counts as read only after all of its
documents are there. So an interrupted `add` loses nothing that was finished, and running it again goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import InputError, SearchIndexError
from headwater.search.bm25 import Hit
from headwater.search.chunk import passages
from headwater.search.store import META, PASSAGE_CHARS, Embeds, create_folder, lance, open_tables, read_meta
from headwater.search.sync import Added, Progress, Sync
from headwater.search.vectors import VectorIndex, build, fused_rows, kind_of, nearest_rows

LOCK_SECONDS = 10  # another process may be writing
MODES = ("hybrid", "bm25", "dense")
FUSED = 100  # hits of either list that a hybrid search joins


@dataclass(frozen=True)
class IndexInfo:
    """What `Index.info` tells: where it is, what it holds, what made its vectors (None: it has none), how these are
    searched.
    """

    path: str
    documents: int
    passages: int
    files: int
    passage_chars: int
    embedder: dict[str, Any] | None
    vector_index: str | None
    bytes: int


class Index:
    """Documents on disk, found again by words or vectors. Open one with `Index.open`; it closes as a context manager.

    BM25 is LanceDB's (k1 1.2, b 0.75), over title and text: words as Unicode segments them (Chinese or Thai too),
    lower-cased, without accents, not stemmed. Hits are passages: `.document.id` is the document's id and
    `.document.metadata["passage_start"]` where the passage starts in the text that was added.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], tables: tuple[Any, Any], embedder: Embeds | None) -> None:
        """Use `Index.open`."""
        self.folder, self._meta, self._embedder = folder, meta, embedder
        self._passages, self._files = tables
        self._closed = False

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        embedder: Embeds | None = None,
        passage_chars: int | None = None,
        create: bool = True,
    ) -> Index:
        """Open an index, or make one in a new or empty folder.

        Args:
            folder: its folder.
            embedder: makes the vectors of an index that has them; fixed when the index is made.
            passage_chars: longest passage (None: as it was made, 1,000 for a new one); fixed when it is made.
            create: make one where there is none.

        Raises:
            InputError: the folder holds something else, or the index was made with another embedder or passage size.
            SearchIndexError: it is damaged, of a newer version, or cannot be written.
        """
        folder = Path(folder)
        if not (folder / META).is_file():
            if not create:
                raise InputError(f"There is no index in {str(folder)!r}; make one with `headwater index add`.")
            create_folder(folder, embedder, PASSAGE_CHARS if passage_chars is None else passage_chars)
        meta = read_meta(folder / META)
        if passage_chars is not None and passage_chars != meta["passage_chars"]:
            raise InputError(
                f"The index {str(folder)!r} was made with passages of {meta['passage_chars']} characters, not "
                f"{passage_chars}; leave passage_chars out or make a new index."
            )
        made_with = meta["embedder"]
        if embedder is not None and (made_with is None or made_with["fingerprint"] != embedder.fingerprint):
            other = "without vectors" if made_with is None else f"with the vectors of {made_with['name']}"
            raise InputError(f"The index {str(folder)!r} was made {other}; make a new one for {embedder.name}.")
        with lance(folder, "opened"):
            tables = open_tables(folder, meta)
        return cls(folder, meta, tables, embedder)

    def add(self, documents: Iterable[DocumentLike], progress: Progress | None = None) -> Added:
        """Add documents, or replace those that are there under the same id; unchanged ones are left alone.

        A document without an id is named by a hash of its title and text.

        Raises:
            InputError: an id that stands twice, or a blank or missing list.
            SearchIndexError: another process is writing, or the disk refuses.
        """
        given = [
            d if d.id is not None else Document(d.text, _digest(d), d.title, d.metadata)
            for d in as_documents(documents)
        ]
        for document in given:
            _json(document)
        with self._writing() as sync:
            return sync.documents(given, progress)

    def add_path(self, path: str | Path, prefix: str = "", progress: Progress | None = None) -> Added:
        """Read a file or folder (types: `headwater.data.files.READERS`); afterwards the index holds what it holds.

        Files with unchanged bytes are skipped, changed ones replaced, and the documents of files that are gone from
        the folder deleted. Each file is there whole or not at all.

        Args:
            path: a file, a folder, or a BEIR folder.
            prefix: put before every id, for folders whose files have the same names.
            progress: called with (files done, files in all).

        Raises:
            InputError: there is nothing at the path, or an id of it belongs to a file elsewhere.
            FormatError: a file does not hold what its type promises; the files before it are kept.
            SearchIndexError: another process is writing, or the disk refuses.
        """
        with self._writing() as sync:
            return sync.path(Path(path), prefix, progress)

    def search(self, query: str, k: int = 10, mode: str = "hybrid") -> list[Hit]:
        """The k best passages, best first.

        Args:
            query: words or a question; nothing in it is query syntax.
            k: how many.
            mode: "bm25" (words), "dense" (vectors; score: cosine), or "hybrid" (both lists joined by reciprocal rank
                fusion; in an index without vectors, or opened without its embedder, the same as "bm25").

        Raises:
            InputError: a blank query, k below 1, an unknown mode, or "dense" without vectors.
        """
        text = check_query(query)
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}.")
        if mode not in MODES:
            raise InputError(f"Unknown mode {mode!r}; use one of {', '.join(MODES)}.")
        vectors = self._embedder is not None and self._meta["embedder"] is not None
        if mode == "dense" and not vectors:
            raise InputError("This index has no vectors, or was opened without embedder=; use mode='bm25'.")
        with self._reading():
            from lancedb.query import MatchQuery

            words = MatchQuery(text, "words")
            if mode == "bm25" or not vectors:
                rows = self._passages.search(words, query_type="fts").limit(k).to_list()
                found = [(float(row["_score"]), row) for row in rows]
            else:
                assert self._embedder is not None
                vector = np.asarray(self._embedder.embed([text], "query"), np.float32)[0]
                if mode == "dense":
                    found = [(1.0 - float(row["_distance"]), row) for row in nearest_rows(self._passages, vector, k)]
                else:
                    rows = fused_rows(self._passages, vector, words, k, FUSED)
                    found = [(float(row["_relevance_score"]), row) for row in rows]
            found = sorted(found, key=lambda pair: (-pair[0], pair[1]["id"], pair[1]["start"]))[:k]
            metadata = self._metadata([row["id"] for _, row in found])
        return [Hit(place, score, _passage(row, metadata[row["id"]])) for place, (score, row) in enumerate(found)]

    def _metadata(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Of documents, which their first passages hold."""
        from lancedb.expr import col

        wanted = col("id").isin(list(dict.fromkeys(ids))).and_(col("part").isin([0]))
        rows = self._passages.search().where(wanted).select(["id", "metadata"]).limit(None).to_list() if ids else []
        return {row["id"]: json.loads(row["metadata"]) for row in rows}

    def document(self, id: str) -> Document:
        """The whole document of this id, as it was added.

        Raises:
            InputError: there is none.
        """
        with self._reading():
            from lancedb.expr import col, lit

            wanted = col("id").eq(lit(id)).and_(col("part").eq(lit(0)))
            rows = self._passages.search().where(wanted).limit(1).to_list()
        if not rows:
            raise InputError(f"The index holds no document {id!r}.")
        return Document(rows[0]["body"], id, rows[0]["title"], json.loads(rows[0]["metadata"]))

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id; returns how many there were. Their file is not read again until it changes."""
        if isinstance(ids, str):
            raise InputError("Expected a list of ids, got a single one; wrap it in a list.")
        with self._writing() as sync:
            return sync.delete(list(ids))

    def index_vectors(self, kind: str) -> VectorIndex:
        """Choose how the vectors are searched; documents added later are found, too.

        Args:
            kind: "exact" (every vector, as in a new index), "ivf-pq" (compressed, for many millions) or "hnsw" (a
                graph). The last two are quicker in large indexes and may miss neighbours; what they find is scored
                exactly.

        Returns:
            The kind with its measured recall of the ten nearest neighbours.

        Raises:
            InputError: an unknown kind, an index without vectors, or too few passages.
            SearchIndexError: another process is writing, or the disk refuses.
        """
        if self._meta["embedder"] is None:
            raise InputError(f"The index {str(self.folder)!r} has no vectors.")
        with self._locked():
            return build(self._passages, kind)

    def info(self) -> IndexInfo:
        """Counts, settings and size on disk."""
        with self._reading():
            size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
            return IndexInfo(
                str(self.folder),
                self._passages.count_rows("part = 0"),
                self._passages.count_rows(),
                self._files.count_rows(),
                self._meta["passage_chars"],
                self._meta["embedder"],
                None if self._meta["embedder"] is None else kind_of(self._passages),
                size,
            )

    def close(self) -> None:
        """Let go of the folder; the index cannot be used any more."""
        self._closed = True

    def __enter__(self) -> Index:
        """The index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._closed:
            raise InputError("The index is closed; open it again with Index.open.")
        with lance(self.folder, "read"):
            yield

    @contextmanager
    def _writing(self) -> Iterator[Sync]:
        """One writer at a time; other processes may read meanwhile."""
        if self._meta["embedder"] is not None and self._embedder is None and not self._closed:
            name = self._meta["embedder"]["name"]
            raise InputError(
                f"The index {str(self.folder)!r} has vectors of {name}; open it with embedder= to change it."
            )
        with self._locked():
            yield Sync(self._passages, self._files, self._rows)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        if self._closed:
            raise InputError("The index is closed; open it again with Index.open.")
        with lance(self.folder, "written"):
            try:
                with FileLock(self.folder / ".lock", timeout=LOCK_SECONDS):
                    for table in (self._passages, self._files):
                        table.checkout_latest()
                    yield
            except Timeout:
                raise SearchIndexError(f"Another process is writing to the index {str(self.folder)!r}.") from None

    def _rows(self, documents: Sequence[tuple[Document, str, str]]) -> list[dict[str, Any]]:
        """Rows of documents, each with its hash and the file it came from."""
        rows = []
        for document, digest, source in documents:
            shared = {
                "id": document.id,
                "title": document.title,
                "hash": digest,
                "source": source,
            }
            for part, passage in enumerate(passages(document, self._meta["passage_chars"])):
                words = f"{document.title}\n{passage.text}" if document.title else passage.text
                row = {
                    **shared,
                    "key": f"{document.id}\x1f{part}",
                    "part": part,
                    "start": passage.start,
                    "words": words,
                }
                whole = {"body": document.text, "metadata": _json(document)} if part == 0 else {}
                rows.append({"body": None, "metadata": None, **row, **whole})
        if self._embedder is not None and rows:
            vectors = self._embedder.embed([str(row["words"]) for row in rows], "document")
            for row, vector in zip(rows, np.asarray(vectors, np.float32), strict=True):
                row["vector"] = vector
        return rows


def _digest(document: Document) -> str:
    return hashlib.sha256(f"{document.title or ''}\x1f{document.text}".encode()).hexdigest()[:16]


def _json(document: Document) -> str:
    try:
        return json.dumps(dict(document.metadata), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"The metadata of document {document.id!r} cannot be kept as JSON: {error}.") from None


def _passage(row: dict[str, Any], metadata: dict[str, Any]) -> Document:
    title = row["title"]
    text = row["words"][len(title) + 1 :] if title else row["words"]
    return Document(text, row["id"], title, {**metadata, "passage_start": row["start"]})
