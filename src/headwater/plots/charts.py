"""Comparisons, curves and grids of measured values."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.errors import InputError
from headwater.plots.style import BAR, COLOURS, INK, MARKS, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        axes.axvline(reference, color=INK, alpha=0.35, linewidth=1, linestyle="--")
    for place, (mean, low, high) in enumerate(found):
        if np.isnan(mean):
            continue
        axes.plot([low, high], [place, place], color=BAR, linewidth=2, solid_capstyle="round")
        axes.plot([mean], [place], "o", color=BAR, markersize=7)
        written = f"{mean:{'+' if signed else ''}.{_decimals(mean)}f}".replace("-", "−")
        axes.annotate(written, (mean, place), (0, 7), textcoords="offset points", ha="center", size=8)
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, 32) for name in rows], parse_math=False)
    axes.set(ylim=(len(rows) - 0.5, -0.7), xlabel=label)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    plain(axes)
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
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
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
    plain(axes)
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
        upper.plot(steps, path, color=COLOURS[place % len(COLOURS)], linewidth=1.2, label=label)
    upper.axhline(1, color=INK, linewidth=0.8, linestyle=":")
    upper.set(ylabel="coefficient")
    if len(names) <= 12:
        upper.legend(ncols=2, fontsize=8, frameon=False)
    lower.plot(steps, [look["heldout"] for look in looks], color=BAR, marker="o", markersize=4)
    lower.set(xlabel="step", ylabel="held-out loss")
    for axes in (upper, lower):
        plain(axes)
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
        plain(axes)
    return figure


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
