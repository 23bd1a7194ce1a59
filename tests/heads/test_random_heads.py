"""Random heads: the same seed draws the same set, excluded heads are never drawn, layers can be matched."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.errors import HeadSetError
from models import random_lm

LM = random_lm(layers=3)  # 3 x 8 heads
ALL = LM.anatomy.all_heads


def layers(heads: hw.HeadSet | list[tuple[int, int]]) -> Counter[int]:
    return Counter(layer for layer, _ in (heads.heads if isinstance(heads, hw.HeadSet) else heads))


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.sampled_from(ALL), max_size=20).map(sorted),
    st.integers(0, 2**31),
    st.integers(min_value=1, max_value=24),
)
def test_excluded_heads_are_never_drawn(exclude: list[tuple[int, int]], seed: int, k: int) -> None:
    detector = hw.RandomHeads(k, seed, exclude=exclude)
    if k > len(ALL) - len(exclude):
        with pytest.raises(HeadSetError, match="cannot be drawn"):
            detector.find(LM)
        return
    found = detector.find(LM)
    assert len(found) == k
    assert not set(found.heads) & set(exclude)
    assert hw.RandomHeads(k, seed, exclude=exclude).find(LM).heads == found.heads


@settings(max_examples=60, deadline=None)
@given(st.permutations(ALL), st.integers(1, 6), st.integers(0, 2**31))
def test_layers_are_matched(order: list[tuple[int, int]], k: int, seed: int) -> None:
    like, exclude = order[:k], order[: 2 * k]
    left = Counter(layer for layer, head in ALL if (layer, head) not in exclude)
    detector = hw.RandomHeads(seed=seed, exclude=exclude, like=like)
    if any(count > left[layer] for layer, count in layers(like).items()):
        with pytest.raises(HeadSetError, match="of layer"):
            detector.find(LM)
        return
    found = detector.find(LM)
    assert layers(found) == layers(like)
    assert not set(found.heads) & set(exclude)
    assert hw.RandomHeads(seed=seed, exclude=exclude, like=like).find(LM).heads == found.heads


def test_nothing_excluded_draws_as_before() -> None:
    assert hw.RandomHeads(5, 3).find(LM).heads == hw.RandomHeads(5, 3, exclude=[]).find(LM).heads
    wide = hw.RandomHeads(24, 3).find(LM).heads
    out = wide[:3]
    assert hw.RandomHeads(5, 3, exclude=out).find(LM).heads == wide[3:8], "the draw itself does not change"


def test_every_head_of_a_layer_can_be_drawn() -> None:
    drawn = {hw.RandomHeads(seed=seed, like=[(1, 0)], exclude=[(1, 0)]).find(LM).heads[0] for seed in range(80)}
    assert drawn == {(1, head) for head in range(1, 8)}


def test_head_sets_are_taken_and_the_result_is_plain(tmp_path) -> None:
    first = hw.RandomHeads(4, 0).find(LM)
    found = hw.RandomHeads(seed=1, exclude=first, like=first).find(LM)
    assert layers(found) == layers(first)
    again = hw.HeadSet.load(found.save(tmp_path / "x.json"))
    assert again.heads == found.heads
    wanted = [list(head) for head in first.heads]
    assert json.loads(json.dumps(again.provenance["settings"]))["exclude"] == wanted


def test_a_copy_that_matches_others_draws_as_many() -> None:
    detector = hw.RandomHeads(seed=3, like=[(0, 0), (0, 1), (2, 0)])
    assert detector.top_k is None
    other = replace(detector, like=[(1, 0)])
    assert layers(detector.find(LM)) == {0: 2, 2: 1}
    assert layers(other.find(LM)) == {1: 1}
    free = replace(detector, like=None)
    assert free.find(LM).heads == hw.RandomHeads(seed=3).find(LM).heads


def test_bad_input() -> None:
    with pytest.raises(HeadSetError, match="9-0 is not in this model"):
        hw.RandomHeads(2, exclude=[(9, 0)]).find(LM)
    with pytest.raises(HeadSetError, match="9-0 is not in this model"):
        hw.RandomHeads(like=[(9, 0)]).find(LM)
    with pytest.raises(HeadSetError, match="leave top_k out"):
        hw.RandomHeads(3, like=[(0, 0)])
    with pytest.raises(HeadSetError, match="at least one head"):
        hw.RandomHeads(like=[])
    with pytest.raises(HeadSetError, match="pairs"):
        hw.RandomHeads(2, exclude=[3])  # type: ignore[list-item]
    with pytest.raises(HeadSetError, match="3 heads cannot be drawn: 2 of the 24"):
        hw.RandomHeads(3, exclude=ALL[:22]).find(LM)
    with pytest.raises(HeadSetError, match="2 heads of layer 0 cannot be drawn: 1 are left"):
        hw.RandomHeads(like=[(0, 0), (0, 1)], exclude=ALL[:7]).find(LM)
