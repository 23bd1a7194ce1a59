"""Maps of several head sets side by side."""

from pathlib import Path

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.plots import head_maps, save


def test_chosen_heads_are_framed_and_shared_ones_crossed(tmp_path: Path) -> None:
    scores = np.arange(12.0).reshape(3, 4)
    sets = {"a": (scores, [(2, 1), (0, 3)]), "b $x^$": (None, [(0, 3)]), "c": (scores * np.nan, [(1, 1), (0, 3)])}
    figure = head_maps(sets, (3, 4))
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["a", "b $x^$", "c"]
    frames = [sorted(tuple(map(float, patch.get_xy())) for patch in axes.patches) for axes in panels]
    assert frames == [[(1.0, 2.0), (3.0, 0.0)], [(3.0, 0.0)], [(1.0, 1.0), (3.0, 0.0)]]
    for axes in panels:
        assert [axes.lines[0].get_xdata().tolist(), axes.lines[0].get_ydata().tolist()] == [[3.5], [0.5]]
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 4), (0, 3))
    assert save(figure, tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_sets_that_share_nothing_are_drawn_too(tmp_path: Path) -> None:
    figure = head_maps({"a": (None, [(0, 0)]), "b": (None, [(79, 63)])}, (80, 64))
    assert all(len(axes.lines[0].get_xdata()) == 0 for axes in figure.axes)
    assert save(figure, tmp_path / "maps.svg").exists()


def test_bad_maps() -> None:
    with pytest.raises(InputError, match="no head set"):
        head_maps({}, (2, 2))
    with pytest.raises(InputError, match=r"of b must be \[2, 2\], got shape \(3, 2\)"):
        head_maps({"b": (np.zeros((3, 2)), [])}, (2, 2))
    with pytest.raises(InputError, match="9-0 lies outside"):
        head_maps({"b": (None, [(9, 0)])}, (2, 2))
