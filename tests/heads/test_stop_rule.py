"""The stop rule of detection: steady heads end it after 32 examples, noise never does."""

import random

import numpy as np
import pytest

import headwater as hw
from headwater.headset.stability import bootstrap_overlap
from planted import planted_lm


def examples(n):
    return [hw.RankingExample(f"w{i}", ["w1", "w2"], [0], id=str(i), group=f"g{i // 2}") for i in range(n)]


def drawn(noise, monkeypatch, kind=hw.QueryFocusedHeads):
    """A detector whose samples are made up, and the examples it looked at."""
    seen = []

    def sample(self, lm, example, local):
        seen.append(example.id)
        own = np.random.default_rng(int(example.id)).normal(size=(3, 4))
        return np.arange(12.0).reshape(3, 4) + noise * own

    monkeypatch.setattr(kind, "_sample", sample)
    return seen


@pytest.mark.parametrize("kind", [hw.QueryFocusedHeads, hw.ContrastiveHeads])
def test_steady_heads_stop_after_two_looks(monkeypatch, kind):
    seen = drawn(0.01, monkeypatch, kind)
    found = kind(top_k=4, stop_when_stable=True).score(planted_lm(), examples(80))
    assert len(seen) == 32 == len(found.samples) == len(found.groups)
    made = found.provenance
    assert (made["examples"], made["examples_given"], made["stable"]) == (32, 80, True)
    assert made["overlaps"] == [1.0, 1.0]
    order = [str(i) for i in range(80)]
    assert seen != order[:32]
    shuffled = examples(80)
    random.Random("0:examples").shuffle(shuffled)
    assert seen == [example.id for example in shuffled[:32]]
    assert list(found.groups) == [example.group for example in shuffled[:32]]


def test_noise_never_stops_it(monkeypatch):
    drawn(100.0, monkeypatch)
    seen = []
    detector = hw.QueryFocusedHeads(top_k=4, stop_when_stable=True)
    found = detector.score(planted_lm(), examples(70), progress=lambda done, n: seen.append((done, n)))
    assert seen[-1] == (70, 70)
    assert found.provenance["stable"] is False
    want = [bootstrap_overlap(found.samples[:n], 4, found.groups[:n], 200, 0) for n in (16, 32, 48, 64)]
    assert found.provenance["overlaps"] == want


def test_off_by_default(monkeypatch):
    seen = drawn(0.0, monkeypatch)
    found = hw.QueryFocusedHeads(top_k=4).score(planted_lm(), examples(40))
    assert seen == [str(i) for i in range(40)]
    assert "stable" not in found.provenance


def test_one_group_cannot_be_resampled(monkeypatch):
    drawn(0.0, monkeypatch)
    same = [hw.RankingExample("w1", ["w1"], [0], id=str(i), group="one") for i in range(40)]
    found = hw.QueryFocusedHeads(top_k=4, stop_when_stable=True).score(planted_lm(), same)
    assert (found.provenance["examples"], found.provenance["stable"], found.provenance["overlaps"]) == (40, False, [])


def test_heads_without_a_score_are_left_out(monkeypatch):
    def sample(self, lm, example, local):
        local.update((1, head) for head in range(4))
        return np.arange(12.0).reshape(3, 4)

    monkeypatch.setattr(hw.QueryFocusedHeads, "_sample", sample)
    found = hw.QueryFocusedHeads(top_k=10, stop_when_stable=True).score(planted_lm(), examples(40))
    assert found.provenance["stable"] is True
    assert np.isnan(found.scores[1]).all()
