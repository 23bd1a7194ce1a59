"""Parenting's units: which class each has, layer by projection, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import InputError
from headwater.plots.style import BAR, COLOURS, MARK, integer_ticks, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = {  # colour, marker, what it stands for
    "E": (COLOURS[2], "D", "entangled"),
    "A": (BAR, "^", "adherence"),
    "R": (MARK, "v", "robustness"),
    "O": ("#c9ced3", "o", "other"),
}


def unit_map(
    units: Sequence[tuple[int, str, str]],
    z_a: Sequence[float],
    z_r: Sequence[float],
    tau: float | None = 0.0,
    title: str | None = None,
) -> Figure:
    """Draw the class of every unit, layer by projection, and beside it their z-scores on both sets.

    Args:
        units: (layer, projection, class) of each; classes are "E", "A", "R", "O".
        z_a: z-score of each on the conflict set.
        z_r: z-score of each on the noise set.
        tau: threshold to draw (None: none, where classes came from another rule).
        title: above the picture.

    Raises:
        InputError: no units, an unknown class, two units in one place, or not one score per unit.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    if not units or not len(units) == len(z_a) == len(z_r):
        raise InputError(f"A unit map needs units and a score of each, got {len(units)}, {len(z_a)} and {len(z_r)}.")
    odd = next((found for _, _, found in units if found not in CLASSES), None)
    if odd is not None:
        raise InputError(f"Unknown class {odd!r} of a unit; classes are {', '.join(CLASSES)}.")
    columns = list(dict.fromkeys(projection for _, projection, _ in units))
    layers = 1 + max(layer for layer, _, _ in units)
    grid = np.full((layers, len(columns)), np.nan)
    for layer, projection, found in units:
        place = (layer, columns.index(projection))
        if np.isfinite(grid[place]):
            raise InputError(f"Two units stand at layer {layer}, {projection}.")
        grid[place] = list(CLASSES).index(found)
    figure = Figure(figsize=(max(2.6, 0.34 * len(columns)) + 4.2, max(3.4, 0.2 * layers + 1.6)), layout="constrained")
    shown, scatter = figure.subplots(1, 2, width_ratios=(max(2.6, 0.34 * len(columns)), 3.4))
    colours = ListedColormap([colour for colour, _, _ in CLASSES.values()])
    shown.pcolormesh(grid, cmap=colours, vmin=-0.5, vmax=len(CLASSES) - 0.5, edgecolors="white", linewidth=0.5)
    if len(columns) <= 16 and layers <= 40:  # letters, for whoever does not see the colours
        for layer, projection, found in units:
            middle = (columns.index(projection) + 0.5, layer + 0.5)
            shown.annotate(found, middle, ha="center", va="center", fontsize=6)
    names = [name.rpartition(".")[2] for name in columns]
    names = names if len(set(names)) == len(names) else columns
    step = max(1, len(columns) // 32)
    shown.set_xticks([i + 0.5 for i in range(0, len(columns), step)], names[::step], rotation=90)
    integer_ticks(shown.set_yticks, layers)
    shown.set(ylabel="layer", title=title or "")
    for name, (colour, marker, meaning) in CLASSES.items():
        own = [i for i, (_, _, found) in enumerate(units) if found == name]
        x, y = [z_a[i] for i in own], [z_r[i] for i in own]
        scatter.scatter(x, y, s=18, c=colour, marker=marker, label=f"{name} {meaning} ({len(own)})")
    if tau is not None:
        scatter.axvline(tau, color=CLASSES["O"][0], linewidth=1, zorder=0)
        scatter.axhline(tau, color=CLASSES["O"][0], linewidth=1, zorder=0)
    scatter.set(xlabel="z on conflicts, S_a", ylabel="z on noise, S_r")
    scatter.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    plain(shown)
    plain(scatter)
    return figure
