"""Checkpoints of a Parenting training: tensors as safetensors, the rest as JSON; nothing is unpickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from headwater.atomic import write_text
from headwater.errors import FormatError, InputError

STATE = "state.json"  # written last: a folder with it holds a whole checkpoint
_TENSORS = "tensors.safetensors"
_KEPT = 2


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Write one checkpoint, then forget all but the last two.

    Raises:
        InputError: the folder cannot be written.
    """
    target = folder / f"step-{step:08d}"
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, target / _TENSORS)
        with open(target / _TENSORS, "rb") as stream:  # on the disk before the file that vouches for it
            os.fsync(stream.fileno())
        write_text(target / STATE, json.dumps(dict(state)) + "\n")
        for old in _whole(folder)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot write a checkpoint to {target}: {reason}.") from error


def last_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest whole checkpoint; None where there is none.

    Raises:
        FormatError: it is damaged.
    """
    found = _whole(folder)
    if not found:
        return None
    try:
        state = json.loads((found[-1] / STATE).read_text(encoding="utf-8"))
        return load_file(found[-1] / _TENSORS), dict(state)
    except (OSError, ValueError, SafetensorError) as error:
        raise FormatError(f"The checkpoint {found[-1]} is damaged ({error}); delete it to go on before it.") from error


def _whole(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())
