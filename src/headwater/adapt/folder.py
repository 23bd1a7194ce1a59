"""The folder of a training: taken once, resumed by the same call, whole when its adapter is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headwater.atomic import write_text
from headwater.errors import FormatError, InputError
from headwater.model.adapter import CONFIG

RECORD = "tuning.json"
CARD = """---
library_name: peft
base_model: {name}
---
# Heads of {name}, trained to rank

A LoRA adapter on the query and key projections of the first {layers} layers, trained by `headwater heads tune` on
{examples} ranking examples (at most {steps} steps; the weights are those of step {best}). It is made for ranking by the
attention of the heads {heads} (`heads.json`), not for writing text.

    lm = headwater.load("this folder")
    headwater.QRRetriever(lm).rank(query, documents)
"""


def begin(folder: Path, config: dict[str, Any], name: str = RECORD, whole: str | None = CONFIG) -> bool:
    """Take a folder for a training, or find the same one in it; True where that one is finished.

    Args:
        folder: made where it is missing.
        config: what makes two trainings the same.
        name: of the file that keeps it.
        whole: a file that only a finished folder has. None: the record itself then holds a result.

    Raises:
        InputError: the folder holds something else.
        FormatError: its record is damaged.
    """
    record = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = record.read_text(encoding="utf-8") if record.exists() else None
        taken = text is None and any(folder.iterdir())
    except OSError as error:
        raise InputError(f"Cannot use the folder {folder}: {error.strerror or error}.") from error
    if taken:
        raise InputError(f"The folder {folder} is not empty; give a new one.")
    if text is None:
        write_text(record, json.dumps({"config": config, "result": None}, indent=1) + "\n")
        return False
    try:
        kept = json.loads(text)
        found, finished = dict(kept["config"]), kept["result"] is not None
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{record} is damaged; give another folder or delete this one.") from error
    for key in sorted({*found, *config}):
        if found.get(key) != config.get(key):
            raise InputError(f"{folder} holds a training with another {key}; give another folder or delete this one.")
    return finished if whole is None else (folder / whole).is_file()
