"""Maps of heads, layer by head: one set, or several side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.errors import InputError
from headwater.plots.style import MARK, integer_ticks, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    plain(axes)
    return figure


def draw_heads(axes: Any, array: np.ndarray, chosen: Iterable[tuple[int, int]] = ()) -> Any:
    """Draw scores `[layers, heads]` on matplotlib axes, chosen heads framed; gives the mesh. Errors of `head_map`."""
    from matplotlib.patches import Rectangle

    layers, heads = array.shape
    mesh = axes.pcolormesh(array, cmap="viridis", edgecolors="none")
    for layer, head in chosen:
        if not (0 <= layer < layers and 0 <= head < heads):
            raise InputError(f"Head {layer}-{head} lies outside a model of {layers} layers with {heads} heads.")
        axes.add_patch(Rectangle((head, layer), 1, 1, fill=False, edgecolor=MARK, linewidth=2))
    integer_ticks(axes.set_xticks, heads)
    integer_ticks(axes.set_yticks, layers)
    axes.set_aspect("equal")
    plain(axes)
    return mesh


def head_maps(sets: Mapping[str, tuple[Any, Iterable[tuple[int, int]]]], shape: tuple[int, int]) -> Figure:
    """Draw head maps side by side: the heads of a set framed, those that every set holds with a cross.

    Scores of different detectors are not comparable, so each map has its own colour scale.

    Args:
        sets: name -> (scores `[layers, heads]` or None for a bare list, (layer, head) pairs).
        shape: layers and heads.

    Raises:
        InputError: no sets, scores of another shape, or a head outside.
    """
    from matplotlib.figure import Figure

    if not sets:
        raise InputError("There is no head set to draw.")
    layers, heads = shape
    lists = {name: [(int(layer), int(head)) for layer, head in chosen] for name, (_, chosen) in sets.items()}
    shared = set.intersection(*(set(chosen) for chosen in lists.values()))
    cell = 0.3 if max(shape) <= 16 else 0.14
    size = (len(sets) * max(2.0, heads * cell + 0.7), max(1.6, layers * cell) + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, (name, (scores, _)) in zip(panels, sets.items(), strict=True):
        array = np.full(shape, np.nan) if scores is None else np.asarray(scores, np.float64)
        if array.shape != tuple(shape):
            raise InputError(f"The scores of {name} must be [{layers}, {heads}], got shape {array.shape}.")
        if not np.isfinite(array).any():  # a bare list: an empty map
            array = np.zeros(shape)
        axes.set_title(textwrap.fill(name, 28), size=9)
        draw_heads(axes, array, lists[name])
        here = np.array([head for head in lists[name] if head in shared], float).reshape(-1, 2)
        axes.plot(here[:, 1] + 0.5, here[:, 0] + 0.5, "x", color=MARK, markersize=34 * cell, markeredgewidth=1.5)
        axes.set(xlim=(0, heads), ylim=(0, layers))
    figure.supylabel("layer", size=9)
    figure.supxlabel("head; framed: in the set, cross: in every set", size=9)
    return figure
