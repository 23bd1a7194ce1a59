"""The folder of an index: what it was made with, its two LanceDB tables, and one sentence for what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headwater.atomic import write_text
from headwater.errors import FormatError, HeadwaterError, InputError, SearchIndexError

SCHEMA_VERSION = 1
PASSAGE_CHARS = 1000
META = "index.json"


class Embeds(Protocol):
    """What makes vectors: `headwater.Embedder`, or anything with these."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes its vectors."""
        ...

    @property
    def dimension(self) -> int:
        """Size of a vector."""
        ...

    def embed(self, texts: Sequence[str], kind: str) -> np.ndarray:
        """float32 `[texts, dimension]`, L2-normalised; kind is "query" or "document"."""
        ...


def create_folder(folder: Path, embedder: Embeds | None, passage_chars: int) -> None:
    """A new index: its folder and `index.json`.

    Raises:
        InputError: the folder holds something else, or cannot be made.
    """
    if passage_chars < 1:
        raise InputError(f"passage_chars must be at least 1, got {passage_chars}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InputError(f"{str(folder)!r} is not an index, and not empty; choose a new folder for the index.")
    except OSError as error:
        raise InputError(f"Cannot make an index in {str(folder)!r}: {error.strerror or error}.") from error
    made_with = embedder and {
        "name": embedder.name,
        "fingerprint": embedder.fingerprint,
        "dimension": embedder.dimension,
    }
    meta = {"schema_version": SCHEMA_VERSION, "passage_chars": passage_chars, "embedder": made_with}
    write_text(folder / META, json.dumps(meta, indent=1) + "\n")


def read_meta(path: Path) -> dict[str, Any]:
    """What an index was made with.

    Raises:
        FormatError: the file does not say.
        SearchIndexError: it cannot be read, or a newer headwater made it.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        version, chars, embedder = meta["schema_version"], meta["passage_chars"], meta["embedder"]
        sound = isinstance(version, int) and isinstance(chars, int) and chars > 0
        sound = sound and (embedder is None or {"name", "fingerprint", "dimension"} <= set(embedder))
    except OSError as error:
        raise SearchIndexError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError):
        sound, version = False, 0
    if not sound:
        raise FormatError(f"{path} does not describe an index; delete the folder and make the index again.")
    if version > SCHEMA_VERSION:
        raise SearchIndexError(f"The index {str(path.parent)!r} was made by a newer headwater; update headwater.")
    return dict(meta)


def open_tables(folder: Path, meta: dict[str, Any]) -> tuple[Any, Any]:
    """Open the two tables; make what a crash left unmade."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import FTS, BTree

    text = {name: pa.string() for name in ("key", "id", "title", "words", "body", "metadata", "hash", "source")}
    schema = pa.schema([*text.items(), ("part", pa.int32()), ("start", pa.int64())])
    if meta["embedder"] is not None:
        schema = schema.append(pa.field("vector", pa.list_(pa.float32(), meta["embedder"]["dimension"])))
    database = lancedb.connect(str(folder), read_consistency_interval=timedelta(0))  # sees what others write
    names = set(database.list_tables().tables)
    files = pa.schema([(name, pa.string()) for name in ("file", "hash")])
    tables = [
        database.open_table(name) if name in names else database.create_table(name, schema=own, exist_ok=True)
        for name, own in (("passages", schema), ("files", files))
    ]
    indexed = {column for index in tables[0].list_indices() for column in index.columns}
    if "words" not in indexed:
        config = FTS(base_tokenizer="icu", stem=False, remove_stop_words=False)
        tables[0].create_index("words", config=config)
    if "id" not in indexed:
        tables[0].create_index("id", config=BTree())
    return tables[0], tables[1]


@contextmanager
def lance(folder: Path, verb: str) -> Iterator[None]:
    """One sentence for whatever LanceDB raises."""
    try:
        yield
    except (HeadwaterError, ImportError):
        raise
    except Exception as error:  # RuntimeError, ValueError, OSError: lancedb raises all of them for the same things
        reason = " ".join(str(error).split())
        if "No space left" in reason or getattr(error, "errno", None) == 28:
            reason = "the disk is full; what was added before is kept"
        elif "ermission denied" in reason or "ead-only file system" in reason:
            reason = "the folder cannot be written to"
        raise SearchIndexError(f"The index {str(folder)!r} could not be {verb}: {reason[:300]}") from error
