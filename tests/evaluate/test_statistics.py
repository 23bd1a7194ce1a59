"""The clustered bootstrap against a slow loop, and its edges."""

import random

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.evaluate.statistics import holm, mean_interval, paired_difference


def slow_interval(values: list[float], groups: list[str], resamples: int, seed: int) -> tuple[float, float]:
    """Draw whole groups with replacement, pool their values, take the mean; percentiles of many means."""
    rng = random.Random(seed)
    names = sorted(set(groups))
    means = []
    for _ in range(resamples):
        pooled: list[float] = []
        for name in rng.choices(names, k=len(names)):
            pooled += [v for v, g in zip(values, groups, strict=True) if g == name]
        means.append(sum(pooled) / len(pooled))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def sample(seed: int) -> tuple[list[float], list[str]]:
    rng = random.Random(seed)
    values, groups = [], []
    for g in range(25):
        level = rng.random()
        for _ in range(rng.randint(1, 9)):
            values.append(float(rng.random() < level))
            groups.append(f"g{g}")
    return values, groups


def test_against_the_slow_loop() -> None:
    values, groups = sample(1)
    fast = mean_interval(values, groups, resamples=4000)
    low, high = slow_interval(values, groups, 4000, seed=5)
    assert fast.mean == pytest.approx(sum(values) / len(values))
    assert fast.low == pytest.approx(low, abs=0.015)
    assert fast.high == pytest.approx(high, abs=0.015)
    assert (fast.n, fast.groups) == (len(values), 25)


def test_clusters_widen_the_interval_when_their_members_agree() -> None:
    values = [0.0] * 50 + [1.0] * 50
    groups = [i // 10 for i in range(100)]
    alone, together = mean_interval(values), mean_interval(values, groups)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_paired_difference_is_the_interval_of_the_differences() -> None:
    a, groups = sample(2)
    b, _ = sample(2)
    b = [v * 0.5 for v in b]
    both = paired_difference(a, b, groups, seed=3)
    alone = mean_interval(np.array(a) - np.array(b), groups, seed=3)
    assert (both.mean, both.low, both.high, both.n, both.groups) == (
        alone.mean,
        alone.low,
        alone.high,
        alone.n,
        alone.groups,
    )
    assert both.low > 0


def test_same_seed_same_interval() -> None:
    values, groups = sample(3)
    assert mean_interval(values, groups, seed=1) == mean_interval(values, groups, seed=1)
    assert mean_interval(values, groups, seed=1) != mean_interval(values, groups, seed=2)


def test_constant_values() -> None:
    interval = mean_interval([1.0, 1.0, 1.0])
    assert (interval.mean, interval.low, interval.high) == (1, 1, 1)
    assert str(interval) == "1.000 [1.000, 1.000]"


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([], None, "at least one"),
        ([float("nan")], None, "finite"),
        ([1.0, 2.0], ["a"], "2 values but 1 groups"),
        ([1.0, 2.0], ["a", "a"], "at least two"),
    ],
)
def test_bad_input(values: list[float], groups: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mean_interval(values, groups)


def test_unpaired_lengths() -> None:
    with pytest.raises(InputError, match="one length"):
        paired_difference([1.0], [1.0, 2.0])


def test_seeds_are_resampled_with_the_clusters() -> None:
    rng = np.random.default_rng(0)
    groups = [i // 5 for i in range(60)]
    steady = np.tile(rng.random(60), (4, 1))
    moving = steady + np.array([[-0.3], [-0.1], [0.1], [0.3]])
    one, all_alike, apart = (
        mean_interval(steady[0], groups),
        mean_interval(steady, groups),
        mean_interval(moving, groups),
    )
    assert all_alike.mean == pytest.approx(one.mean)
    assert all_alike.low == pytest.approx(one.low, abs=0.01)
    assert apart.mean == pytest.approx(one.mean)
    assert apart.high - apart.low > 1.5 * (one.high - one.low)


def test_seeds_against_a_slow_loop() -> None:
    draw, rng = random.Random(4), np.random.default_rng(4)
    groups = [0, 0, 1, 2, 2, 2, 3, 4]
    values = rng.random((3, 8))
    means = []
    for _ in range(4000):
        seeds = [draw.randrange(3) for _ in range(3)]
        chosen = [draw.randrange(5) for _ in range(5)]
        pooled = [values[s, i] for s in seeds for g in chosen for i in range(8) if groups[i] == g]
        means.append(sum(pooled) / len(pooled))
    fast = mean_interval(values, groups, resamples=4000)
    low, high = np.percentile(means, [2.5, 97.5])
    assert (fast.low, fast.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))


def test_p_value_and_detectable_difference() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, 400)
    none, clear = paired_difference(noise, np.zeros(400)), paired_difference(noise + 1, np.zeros(400))
    assert none.p > 0.05
    assert clear.p < 0.001
    assert none.detectable == pytest.approx(2.8 / 20, rel=0.15)  # (1.96 + 0.84) standard errors of 1 / sqrt(400)
    same = paired_difference([1.0, 0.0], [1.0, 0.0])
    assert (same.mean, same.p, same.detectable) == (0, 1, 0)
    assert paired_difference(np.zeros(8), np.ones(8)).p == 2 * 0.5**8  # the sign test, where all differ alike
    assert paired_difference([0.0], [1.0]).p == 1
    assert paired_difference(np.zeros(400), np.ones(400)).p < 0.001


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(2)
    size = paired_difference(rng.normal(0, 1, 100), np.zeros(100), resamples=2000).detectable
    found = [paired_difference(rng.normal(size, 1, 100), np.zeros(100), resamples=500).low > 0 for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.1)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    with pytest.raises(InputError, match="between 0 and 1"):
        holm({"a": 1.5})
