"""Where headwater keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$HEADWATER_CACHE`, else `headwater` in the user's cache folder."""
    own = os.environ.get("HEADWATER_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwater"
