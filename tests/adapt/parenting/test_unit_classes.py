"""Classes from scores, the loss matrix, controls, and the map as a file."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.sorting import classified, entangled_share, z_scores
from headwater.adapt.parenting.units import Unit, candidate_units
from headwater.errors import FormatError, InputError, ModelError
from models import random_lm


def units(count=8, per_layer=4):
    names = [f"model.layers.{i // per_layer}.mlp.m{i % per_layer}" for i in range(count)]
    return [Unit(name, name, i // per_layer, "pair") for i, name in enumerate(names)]


A = [9.0, 8.0, 1.0, 1.0, 7.0, 2.0, 1.0, 2.0]
R = [9.0, 1.0, 8.0, 1.0, 7.0, 2.0, 1.0, 2.0]


def test_classes_follow_the_z_scores():
    found = UnitMap.sort(units(), A, R, transform="none")
    assert found.classes == ("E", "A", "R", "O", "E", "O", "O", "O")
    assert found.sizes == {"E": 2, "A": 1, "R": 1, "O": 4}
    mean, spread = sum(A) / 8, (sum((x - sum(A) / 8) ** 2 for x in A) / 8) ** 0.5
    np.testing.assert_allclose(found.z_a, [(x - mean) / spread for x in A])
    assert [unit.name for unit in found.of("A", "R")] == [units()[1].name, units()[2].name]
    assert found.gamma == pytest.approx(0.5)


def test_a_higher_threshold_leaves_fewer():
    loose = UnitMap.sort(units(), [9, 8, 1, 1, 3.5, 2, 1, 2], [9, 1, 8, 1, 3.5, 2, 1, 2])
    tight = loose.resorted(tau=1.0)
    assert sum(c != "O" for c in tight.classes) < sum(c != "O" for c in loose.classes)
    assert tight.raw_a == loose.raw_a
    assert tight.tau == 1.0


def test_logarithms_keep_one_giant_from_being_all():
    a, r = [1e6, 8.0, 0.1, 0.1, 9.0, 0.1, 0.1, 0.1], [1e6, 0.1, 8.0, 0.1, 9.0, 0.1, 0.1, 0.1]
    with pytest.raises(InputError, match="No unit is of class A or R at tau 0"):
        UnitMap.sort(units(), a, r, transform="none")
    assert UnitMap.sort(units(), a, r).classes == ("E", "A", "R", "O", "E", "O", "O", "O")


def test_the_rule_of_the_released_code():
    """Raw scores above mean plus variance; with small scores that is nearly z > 0."""
    small_a, small_r = [x / 100 for x in A], [x / 100 for x in R]
    found = UnitMap.sort(units(), small_a, small_r, rule="code", transform="none", tau=7.0)
    by_hand = [x > np.mean(small_a) + np.var(small_a) for x in small_a]
    assert [c in "EA" for c in found.classes] == by_hand
    assert found.classes == UnitMap.sort(units(), A, R, transform="none").classes
    with pytest.raises(InputError, match="mean plus variance"):
        UnitMap.sort(units(), A, R, rule="code")  # scores of units: the variance is beyond them all


def test_layer_weights_count():
    flat = UnitMap.sort(units(), A, R, transform="none")
    heavy = UnitMap.sort(units(), A, R, [0.1, 1.9], [1.0, 1.0], transform="none")
    weighted = [a * (0.1 if i < 4 else 1.9) for i, a in enumerate(A)]
    np.testing.assert_allclose(heavy.z_a, z_scores(np.array(weighted), "none"))
    assert heavy.z_r == flat.z_r
    assert heavy.raw_a == flat.raw_a
    assert heavy.resorted(forward=False) == flat


def test_gamma():
    z_a, z_r = np.array([3.0, 1.0, -2.0, 0.0]), np.array([1.0, 1.0, 0.0, -2.0])
    assert entangled_share(["E", "E", "A", "R"], z_a, z_r) == pytest.approx(2 / 3)
    assert entangled_share(["A", "R", "O", "O"], z_a, z_r) == 0.5
    assert entangled_share(["O", "O", "E", "E"], z_a, z_r) == 0.5  # the sum is not positive
    assert UnitMap.sort(units(), A, R, gamma=0.3).gamma == 0.3


def test_the_loss_matrix():
    found = UnitMap.sort(units(), A, R, gamma=0.25)
    table = found.mixture()
    assert set(table) == {"E", "A", "R"}  # O has no row
    assert table["E"] == pytest.approx({"a": 0.2, "r": 0.6, "c": 0.2})
    assert table["A"] == pytest.approx({"a": 0.8, "r": 0.0, "c": 0.2})
    assert table["R"] == pytest.approx({"a": 0.0, "r": 0.8, "c": 0.2})
    assert table["A"]["r"] == table["R"]["a"] == 0.0
    leaky = found.mixture(delta=1.0, leak=0.5)
    assert leaky["A"] == leaky["R"] == {"a": 0.5, "r": 0.5, "c": 0.0}
    for delta, leak in ((0.0, 0.0), (1.1, 0.0), (0.8, 0.6), (0.8, -0.1)):
        with pytest.raises(InputError, match="delta lies"):
            found.mixture(delta, leak)


@given(delta=st.floats(0.01, 1.0), leak=st.floats(0.0, 0.5), gamma=st.floats(0.0, 1.0))
def test_every_row_sums_to_one(delta, leak, gamma):
    for row in UnitMap.sort(units(), A, R, gamma=gamma).mixture(delta, leak).values():
        assert sum(row.values()) == pytest.approx(1.0)
        assert min(row.values()) >= 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_random_maps_keep_the_sizes(seed):
    found = UnitMap.sort(units(16), A * 2, R * 2)
    free, matched = found.random(seed), found.random(seed, depth_matched=True)
    assert free.sizes == matched.sizes == found.sizes
    for layer in range(4):
        own = slice(4 * layer, 4 * layer + 4)
        assert sorted(matched.classes[own]) == sorted(found.classes[own])
    assert found.random(seed) == free
    assert free.units == found.units
    assert free.gamma == found.gamma
    assert free.provenance["control"] == [{"random": {"seed": seed, "depth_matched": False}}]
    assert found.swapped().random(seed).provenance["control"] == ["swapped", *free.provenance["control"]]


def test_random_maps_differ_from_seed_to_seed():
    found = UnitMap.sort(units(16), A * 2, R * 2)
    assert len({found.random(seed).classes for seed in range(8)}) > 4
    assert any(found.random(seed).classes[:4] != found.classes[:4] for seed in range(8))


def test_swapped():
    found = UnitMap.sort(units(), A, R)
    other = found.swapped()
    assert other.classes == ("E", "R", "A", "O", "E", "O", "O", "O")
    assert other.swapped().classes == found.classes
    assert other.z_a == found.z_a


def test_sorting_again():
    found = UnitMap.sort(units(), A, R, transform="none")
    assert found.swapped().resorted() == found, "by its scores a control is none"
    skewed = UnitMap.sort(units(), [*A[:4], 12.0, *A[5:]], R, transform="none")
    assert skewed.gamma != found.gamma
    tight = skewed.resorted(tau=0.5)
    assert tight.gamma == UnitMap.sort(units(), skewed.raw_a, R, transform="none", tau=0.5).gamma
    given_one = UnitMap.sort(units(), A, R, transform="none", gamma=0.3)
    assert given_one.resorted(tau=0.5).gamma == given_one.swapped().resorted(tau=0.5).gamma == 0.3
    assert given_one.resorted(gamma=0.6).gamma == 0.6


def test_a_file_gives_the_same_map(tmp_path):
    found = UnitMap.sort(units(), A, R, [1.5, 0.5], [0.9, 1.1], provenance={"model": "x", "settings": {"rank": 8}})
    path = found.save(tmp_path / "units.json")
    assert UnitMap.load(path) == found
    assert json.loads(path.read_text())["sizes"] == found.sizes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["units"][0].update({"class": "X"}), "Unknown class 'X'"),
        (lambda r: r["units"][0].update(kind="odd"), "unknown kind 'odd'"),
        (lambda r: r["units"][0].pop("z_a"), "damaged: KeyError"),
        (lambda r: r["units"].append(r["units"][0]), "listed twice"),
        (lambda r: r.update(units=3), "damaged"),
        (lambda r: r.update(provenance=3), "damaged"),
        (lambda r: r.update(gamma="x"), "damaged"),
        (lambda r: r.update(gamma=3), "gamma is a share"),
        (lambda r: r.update(rule="odd"), "Unknown rule"),
        (lambda r: r.update(version=9), "version 9"),
        (lambda r: r.update(schema="headwater/headset"), "not a unit map"),
        (lambda r: r.update(weights_a=[1.0]), "layer weights"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    record = UnitMap.sort(units(), A, R).record()
    change(record)
    path = tmp_path / "units.json"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=message) as caught:
        UnitMap.load(path)
    assert str(path) in str(caught.value)


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(FormatError, match="Cannot read the unit map"):
        UnitMap.load(tmp_path / "missing.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        UnitMap.load(tmp_path / "x.json")


def test_another_model_is_refused():
    lm = random_lm(layers=2)
    own = candidate_units(lm)
    draw = np.random.default_rng(0)
    found = UnitMap.sort(own, draw.random(14), draw.random(14), provenance=lm.provenance())
    found.check(lm)
    with pytest.raises(ModelError, match="mined on other weights"):
        found.check(random_lm(layers=2, seed=1))
    with pytest.raises(ModelError, match=r"no module 'model.layers.1"):
        found.check(random_lm(layers=1))


@pytest.mark.parametrize("scores", [[1.0, float("nan")], [1.0, -1.0], [1.0, float("inf")]])
def test_scores_that_cannot_be_used(scores):
    with pytest.raises(InputError, match="negative or not finite"):
        z_scores(np.array(scores))


def test_scores_that_say_nothing():
    with pytest.raises(InputError, match="All sensitivities are zero"):
        z_scores(np.zeros(3))
    with pytest.raises(InputError, match="same score"):
        z_scores(np.ones(3))
    assert z_scores(np.array([0.0, 1.0, 4.0]))[0] == z_scores(np.array([1.0, 1.0, 4.0]))[0]
    with pytest.raises(InputError, match="Rules are"):
        classified(np.ones(2), np.ones(2), 0.0, "odd", "log")


def test_lengths_are_checked():
    with pytest.raises(InputError, match=r"8 units has 1 values in 'classes'"):
        UnitMap(units(), ["E"], A, R, A, R, [1.0, 1.0], [1.0, 1.0])
