"""Results on disk: atomic writes, per-question lines that survive an interruption, one configuration per folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater.atomic import write_text
from headwater.errors import FormatError, InputError


def write_page(path: str | Path, text: str) -> Path:
    """Write a text file whole or not at all, making its folder first.

    Raises:
        InputError: when the folder cannot be made or written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror or error}.") from error
    return write_text(target, text)


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON, indented, with NaN refused.

    Raises:
        InputError: when the file cannot be written.
    """
    return write_page(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


class Lines:
    """A JSONL file of finished queries, keyed by id; a half-written last line of a killed run is dropped."""

    def __init__(self, path: str | Path) -> None:
        """Open and read what an earlier run finished.

        Raises:
            FormatError: when a line before the last is not JSON with an id.
            InputError: when the file cannot be read or written.
        """
        self.path = Path(path)
        self.done: dict[str, dict[str, Any]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            raw = self.path.read_bytes() if self.path.exists() else b""
            whole = raw.rfind(b"\n") + 1
            if whole < len(raw):
                os.truncate(self.path, whole)
        except OSError as error:
            raise InputError(f"Cannot use {self.path}: {error.strerror or error}.") from error
        for number, line in enumerate(raw[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                self.done[record["id"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(f"{self.path}, line {number}: not a finished query; delete the file.") from error

    def add(self, record: dict[str, Any]) -> None:
        """Append one finished query (with an "id") and flush it to disk."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")
            file.flush()
        self.done[record["id"]] = record


def same_run(path: str | Path, config: Mapping[str, Any]) -> None:
    """Keep a run's configuration beside its results, and refuse to continue another one's.

    Raises:
        InputError: when the folder holds results of a different configuration, named by the first difference.
    """
    path = Path(path)
    wanted = json.loads(json.dumps(config))
    if not path.exists():
        write_json(path, wanted)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is not a readable configuration; give another output folder.") from error
    for key in sorted(set(found) | set(wanted)):
        if found.get(key) != wanted.get(key):
            raise InputError(
                f"{path.parent} holds a run with {key}={found.get(key)!r}, not {wanted.get(key)!r}; give another "
                "output folder or delete this one."
            )
