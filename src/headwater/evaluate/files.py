"""Results on disk: atomic writes, per-query lines that survive an interruption, and what a run was made with."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from headwater.data.lines import Lines, same_run, write_json, write_page

__all__ = ["Lines", "made_with", "same_run", "write_json", "write_page"]

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "bm25s", "ir-measures", "scipy")


def made_with(command: str, model: str, seed: int, **more: Any) -> dict[str, Any]:
    """What a result was made with: command, versions, machine, date, seed."""
    import torch

    import headwater

    versions = {"headwater": headwater.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": command,
        "model": model,
        "seed": seed,
        **more,
        **_commit(Path(headwater.__file__).parent),
        "versions": versions,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _commit(package: Path) -> dict[str, str]:
    """The commit of headwater's own checkout, marked "-dirty" with changes; nothing for an installed package."""

    def git(*words: str) -> str:
        told = subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, timeout=10, check=True)
        return told.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) / "src" / package.name != package:
            return {}
        return {"commit": git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")}
    except (OSError, subprocess.SubprocessError):
        return {}
