"""The clustered bootstrap against a slow loop, and its edges."""

import random

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.evaluate.statistics import mean_interval, paired_difference


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
    assert both == mean_interval(np.array(a) - np.array(b), groups, seed=3)
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
