"""Parts of the Parenting experiment: what counts as right, intervals of the harmonic mean, unseen questions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headwater.data import world
from headwater.data.parenting.build import check_item
from headwater.data.parenting.items import ItemDocument, ParentingItem
from headwater.errors import InputError
from headwater.evaluate.parenting import harmonic
from headwater.evaluate.parenting.questions import CLOSED, CONFLICT, NOISE, perplexity, unseen
from headwater.evaluate.parenting.rows import BASE, ROUTED, ROWS, SHOWN, by_third, maker, partition
from headwater.evaluate.parenting.settings import Settings
from headwater.evaluate.parenting.summary import ADHERENCE, HARMONIC, REMEMBERED, ROBUSTNESS, measure, summarise
from headwater.evaluate.parenting.workshop import score, slug
from models import random_lm
from parenting_items import made_map


def item(
    kind: str, group: str, documents: tuple[ItemDocument, ...] = (), stated: tuple[str, ...] = ()
) -> ParentingItem:
    known = {"label": "known"}
    return ParentingItem(f"{group}#0/{kind}", group, kind, "Capital?", documents, "x", ("Lima",), "Lima", known, stated)


EDITED = ItemDocument("The capital is Quito.", "edited")
OTHER = ItemDocument("Rivers flow.", "off_topic")
TESTS = {
    CONFLICT: [item("a", name, (EDITED,), ("Quito",)) for name in ("one", "two", "three")],
    NOISE: [item("r", name, (OTHER,)) for name in ("one", "two", "three")],
    CLOSED: [item("empty", name) for name in ("one", "two", "three")],
}


def test_what_counts_as_right() -> None:
    said = {
        ROUTED: [
            {CONFLICT: ["Quito", "Lima", "Quito or Lima"], NOISE: ["Lima", "Quito", ""], CLOSED: ["Lima", "x", "y"]}
        ]
    }
    found = measure(said, TESTS)
    assert found[ADHERENCE][ROUTED].tolist() == [[1, 0, 0]]
    assert found[REMEMBERED][ROUTED].tolist() == [[0, 1, 0]]
    assert found[ROBUSTNESS][ROUTED].tolist() == [[1, 0, 0]]
    assert found[CLOSED][ROUTED].tolist() == [[1, 0, 0]]


def test_differences_pair_seeds() -> None:
    document, memory = ["Quito"] * 3, ["Lima"] * 3
    said = {
        BASE: [{CONFLICT: memory, NOISE: memory}],
        ROUTED: [{CONFLICT: document, NOISE: memory}, {CONFLICT: memory, NOISE: memory}],
        "other": [{CONFLICT: memory, NOISE: memory}],
    }
    out = summarise(measure(said, TESTS), TESTS, 0)
    assert out[ADHERENCE]["rows"][ROUTED]["mean"] == 0.5
    assert out[ADHERENCE]["minus base"][ROUTED]["mean"] == 0.5
    assert out[ADHERENCE]["routed minus"]["other"]["mean"] == 0.5
    assert out[HARMONIC]["rows"][ROUTED]["mean"] == pytest.approx(2 / 3)
    assert 0 <= out[HARMONIC]["routed minus"]["other"]["p_holm"] <= 1
    assert CLOSED not in out


@given(st.integers(0, 50))
def test_harmonic_mean_by_hand(seed: int) -> None:
    draw = np.random.default_rng(seed)
    axes = harmonic.Axes(draw.integers(0, 2, (2, 6)).astype(float), draw.integers(0, 2, (2, 5)).astype(float))
    a, r = axes.adherence.mean(), axes.robustness.mean()
    assert axes.harmonic == pytest.approx(2 * a * r / (a + r) if a + r else 0)


def test_harmonic_interval_against_a_loop() -> None:
    draw = np.random.default_rng(0)
    axes = harmonic.Axes((draw.random((3, 40)) < 0.7).astype(float), (draw.random((3, 30)) < 0.4).astype(float))
    groups = ([f"g{place % 8}" for place in range(40)], [f"g{place % 8}" for place in range(30)])
    found = harmonic.interval(axes, groups)
    slow = []
    for _ in range(2000):
        chosen = draw.integers(0, 8, 8)
        seeds = draw.integers(0, 3, 3)
        means = []
        for values, own in zip((axes.adherence, axes.robustness), groups, strict=True):
            places = [i for c in chosen for i, name in enumerate(own) if name == f"g{c}"]
            means.append(values[seeds][:, places].mean())
        slow.append(2 * means[0] * means[1] / sum(means))
    low, high = np.quantile(slow, [0.025, 0.975])
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)
    assert found["low"] < found["mean"] < found["high"]


def test_harmonic_difference_of_a_row_with_itself_is_zero() -> None:
    axes = harmonic.Axes(np.array([[1.0, 0, 1]]), np.array([[1.0, 1, 0]]))
    groups = (["a", "b", "c"], ["a", "b", "c"])
    found = harmonic.difference(axes.repeated(2), axes, groups)
    assert (found["mean"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)


def test_harmonic_difference_that_is_sure() -> None:
    ones, zeros = np.ones((2, 20)), np.zeros((2, 20))
    names = [f"g{place % 10}" for place in range(20)]
    found = harmonic.difference(harmonic.Axes(ones, ones), harmonic.Axes(zeros, ones), (names, names))
    assert found["mean"] == 1
    assert found["low"] == 1
    assert found["p"] < 0.01


def test_unseen_questions_are_about_held_out_countries() -> None:
    found = unseen(6, 3, 0)
    assert {each.group for each in found} <= set(world.countries("held_out"))
    for each in found:
        assert len(each.documents) == 3
        assert sum(document.role == "gold" for document in each.documents) == 1
        gold = next(document for document in each.documents if document.role == "gold")
        assert any(answer in gold.text for answer in each.gold)
        with pytest.raises(InputError, match="memory"):
            check_item(each)  # nothing is remembered of them


def test_perplexity_by_hand() -> None:
    lm = random_lm(layers=1)
    ids = torch.tensor([[5, 9, 30, 7]])
    with torch.no_grad():
        shares = lm.model(ids).logits[0].double().softmax(-1)
    wanted = math.exp(-sum(math.log(shares[place, ids[0, place + 1]]) for place in range(3)) / 3)
    assert perplexity(lm, [ids]) == pytest.approx(wanted, rel=1e-4)


def test_rows() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert [row.seeds for row in ROWS[:4]] == ["none", "all", "all", "all"]
    assert set(SHOWN) <= set(names)
    assert [row.name for row in ROWS if maker(row) is not row] == ["Parenting, then PEAR folded"]
    assert len({slug(name) for name in names}) == len(names)


def test_partitions_and_thirds() -> None:
    units = made_map(random_lm(layers=4))
    assert partition(units, "mined", 0) is units
    assert partition(units, "depth-matched", 1).sizes == partition(units, "random", 1).sizes == units.sizes
    assert partition(units, "random", 1).classes != partition(units, "random", 2).classes
    found = by_third(units, 4)
    for name, shares in found.items():
        layers = [unit.layer for unit in units.of(name)]
        assert shares == pytest.approx(
            [sum(x <= 1 for x in layers) / len(layers), layers.count(2) / len(layers), layers.count(3) / len(layers)]
        )


def test_score_is_that_of_the_chosen_step() -> None:
    curve = [{"step": 0, "harmonic": 0.1}, {"step": 5, "harmonic": 0.4}, {"step": 9, "harmonic": 0.2}]
    assert score({"curve": curve, "best": 5}) == 0.4


def test_settings_refuse_what_cannot_be_run() -> None:
    with pytest.raises(InputError, match="steps"):
        Settings(steps=0)
    with pytest.raises(InputError, match="rates"):
        Settings(rates=())
    small = Settings.of_size(5)
    assert (small.questions, small.development, small.train, small.steps, small.some) == (5, 5, 20, 5, 1)
    assert Settings.of_size() == Settings()
    assert Settings.of_size(300).steps == Settings().steps
