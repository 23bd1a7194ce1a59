"""Real data of the developer's, which tests read where they are told its folder."""

import os
from pathlib import Path

import pytest


def local_data(name: str) -> Path:
    """A path in the data folder; skips the test where there is none."""
    folder = os.environ.get("HEADWATER_DATA")
    if not folder:
        pytest.skip("HEADWATER_DATA names no data folder")
    return Path(folder) / name
