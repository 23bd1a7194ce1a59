"""Pictures as files and as parts of a page; coloured tokens (HTML)."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import InputError
from headwater.plots.style import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png, .svg or .pdf on white.

    Raises:
        InputError: for another suffix, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"Pictures are written as .png, .svg or .pdf, not {path.suffix or 'without a suffix'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, facecolor="white", bbox_inches="tight")
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from error
    return path


def svg(figure: Figure, name: str) -> str:
    """The figure as one <svg> element for a page; `name` is its accessible label."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight")
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # its rules would reach the whole page
    text = text.replace(INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{html.escape(name)}" ', 1)
    # Names of clip paths and markers must not meet those of another figure on the same page.
    prefix = re.sub(r"\W+", "-", name.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    return re.sub(r'(url\(|xlink:href=")#', rf"\1#{prefix}-", text)


def tokens_html(tokens: Sequence[tuple[str, float]], largest: float | None = None) -> str:
    """Token texts as spans, shaded by weight; negative weights and zero stay plain.

    Args:
        tokens: (text, weight) in order.
        largest: the weight of full shade (None: the largest of these tokens).
    """
    top = largest if largest is not None else max((weight for _, weight in tokens), default=0.0)
    parts = []
    for text, weight in tokens:
        shade = min(1.0, max(0.0, weight / top)) if top > 0 and np.isfinite(weight) else 0.0
        escaped = html.escape(text)
        if shade < 0.02:
            parts.append(escaped)
        else:
            parts.append(f'<span class="t" style="--w:{shade:.2f}" title="{weight:.4f}">{escaped}</span>')
    return "".join(parts)
