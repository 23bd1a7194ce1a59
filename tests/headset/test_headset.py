"""Head sets: order, text form, round trip, damaged files."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headwater as hw
from headwater.errors import FormatError, HeadSetError, InputError
from headwater.headset import HeadScores, parse_heads

heads = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 63)), min_size=1, max_size=20, unique=True)


def test_top_ties_go_to_the_lower_head_and_nan_is_never_chosen():
    scores = HeadScores(np.array([[0.5, np.nan, 2.0], [2.0, 0.5, -1.0]]), {"method": "test"})
    chosen = scores.top(5)
    assert chosen.heads == [(0, 2), (1, 0), (0, 0), (1, 1), (1, 2)]
    assert chosen.provenance == {"method": "test"}
    assert chosen.top(2).heads == [(0, 2), (1, 0)]
    with pytest.raises(HeadSetError, match="5 of the model's 6 have a score"):
        scores.top(6)


@given(heads=heads, data=st.data())
def test_text_and_file_round_trip(tmp_path_factory, heads, data):
    coefficients = data.draw(st.none() | st.lists(st.floats(-2, 2), min_size=len(heads), max_size=len(heads)))
    scores = np.random.default_rng(0).normal(size=(81, 64))
    scores[0, 0] = np.nan
    made = hw.HeadSet(heads, coefficients, scores, {"model": "m", "seed": 3})
    assert parse_heads(str(made)) == heads
    read = hw.HeadSet.load(made.save(tmp_path_factory.mktemp("set") / "x.json"))
    assert (read.heads, read.coefficients, read.provenance) == (made.heads, made.coefficients, made.provenance)
    np.testing.assert_array_equal(read.scores, scores)


def test_equality_compares_everything():
    scores = np.array([[np.nan, 1.0]])
    made = hw.HeadSet([(0, 1)], [0.5], scores, {"model": "m"})
    assert made == hw.HeadSet([(0, 1)], [0.5], scores.copy(), {"model": "m"})
    others = [([(0, 0)], [0.5], scores, {"model": "m"}), ([(0, 1)], None, scores, {"model": "m"})]
    others += [([(0, 1)], [0.5], None, {"model": "m"}), ([(0, 1)], [0.5], scores, {"model": "n"})]
    assert all(made != hw.HeadSet(*other) for other in others)
    assert made != "0-1"


def test_overlap_and_last_layer():
    a, b = hw.HeadSet([(1, 0), (2, 0), (0, 5)]), hw.HeadSet([(2, 0), (9, 9)])
    assert a.overlap(b) == b.overlap(a) == 0.5
    assert a.last_layer == 2
    assert len(a) == 3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([],), "at least one"),
        (([(1, 2), (1, 2)],), "1-2 is listed twice"),
        (([(-1, 2)],), "negative"),
        (([(1.9, 2)],), "whole numbers"),
        (("13-18",), "parse_heads"),
        (([(1, 2)], [1.0, 2.0]), "1 finite coefficients"),
        (([(1, 2)], [float("nan")]), "1 finite coefficients"),
        (([(1, 2)], None, np.zeros((1, 4))), "outside its scores"),
    ],
)
def test_malformed_sets(arguments, match):
    with pytest.raises(HeadSetError, match=match):
        hw.HeadSet(*arguments)


@pytest.mark.parametrize("text", ["", " , ", "13", "13-", "a-b", "-1-2", "1-2-3"])
def test_text_that_is_no_list_of_heads(text):
    with pytest.raises(HeadSetError):
        parse_heads(text)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not JSON"),
        ("[]", "not a head set"),
        ("{}", "not a head set"),
        (json.dumps({"schema": "headwater/headset", "version": 99}), "version 99"),
        (json.dumps({"schema": "headwater/headset", "version": 1}), "damaged"),
        (
            json.dumps(
                {
                    "schema": "headwater/headset",
                    "version": 1,
                    "heads": [[0, 1]],
                    "coefficients": None,
                    "scores": None,
                    "provenance": {"shape": [4]},
                }
            ),
            "damaged",
        ),
        (
            '{"schema": "headwater/headset", "version": 1, "heads": 3, "coefficients": null, "scores": null, '
            '"provenance": {}}',
            "whole numbers",
        ),
    ],
)
def test_damaged_files(tmp_path, content, match):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises((FormatError, HeadSetError), match=match):
        hw.HeadSet.load(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FormatError, match="Cannot read"):
        hw.HeadSet.load(tmp_path / "no.json")
    with pytest.raises(InputError, match="Cannot write"):
        hw.HeadSet([(0, 0)]).save(tmp_path / "no" / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_trim_drops_deep_heads_with_their_coefficients():
    heads = hw.HeadSet([(5, 1), (2, 0), (3, 3)], [0.5, 1.0, 2.0], provenance={"model": "m"})
    trimmed = heads.trim(3)
    assert trimmed.heads == [(2, 0), (3, 3)]
    assert trimmed.coefficients == [1.0, 2.0]
    assert trimmed.last_layer == 3
    assert trimmed.provenance == {"model": "m", "trimmed": {"max_layer": 3, "dropped": [[5, 1]]}}
    assert trimmed.trim(2).provenance["trimmed"] == {"max_layer": 2, "dropped": [[5, 1], [3, 3]]}
    assert heads.trim(5) is heads
    with pytest.raises(HeadSetError, match="No head lies in layers 0 to 1; the first one is in layer 2"):
        heads.trim(1)
