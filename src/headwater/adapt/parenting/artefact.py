"""The folder that a Parenting run leaves behind: a peft adapter (or a checkpoint) and `parenting.json` (7)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater.adapt.parenting.classes import UnitMap
from headwater.atomic import write_text
from headwater.errors import FormatError, InputError
from headwater.model.adapter import save_adapter
from headwater.model.lm import LanguageModel

RECORD = "parenting.json"
LAST = "last"
CHECKPOINTS = "checkpoints"
MINING = "mining"
SCHEMA_VERSION = 1
_CARD = """---
library_name: {library}
base_model: {name}
---
# {name}, tuned with Parenting

{what}, trained by `headwater parent tune` (arXiv 2410.10360; mode {mode}, {steps} steps, the weights of step {best}).
It is made to follow documents that contradict the model's memory, and to answer from memory where documents do not
help. What it gained and lost on development questions, the class of every unit and all settings are in
`parenting.json`.

    lm = headwater.load("this folder")
"""


def write_tuned(tuned: LanguageModel, folder: Path, matrices: bool, record: Mapping[str, Any]) -> None:
    """Write the tuned model: of an adapter that alone, of trained matrices the whole checkpoint; the record last.

    Raises:
        InputError: the folder cannot be written.
    """
    config, result = record["config"], record["result"]
    card = _CARD.format(
        library="transformers" if matrices else "peft",
        name=config["model"],
        what="All weights, some of them" if matrices else "A LoRA adapter",
        mode=config["mode"],
        steps=result["steps"],
        best=result["best"],
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot use the folder {folder}: {error.strerror or error}.") from error
    if matrices:
        tuned.save(folder)
        write_text(folder / "README.md", card)
    else:
        save_adapter(tuned, folder, {"README.md": card})
    write_text(folder / RECORD, json.dumps(dict(record), indent=1) + "\n")


def drop(folder: Path) -> None:
    """Forget what only a training under way needs."""
    for name in (CHECKPOINTS, MINING):
        shutil.rmtree(folder / name, ignore_errors=True)


def read_record(folder: str | Path) -> dict[str, Any]:
    """`parenting.json` of a finished folder: settings, result, units, provenance.

    Raises:
        InputError: there is none.
        FormatError: it is damaged, or of an unfinished training.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        raise InputError(f"{folder} has no {RECORD}, so it is not a folder of `headwater parent tune`.")
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FormatError(f"{path} cannot be read ({error}).") from error
    if record.get("schema") != "headwater/parenting" or record.get("version") != SCHEMA_VERSION:
        raise FormatError(f"{path} is not the record of a finished Parenting run of version {SCHEMA_VERSION}.")
    return record


def units_of(folder: str | Path) -> UnitMap | None:
    """The unit map that a finished folder was tuned with; None where it took none.

    Raises:
        InputError: no such folder, an unknown class, or a unit that is listed twice.
        FormatError: the record is damaged.
    """
    found = read_record(folder)["units"]
    return None if found is None else UnitMap.from_record(found)


def digest(record: Any) -> str:
    """Sixteen hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
