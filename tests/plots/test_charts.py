"""Pictures: what is drawn, and what cannot be."""

import re
from pathlib import Path

import numpy as np
import pytest

from headwater import plots
from headwater.errors import InputError


def test_a_head_map_frames_the_chosen_heads() -> None:
    scores = np.arange(12.0).reshape(3, 4)
    scores[1, 2] = np.nan
    figure = plots.head_map(scores, [(2, 1), (0, 3)], title="T")
    axes = figure.axes[0]
    assert [tuple(map(float, patch.get_xy())) for patch in axes.patches] == [(1.0, 2.0), (3.0, 0.0)]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("head", "layer", "T")


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (80, 64)])
def test_maps_of_any_size(shape: tuple[int, int], tmp_path: Path) -> None:
    path = plots.save(plots.head_map(np.random.default_rng(0).random(shape)), tmp_path / "new" / "map.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_bad_maps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\[layers, heads\]"):
        plots.head_map([1.0, 2.0])
    with pytest.raises(InputError, match="9-0 lies outside"):
        plots.head_map(np.zeros((2, 2)), [(9, 0)])
    with pytest.raises(InputError, match=r"\.gif"):
        plots.save(plots.head_map(np.zeros((2, 2))), tmp_path / "map.gif")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="Cannot write"):
        plots.save(plots.head_map(np.zeros((2, 2))), tmp_path / "file" / "map.png")


def test_a_comparison_has_one_row_per_system() -> None:
    row = {"mean": 0.5, "low": 0.4, "high": 0.6}
    figure = plots.comparison({"a": row, "b": row}, "recall")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    with pytest.raises(InputError, match="nothing to compare"):
        plots.comparison({}, "recall")


def test_svg_is_one_element_in_the_ink_of_its_page() -> None:
    text = plots.svg(plots.head_map(np.eye(3), [(0, 0)]), 'A "map"')
    assert text.startswith("<svg ")
    assert text.rstrip().endswith("</svg>")
    assert 'aria-label="A &quot;map&quot;"' in text
    assert "currentColor" in text
    assert "<style" not in text
    assert "<metadata" not in text
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'xlink:href="#([^"]+)"', text))
    assert used <= set(re.findall(r'\bid="([^"]+)"', text))


def test_tokens_are_shaded_and_escaped() -> None:
    text = plots.tokens_html([("<b>", 0.5), ("x", 1.0), ("y", -1.0), ("z", 0.0)])
    assert text.count("<span") == 2
    assert "--w:0.50" in text
    assert "--w:1.00" in text
    assert "&lt;b&gt;" in text
    assert text.endswith("yz")
    assert plots.tokens_html([("a", 0.0)]) == "a"
    assert plots.tokens_html([]) == ""
    assert "--w:0.25" in plots.tokens_html([("a", 1.0)], largest=4.0)


def test_a_forest_has_an_axis_as_wide_as_its_values() -> None:
    rows = {"a $x^$": {"mean": 120.0, "low": 100.0, "high": 140.0}, "b": {"mean": None, "low": None, "high": None}}
    figure = plots.forest(rows, "perplexity", 95.0)
    axes = figure.axes[0]
    assert axes.get_xlim()[0] < 95 < 140 < axes.get_xlim()[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a $x^$", "b"]
    assert "a $x^$" in plots.svg(figure, "no formula"), "a name is not read as mathematics"
    assert [text.get_text() for text in axes.texts] == ["120.0"]
    gaps = plots.forest({"a": {"mean": 0.25, "low": None, "high": None}}, "difference", 0.0, signed=True)
    assert [text.get_text() for text in gaps.axes[0].texts] == ["+0.250"]


def test_bad_forests() -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        plots.forest({"a": {"mean": float("nan")}}, "recall")
    with pytest.raises(InputError, match="finite number, got nan"):
        plots.forest({"a": {"mean": 1.0}}, "recall", float("nan"))


def test_curves_join_numbers_only() -> None:
    point = {"mean": 0.5, "low": 0.4, "high": 0.6}
    gap = {"1": point, "10": {"mean": None}}
    figure = plots.curve({"a": {"1": point, "5": point, "10": point}, "b": gap}, "x", "EM")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5", "10"]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-"]
    assert np.isfinite(axes.lines[1].get_ydata()).tolist() == [True, False, False]
    named = plots.curve({"a": {"yes": point, "no": point}}, "answerable", "EM")
    assert [line.get_linestyle() for line in named.axes[0].lines] == ["None"]
    with pytest.raises(InputError, match="no point"):
        plots.curve({"a": {"1": {"mean": None}}}, "x", "EM")
    with pytest.raises(InputError, match="no point"):
        plots.curve({}, "x", "EM")


def test_many_lines_stay_apart() -> None:
    point = {"mean": 0.5, "low": 0.4, "high": 0.6}
    drawn = plots.curve({f"system {i}": {"1": point} for i in range(30)}, "x", "EM").axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 30


def test_grids_share_a_scale(tmp_path: Path) -> None:
    array = np.array([[0.1, np.nan, 0.3], [0.4, 0.5, 0.6]])
    figure = plots.heat({f"s{i}": array for i in range(4)}, ["0", "1"], ["a", "b", "$c^$"], "depth", "length", "EM")
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["s0", "s1", "s2", "s3"]
    assert {axes.collections[0].get_clim() for axes in panels} == {(0.0, 1.0)}
    assert plots.save(figure, tmp_path / "grid.png").stat().st_size > 0
    wide = plots.heat({"s": array * 10}, ["0", "1"], ["a", "b", "c"], "depth", "length", "loss")
    assert wide.axes[0].collections[0].get_clim() == (1.0, 6.0)
    with pytest.raises(InputError, match=r"must be \[1, 3\], got shape \(2, 3\)"):
        plots.heat({"s": array}, ["0"], ["a", "b", "c"], "depth", "length", "EM")
    with pytest.raises(InputError, match="no value"):
        plots.heat({"s": np.full((1, 1), np.nan)}, ["0"], ["a"], "depth", "length", "EM")
    with pytest.raises(InputError, match="no value"):
        plots.heat({}, [], [], "depth", "length", "EM")
