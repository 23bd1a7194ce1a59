"""Files appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from headwater.errors import InputError


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text through a temporary file in the same folder: write, fsync, rename.

    Raises:
        InputError: the folder does not exist or cannot be written to; nothing is left behind.
    """
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror or error}.") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(f"Cannot write {target}: {error.strerror or error}.") from error
    return target
