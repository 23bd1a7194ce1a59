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
