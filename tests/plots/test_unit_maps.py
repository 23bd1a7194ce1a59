"""The picture of a unit map: every unit in its place, its class in words, bad input refused."""

import pytest

from headwater.errors import InputError
from headwater.plots import svg, unit_map

UNITS = [(layer, name, "EARO"[(layer + i) % 4]) for layer in range(3) for i, name in enumerate(("attn.q", "mlp.up"))]
Z = [0.1 * i for i in range(6)]


def test_every_unit_has_its_place():
    figure = unit_map(UNITS, Z, Z[::-1], title="a $model$")
    shown, scatter = figure.axes
    mesh = shown.collections[0].get_array().reshape(3, 2)
    assert [["EARO"[int(v)] for v in row] for row in mesh] == [["E", "A"], ["A", "R"], ["R", "O"]]
    assert [text.get_text() for text in shown.get_xticklabels()] == ["q", "up"]
    assert sorted(text.get_text() for text in shown.texts) == sorted(found for *_, found in UNITS)
    assert sum(len(points.get_offsets()) for points in scatter.collections) == 6
    text = svg(figure, "units")
    assert "adherence (2)" in text
    assert "a $model$" in text


def test_names_are_whole_where_their_ends_are_the_same():
    figure = unit_map([(0, "attn.c_proj", "A"), (0, "mlp.c_proj", "R")], [1, 0], [0, 1], tau=None)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["attn.c_proj", "mlp.c_proj"]
    assert not figure.axes[1].lines


def test_many_units_have_no_letters():
    figure = unit_map([(0, f"attn.q:{i}", "O") for i in range(56)], [0.0] * 56, [0.0] * 56)
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticks()) == 56


@pytest.mark.parametrize(
    ("units", "z", "message"),
    [
        ([], [], "needs units"),
        (UNITS, Z[:-1], "needs units"),
        ([(0, "q", "X")], [0.0], "Unknown class 'X'"),
        ([(0, "q", "A"), (0, "q", "R")], [0.0, 1.0], "Two units stand at layer 0, q"),
    ],
)
def test_bad_maps_are_refused(units, z, message):
    with pytest.raises(InputError, match=message):
        unit_map(units, z, z)
