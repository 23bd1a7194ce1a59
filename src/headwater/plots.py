"""Every picture: head maps and comparisons (matplotlib), coloured tokens (HTML).

Figures are made without pyplot, so nothing global changes. `svg` turns one into text for a page: strokes and letters in
the page's own colour, no background, no reference to anything outside.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"  # stands for the page's text colour until `svg` replaces it
_MARK = "#d1495b"
_BAR = "#2a7f9e"


def head_map(scores: Any, chosen: Iterable[tuple[int, int]] = (), title: str | None = None) -> Figure:
    """Draw a score per attention head, layer by head, with the chosen heads framed.

    Args:
        scores: float array [layers, heads]; NaN where a head has no score.
        chosen: (layer, head) pairs to frame.
        title: above the picture.

    Raises:
        InputError: when scores are not [layers, heads], or a chosen head lies outside.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    array = np.asarray(scores, np.float64)
    if array.ndim != 2 or not array.size:
        raise InputError(f"A head map needs scores [layers, heads], got shape {array.shape}.")
    layers, heads = array.shape
    cell = 0.42 if max(layers, heads) <= 16 else 0.16
    figure = Figure(figsize=(max(3.2, heads * cell + 1.6), max(1.8, layers * cell + 1.0)), layout="constrained")
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(array, cmap="viridis", edgecolors="none")
    for layer, head in chosen:
        if not (0 <= layer < layers and 0 <= head < heads):
            raise InputError(f"Head {layer}-{head} lies outside a model of {layers} layers with {heads} heads.")
        axes.add_patch(Rectangle((head, layer), 1, 1, fill=False, edgecolor=_MARK, linewidth=2))
    axes.set(xlabel="head", ylabel="layer", title=title or "")
    _integer_ticks(axes.set_xticks, heads)
    _integer_ticks(axes.set_yticks, layers)
    axes.set_aspect("equal")
    bar = figure.colorbar(mesh, ax=axes, label="score")
    bar.outline.set_visible(False)
    _plain(axes)
    return figure


def comparison(rows: Mapping[str, Mapping[str, float]], label: str) -> Figure:
    """Draw one mean with its interval per system, first row on top.

    Args:
        rows: system -> {"mean", "low", "high"}.
        label: what is measured, under the axis.

    Raises:
        InputError: when there is nothing to compare.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise InputError("There is nothing to compare.")
    figure = Figure(figsize=(6.4, 0.42 * len(rows) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows.values()):
        axes.plot([row["low"], row["high"]], [place, place], color=_BAR, linewidth=2, solid_capstyle="round")
        axes.plot([row["mean"]], [place], "o", color=_BAR, markersize=7)
        axes.annotate(
            f"{row['mean']:.2f}", (row["mean"], place), (0, 7), textcoords="offset points", ha="center", size=8
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    _plain(axes)
    return figure


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
    text = text.replace(_INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{html.escape(name)}" ', 1)
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


def _integer_ticks(setter: Any, count: int) -> None:
    step = max(1, count // 8)
    setter([i + 0.5 for i in range(0, count, step)], [str(i) for i in range(0, count, step)])


def _plain(axes: Any) -> None:
    """Letters in the ink colour, no frame."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    for drawn in axes.figure.findobj(lambda artist: hasattr(artist, "set_color") and hasattr(artist, "get_text")):
        drawn.set_color(_INK)
    for around in axes.figure.axes:
        around.tick_params(colors=_INK, length=0)
        around.xaxis.label.set_color(_INK)
        around.yaxis.label.set_color(_INK)
        around.title.set_color(_INK)
