"""Every picture: head maps, comparisons, curves and grids (matplotlib), coloured tokens (HTML).

Figures are made without pyplot, so nothing global changes. `svg` turns one into text for a page: strokes and letters in
the page's own colour, no background, no reference to anything outside.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
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
_COLOURS = (_BAR, _MARK, "#8f6fc4", "#3f9b5c", "#d98a1f", "#7a8794", "#c25fa5", "#7d8f1e", "#4f6fd6", "#a0643c")
_MARKS = "os^DvPX"  # seven to ten colours: 70 lines stay apart


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

    array = np.asarray(scores, np.float64)
    if array.ndim != 2 or not array.size:
        raise InputError(f"A head map needs scores [layers, heads], got shape {array.shape}.")
    layers, heads = array.shape
    cell = 0.42 if max(layers, heads) <= 16 else 0.16
    figure = Figure(figsize=(max(3.2, heads * cell + 1.6), max(1.8, layers * cell + 1.0)), layout="constrained")
    axes = figure.add_subplot()
    mesh = draw_heads(axes, array, chosen)
    axes.set(xlabel="head", ylabel="layer", title=title or "")
    bar = figure.colorbar(mesh, ax=axes, label="score")
    bar.outline.set_visible(False)
    _plain(axes)
    return figure


def draw_heads(axes: Any, array: np.ndarray, chosen: Iterable[tuple[int, int]] = ()) -> Any:
    """Draw scores `[layers, heads]` on matplotlib axes, chosen heads framed; gives the mesh. Errors of `head_map`."""
    from matplotlib.patches import Rectangle

    layers, heads = array.shape
    mesh = axes.pcolormesh(array, cmap="viridis", edgecolors="none")
    for layer, head in chosen:
        if not (0 <= layer < layers and 0 <= head < heads):
            raise InputError(f"Head {layer}-{head} lies outside a model of {layers} layers with {heads} heads.")
        axes.add_patch(Rectangle((head, layer), 1, 1, fill=False, edgecolor=_MARK, linewidth=2))
    _integer_ticks(axes.set_xticks, heads)
    _integer_ticks(axes.set_yticks, layers)
    axes.set_aspect("equal")
    _plain(axes)
    return mesh


def comparison(rows: Mapping[str, Mapping[str, float]], label: str) -> Figure:
    """Draw one mean with its interval per system on an axis from 0 to 1, first row on top.

    Args:
        rows: system -> {"mean", "low", "high"}.
        label: what is measured, under the axis.

    Raises:
        InputError: when there is nothing to compare.
    """
    figure = forest(rows, label)
    figure.axes[0].set_xlim(0, 1.02)
    return figure


def forest(
    rows: Mapping[str, Mapping[str, float | None]], label: str, reference: float | None = None, signed: bool = False
) -> Figure:
    """Draw one mean with its interval per row on an axis as wide as the values, first row on top.

    Args:
        rows: name -> {"mean", "low", "high"}; a row whose mean is None or not finite keeps its place and stays empty.
        label: what is measured, under the axis.
        reference: where a dashed line stands: the mean of a baseline, or 0 for differences.
        signed: write the means with their sign, as differences are.

    Raises:
        InputError: when no row has a mean, or the reference is not finite.
    """
    from matplotlib.figure import Figure

    found = [_interval(row) for row in rows.values()]
    if all(np.isnan(mean) for mean, _, _ in found):
        raise InputError("There is nothing to compare.")
    if reference is not None and not np.isfinite(reference):
        raise InputError(f"The reference of a picture must be a finite number, got {reference}.")
    figure = Figure(figsize=(6.4, 0.42 * len(rows) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    if reference is not None:
        axes.axvline(reference, color=_INK, alpha=0.35, linewidth=1, linestyle="--")
    for place, (mean, low, high) in enumerate(found):
        if np.isnan(mean):
            continue
        axes.plot([low, high], [place, place], color=_BAR, linewidth=2, solid_capstyle="round")
        axes.plot([mean], [place], "o", color=_BAR, markersize=7)
        written = f"{mean:{'+' if signed else ''}.{_decimals(mean)}f}".replace("-", "−")
        axes.annotate(written, (mean, place), (0, 7), textcoords="offset points", ha="center", size=8)
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, 32) for name in rows], parse_math=False)
    axes.set(ylim=(len(rows) - 0.5, -0.7), xlabel=label)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    _plain(axes)
    return figure


def curve(lines: Mapping[str, Mapping[str, Mapping[str, float | None]]], label_x: str, label_y: str) -> Figure:
    """Draw one line per system over the values of a facet (the place of the gold document, a length), with intervals.

    Values stand equally far apart, in the order given. Where all of them are numbers the points of a line are joined.

    Args:
        lines: system -> {value -> {"mean", "low", "high"}}; a mean that is None or not finite leaves a gap.
        label_x: what the facet is.
        label_y: what is measured.

    Raises:
        InputError: when no line has a point.
    """
    from matplotlib.figure import Figure

    values = list(dict.fromkeys(value for points in lines.values() for value in points))
    found = [np.array([_interval(points.get(value, {})) for value in values]) for points in lines.values()]
    if all(np.isnan(points).all() for points in found):
        raise InputError("There is no point to draw a curve through.")
    joined = "-" if all(map(_is_number, values)) else "none"
    figure, handles = Figure(figsize=(6.4, 3.2 + 0.2 * ((len(lines) + 1) // 2)), layout="constrained"), []
    axes = figure.add_subplot()
    step = 0.012 * max(1, len(values) - 1)  # a little apart, however many values share the width
    for place, points in enumerate(found):
        colour, mark = _COLOURS[place % len(_COLOURS)], _MARKS[place % len(_MARKS)]
        at = np.arange(len(values)) + (place - (len(lines) - 1) / 2) * step
        axes.vlines(at, points[:, 1], points[:, 2], color=colour, alpha=0.6, linewidth=1.5)
        handles += axes.plot(at, points[:, 0], marker=mark, linestyle=joined, color=colour, markersize=5, linewidth=1.5)
    crowded = sum(map(len, values)) > 50
    axes.set_xticks(range(len(values)), values, rotation=45 if crowded else 0, parse_math=False)
    axes.set(xlabel=label_x, ylabel=label_y)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    names = [textwrap.fill(name, 40) for name in lines]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    _plain(axes)
    return figure


def coefficient_paths(looks: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Draw every head's coefficient, and the held-out loss, over the steps of learning.

    Args:
        looks: rows with "step", "heldout" and "coefficients" (one per head), in order.
        names: of the heads; written where there are at most twelve.

    Raises:
        InputError: no rows.
    """
    from matplotlib.figure import Figure

    if not looks:
        raise InputError("There is no step to draw coefficients of.")
    steps = [look["step"] for look in looks]
    paths = np.array([look["coefficients"] for look in looks])
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for place, path in enumerate(paths.T):
        label = names[place] if len(names) <= 12 else None
        upper.plot(steps, path, color=_COLOURS[place % len(_COLOURS)], linewidth=1.2, label=label)
    upper.axhline(1, color=_INK, linewidth=0.8, linestyle=":")
    upper.set(ylabel="coefficient")
    if len(names) <= 12:
        upper.legend(ncols=2, fontsize=8, frameon=False)
    lower.plot(steps, [look["heldout"] for look in looks], color=_BAR, marker="o", markersize=4)
    lower.set(xlabel="step", ylabel="held-out loss")
    for axes in (upper, lower):
        _plain(axes)
    return figure


def heat(
    grids: Mapping[str, Any], rows: Sequence[str], columns: Sequence[str], label_row: str, label_column: str, label: str
) -> Figure:
    """Draw a grid of means per system, all on one colour scale: from 0 to 1 where every mean lies there.

    Args:
        grids: system -> float array [rows, columns]; NaN where nothing was measured.
        rows: names of the rows, first on top.
        columns: names of the columns.
        label_row: what the rows are.
        label_column: what the columns are.
        label: what is measured, beside the colours.

    Raises:
        InputError: when there is no finite value, or a grid has another shape.
    """
    from matplotlib.figure import Figure

    arrays = {name: np.asarray(grid, np.float64) for name, grid in grids.items()}
    for name, array in arrays.items():
        if array.shape != (len(rows), len(columns)):
            raise InputError(f"The grid of {name} must be [{len(rows)}, {len(columns)}], got shape {array.shape}.")
    values = np.concatenate([array.ravel() for array in arrays.values()] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if not values.size:
        raise InputError("There is no value to draw a grid of.")
    low, high = (0.0, 1.0) if values.min() >= 0 and values.max() <= 1 else (values.min(), values.max())
    across = min(3, len(arrays))
    down = -(-len(arrays) // across)
    size = (across * max(1.7, 0.42 * len(columns)) + 1.6, down * (max(1.0, 0.32 * len(rows)) + 0.8))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (name, array) in zip(panels, arrays.items(), strict=False):
        mesh = axes.pcolormesh(array, cmap="viridis", edgecolors="none", vmin=low, vmax=high)
        axes.set_title(textwrap.fill(name, 24), size=9)
        axes.set_ylim(len(rows), 0)
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, parse_math=False)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows, parse_math=False)
    for axes in panels[len(arrays) :]:
        axes.set_visible(False)
    figure.supxlabel(label_column, size=10)
    figure.supylabel(label_row, size=10)
    figure.colorbar(mesh, ax=list(panels[: len(arrays)]), label=label).outline.set_visible(False)
    for axes in panels:
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


def _interval(row: Mapping[str, float | None]) -> tuple[float, float, float]:
    """Mean and ends; all NaN without a finite mean, and an end that is missing stands at the mean."""
    found = map(row.get, ("mean", "low", "high"))
    mean, low, high = (np.nan if value is None else float(value) for value in found)
    if not np.isfinite(mean):
        return np.nan, np.nan, np.nan
    return mean, low if np.isfinite(low) else mean, high if np.isfinite(high) else mean


def _decimals(value: float) -> int:
    """Three decimals below 10, then fewer, so that four digits are shown."""
    return int(np.clip(3 - np.floor(np.log10(max(abs(value), 1.0))), 0, 3))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _integer_ticks(setter: Any, count: int) -> None:
    step = max(1, count // 8)
    setter([i + 0.5 for i in range(0, count, step)], [str(i) for i in range(0, count, step)])


def _plain(axes: Any) -> None:
    """Letters in the ink colour, no frame."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    for drawn in axes.figure.findobj(lambda artist: hasattr(artist, "set_color") and hasattr(artist, "get_text")):
        drawn.set_color(_INK)
        drawn.set_parse_math(False)  # names of systems and tasks may hold a $
    for around in axes.figure.axes:
        around.tick_params(colors=_INK, length=0)
        around.xaxis.label.set_color(_INK)
        around.yaxis.label.set_color(_INK)
        around.title.set_color(_INK)
