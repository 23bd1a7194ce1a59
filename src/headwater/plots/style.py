"""Colours, marks and axes that all pictures share."""

from __future__ import annotations

from typing import Any

INK = "#010203"  # stands for the page's text colour until `svg` replaces it
MARK = "#d1495b"
BAR = "#2a7f9e"
COLOURS = (BAR, MARK, "#8f6fc4", "#3f9b5c", "#d98a1f", "#7a8794", "#c25fa5", "#7d8f1e", "#4f6fd6", "#a0643c")
MARKS = "os^DvPX"  # seven to ten colours: 70 lines stay apart


def integer_ticks(setter: Any, count: int) -> None:
    step = max(1, count // 8)
    setter([i + 0.5 for i in range(0, count, step)], [str(i) for i in range(0, count, step)])


def plain(axes: Any) -> None:
    """Letters in the ink colour, no frame."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    for drawn in axes.figure.findobj(lambda artist: hasattr(artist, "set_color") and hasattr(artist, "get_text")):
        drawn.set_color(INK)
        drawn.set_parse_math(False)  # names of systems and tasks may hold a $
    for around in axes.figure.axes:
        around.tick_params(colors=INK, length=0)
        around.xaxis.label.set_color(INK)
        around.yaxis.label.set_color(INK)
        around.title.set_color(INK)
