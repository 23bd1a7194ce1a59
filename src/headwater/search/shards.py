"""Vectors of a large collection on disk, shard by shard; an interrupted run goes on behind the last whole shard.

folder/manifest.json    what made the vectors, of what, and how many
folder/00000.npy        float16 [rows, dimension]; folder/00000.json: the ids of the rows
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.atomic import write_text
from headwater.data.documents import Document, DocumentLike, as_documents
from headwater.errors import FormatError, InputError
from headwater.search.embedder import KINDS, Embedder, Progress, embedded

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SHARD_ROWS = 50_000


@dataclass(frozen=True)
class Vectors:
    """Embedded texts.

    Attributes:
        ids: one per row, in the order of the rows.
        shards: float16 `[rows, dimension]` each, mapped from their files.
        manifest: what made them.
    """

    ids: list[str]
    shards: list[np.ndarray]
    manifest: dict[str, Any]

    def array(self) -> np.ndarray:
        """All rows in memory, float32 `[rows, dimension]`."""
        return np.concatenate([np.asarray(shard, np.float32) for shard in self.shards])


def write_vectors(
    embedder: Embedder,
    documents: Iterable[DocumentLike],
    folder: str | Path,
    kind: str = "document",
    shard_rows: int = SHARD_ROWS,
    progress: Progress | None = None,
) -> Vectors:
    """Embed texts into a folder; called again after an interruption, go on.

    Args:
        embedder: makes the vectors.
        documents: documents or strings; blank ones are left out, those without an id are named by their place.
        folder: new, empty, or from the same call.
        kind: "query" or "document".
        shard_rows: rows of a shard.
        progress: called with (texts done, texts in all).

    Raises:
        InputError: nothing to embed, an id twice, or a folder that holds something else.
        FormatError: the folder's manifest is damaged.
    """
    if shard_rows < 1:
        raise InputError(f"shard_rows must be at least 1, got {shard_rows}.")
    if kind not in KINDS:
        raise InputError(f"Unknown kind of text {kind!r}; use one of {', '.join(KINDS)}.")
    given = [
        document if document.id is not None else Document(document.text, str(place), document.title)
        for place, document in enumerate(as_documents(documents))
    ]
    rows = [given[place] for place in embedded(given)]
    ids = [str(document.id) for document in rows]
    if not rows:
        raise InputError("There are no texts to embed.")
    twice = next((name for name, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"The id {twice!r} stands twice; ids must be unique.")
    target = Path(folder)
    _begin(target, _manifest(embedder, rows, kind, shard_rows))
    for number, start in enumerate(range(0, len(rows), shard_rows)):
        part = rows[start : start + shard_rows]
        if not (target / f"{number:05}.npy").is_file():

            def step(done: int, _: int, before: int = start) -> None:
                if progress is not None:
                    progress(before + done, len(rows))

            vectors = embedder.embed(part, kind, step)
            write_text(target / f"{number:05}.json", json.dumps(ids[start : start + shard_rows]) + "\n")
            _write_array(target / f"{number:05}.npy", vectors.astype(np.float16))
        if progress is not None:
            progress(start + len(part), len(rows))
    return read_vectors(target)


def read_vectors(folder: str | Path) -> Vectors:
    """The vectors of a folder that `write_vectors` finished.

    Raises:
        InputError: there is no such folder, or it is not finished.
        FormatError: a file of it is damaged.
    """
    root = Path(folder)
    if not (root / MANIFEST).is_file():
        raise InputError(f"{root} holds no vectors; make them with `headwater embed`.")
    manifest = _read_manifest(root / MANIFEST)
    ids: list[str] = []
    shards: list[np.ndarray] = []
    try:
        rows, size = int(manifest["rows"]), int(manifest["shard_rows"])
        for number in range(-(-rows // size)):
            path = root / f"{number:05}.npy"
            if not path.is_file():
                raise InputError(f"{root} is not finished; run the same `headwater embed` again.")
            shards.append(np.load(path, mmap_mode="r", allow_pickle=False))
            ids += json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"The vectors in {root} are damaged ({error!r}); delete the folder.") from error
    if len(ids) != rows or sum(map(len, shards)) != rows:
        raise FormatError(f"The vectors in {root} are damaged: {rows} rows are promised, others are there.")
    return Vectors(ids, shards, manifest)


def _manifest(embedder: Embedder, rows: list[Document], kind: str, shard_rows: int) -> dict[str, Any]:
    digest = hashlib.sha256()
    for document in rows:
        digest.update(json.dumps([document.id, document.title, document.text]).encode())
    return {
        "schema_version": SCHEMA_VERSION,
        "embedder": embedder.name,
        "fingerprint": embedder.fingerprint,
        "dimension": embedder.dimension,
        "max_length": embedder.prompt.max_length,
        "compute": str(embedder.lm.dtype).removeprefix("torch."),
        "stored": "float16",
        "kind": kind,
        "rows": len(rows),
        "shard_rows": shard_rows,
        "data": digest.hexdigest()[:16],
    }


def _begin(folder: Path, manifest: dict[str, Any]) -> None:
    """Take a folder for these vectors, or find the same ones begun in it."""
    path = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = not path.exists() and any(folder.iterdir())
    except OSError as error:
        raise InputError(f"Cannot use the folder {folder}: {error.strerror or error}.") from error
    if taken:
        raise InputError(f"The folder {folder} is not empty; give a new one.")
    if not path.exists():
        write_text(path, json.dumps(manifest, indent=1) + "\n")
        return
    found = _read_manifest(path)
    for key in sorted({*found, *manifest} - {"embedder"}):
        if found.get(key) != manifest.get(key):
            raise InputError(f"{folder} holds vectors with another {key}; give another folder or delete this one.")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(type(found).__name__)
    except (OSError, ValueError, TypeError) as error:
        raise FormatError(f"{path} is damaged ({error!r}); delete the folder.") from error
    return found


def _write_array(path: Path, array: np.ndarray) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}")
    try:
        with open(partial, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from error
