"""Where the command line writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
import math
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console

Step = Callable[[int, int], None]
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def clean(text: str) -> str:
    """Text of documents for a terminal: control characters, which could steer it, become a replacement mark."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in text)


def command_line(**instead: str) -> str:
    """What was typed, to stand beside its results; `data="DATA"` writes DATA for what was given as --data."""
    words = ["headwater", *sys.argv[1:]]
    for name, value in instead.items():
        for place, word in enumerate(words):
            if word.startswith(f"--{name}="):
                words[place] = f"--{name}={value}"
            elif place and words[place - 1] == f"--{name}":
                words[place] = value
    return shlex.join(words)


def note(text: str, quiet: bool = False) -> None:
    """One line on standard error."""
    if not quiet:
        err.print(clean(text), style="dim", markup=False, soft_wrap=True)


def emit(value: Any) -> None:
    """A result as JSON on standard output; numbers that JSON cannot hold become null."""
    print(json.dumps(_plain(value), ensure_ascii=False, indent=1, allow_nan=False))


class _Notes(logging.Handler):
    """Log records as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def speak(quiet: bool) -> None:
    """Let the library's log lines through to standard error, and keep those of other libraries out."""
    logger = logging.getLogger("headwater")
    for handler in [h for h in logger.handlers if isinstance(h, _Notes)]:
        logger.removeHandler(handler)
    logger.addHandler(_Notes())
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    logger.propagate = False


@contextmanager
def progress(text: str, quiet: bool = False) -> Iterator[Step]:
    """A progress bar on standard error: call the result with (done, total). Silent when quiet or not a terminal."""
    if quiet or not err.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task(text, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
