"""Stability: what is certain, what is chance, and what clusters change; slow twins beside the fast paths."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import HeadSetError, InputError
from headwater.headset import HeadScores
from headwater.headset.agreement import agreement, best_first, chance_overlap, spearman, top
from headwater.headset.samples import Samples
from headwater.headset.stability import bootstrap, bootstrap_overlap, disjoint_sets, growth, halves, stability

SHAPE = (4, 16)


def planted(examples: int, noise: float, seed: int = 0, good: int = 6) -> np.ndarray:
    """Samples in which the first `good` heads are better than the others by one."""
    samples = noise * np.random.default_rng(seed).normal(size=(examples, *SHAPE))
    samples[:, 0, :good] += 1
    return samples


@settings(max_examples=30, deadline=None)
@given(
    grid=st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=6, max_size=12),
    n=st.integers(2, 9),
    k=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_identical_samples_give_one(grid: list[float], n: int, k: int, seed: int) -> None:
    samples = np.repeat(np.array(grid).reshape(1, 1, -1), n, axis=0)
    groups = [i // 2 for i in range(n)] if n > 2 else None
    assert bootstrap_overlap(samples, k, groups, draws=20, seed=seed) == 1
    assert halves(samples, k, groups, draws=5, seed=seed).overlap == 1
    assert disjoint_sets(samples, k, groups, sets=2, seed=seed).agreement.overlap == 1
    assert all(point.full["mean"] == 1 for point in growth(samples, k, groups, draws=5, seed=seed))


def test_random_samples_give_chance_and_the_bootstrap_gives_its_noise() -> None:
    found = [halves(planted(24, 1.0, seed, good=0), 8, draws=20, seed=seed) for seed in range(40)]
    assert np.mean([f.overlap for f in found]) == pytest.approx(8 / 64, abs=0.03)
    assert np.mean([f.spearman for f in found]) == pytest.approx(0, abs=0.05)
    parts = [disjoint_sets(planted(24, 1.0, seed, good=0), 8, sets=3).agreement.overlap for seed in range(80)]
    assert np.mean(parts) == pytest.approx(8 / 64, abs=0.03)
    boots = [bootstrap(planted(24, 1.0, seed, good=0), 8, draws=100) for seed in range(30)]
    noise = np.mean([b.noise for b in boots])
    assert np.mean([b.overlap for b in boots]) == pytest.approx(noise, abs=0.05)
    assert noise > 2 * 8 / 64, "a bootstrap sample shares its examples with the whole"


def test_planted_heads_are_found_surely() -> None:
    found = bootstrap(planted(32, 0.3), 6, draws=200)
    assert found.overlap == 1
    assert {member.head for member in found.members} == {(0, head) for head in range(6)}
    assert all(member.membership == 1 and member.low < member.score < member.high for member in found.members)
    assert found.noise < 0.7
    loose = bootstrap(planted(32, 0.3), 10, draws=200)
    assert all(member.membership == 1 for member in loose.members[:6])
    assert all(member.membership < 1 for member in loose.members[6:])
    assert loose.membership.sum() == pytest.approx(10)


def slow_bootstrap(samples: np.ndarray, k: int, groups: list[str], draws: int, seed: int) -> float:
    """Lists and loops: pool the examples of drawn groups, average, sort heads."""
    names = sorted(set(groups))
    drawn, shares = random.Random(seed), []
    flat = samples.reshape(len(samples), -1)
    full = sorted(range(flat.shape[1]), key=lambda h: -flat[:, h].mean())[:k]
    for _ in range(draws):
        picked = [flat[i] for name in drawn.choices(names, k=len(names)) for i, g in enumerate(groups) if g == name]
        mean = np.mean(picked, axis=0)
        best = sorted(range(flat.shape[1]), key=lambda h: -mean[h])[:k]
        shares.append(len(set(best) & set(full)) / k)
    return sum(shares) / draws


def test_the_bootstrap_equals_a_slow_twin() -> None:
    samples = planted(20, 0.8)
    groups = [f"c{i % 7}" for i in range(20)]
    want = slow_bootstrap(samples, 8, groups, 1500, 0)
    assert bootstrap_overlap(samples, 8, groups, draws=4000) == pytest.approx(want, abs=0.02)


def test_intervals_cover_and_widen_with_clusters() -> None:
    rng = np.random.default_rng(1)
    inside, alone, clustered = [], [], []
    for seed in range(60):
        shift = np.repeat(rng.normal(size=(12, *SHAPE)), 4, axis=0)  # 12 countries with 4 questions each
        samples = shift + 0.2 * rng.normal(size=(48, *SHAPE))
        groups = [i // 4 for i in range(48)]
        found = bootstrap(samples, 4, groups, draws=300, seed=seed)
        inside.append(((found.low <= 0) & (found.high >= 0)).mean())
        clustered.append((found.high - found.low).mean())
        other = bootstrap(samples, 4, draws=300, seed=seed)
        alone.append((other.high - other.low).mean())
    assert 0.88 < np.mean(inside) < 0.97
    assert np.mean(clustered) > 1.6 * np.mean(alone)


def test_clusters_matter() -> None:
    """Each country has favourite heads of its own: halves that share countries agree, others do not."""
    rng = np.random.default_rng(0)
    samples = np.repeat(rng.normal(size=(8, *SHAPE)), 16, axis=0) + 0.05 * rng.normal(size=(128, *SHAPE))
    groups = [i // 16 for i in range(128)]
    assert halves(samples, 8, None, draws=20).overlap > 0.6
    assert halves(samples, 8, groups, draws=20).overlap < 0.3
    assert bootstrap_overlap(samples, 8, groups) < bootstrap_overlap(samples, 8) - 0.15


def test_parts_share_no_group_and_lose_nothing() -> None:
    groups = [i // 5 for i in range(33)]
    table = Samples(planted(33, 1.0), 3, groups)
    for count in (2, 3, 7):
        parts = table.parts(count, np.random.default_rng(count))
        assert sorted(i for part in parts for i in part) == list(range(33))
        owners = [{groups[i] for i in part} for part in parts]
        assert sum(map(len, owners)) == len(set(groups))
        assert max(map(len, parts)) - min(map(len, parts)) <= 5
    rng = np.random.default_rng(0)
    assert len({tuple(sorted(table.parts(2, rng)[0])) for _ in range(20)}) > 10, "drawn anew each time"


def test_more_examples_agree_more() -> None:
    points = growth(planted(64, 2.0), 6, draws=30)
    assert [point.n for point in points] == [1, 2, 4, 8, 16, 32]
    assert points[-1].full["mean"] > points[0].full["mean"] + 0.3
    assert points[-1].between is not None
    assert points[0].between is not None
    assert points[-1].between["mean"] > points[0].between["mean"] + 0.2
    assert points[-1].full["mean"] > points[-1].between["mean"], "what is part of the whole agrees more with it"
    uneven = growth(planted(10, 1.0), 6, groups=[0] * 7 + [1] * 3, sizes=[3, 4, 10], draws=5)
    assert [point.between is None for point in uneven] == [False, True, True]
    assert uneven[-1].full == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_heads_without_a_score_are_never_chosen() -> None:
    samples = planted(16, 0.5)
    samples[3, 0, 0] = np.nan
    samples[:, 0, 1] = np.nan
    samples[2, 0, 2] = np.inf
    found = bootstrap(samples, 8, draws=50)
    assert {(0, 0), (0, 1), (0, 2)}.isdisjoint(member.head for member in found.members)
    assert np.isnan(found.low[0, :3]).all()
    assert found.membership[0, :3].sum() == 0
    assert np.isfinite(found.low).sum() == 61
    assert all((0, 1) not in heads for heads in disjoint_sets(samples, 8).sets)
    with pytest.raises(HeadSetError, match="Cannot choose 62 heads: 61"):
        bootstrap_overlap(samples, 62)
    assert stability(HeadScores(samples.mean(0), {}, samples), 8, draws=20, splits=3).scored == 61


@settings(max_examples=40, deadline=None)
@given(total=st.integers(2, 60), data=st.data())
def test_chance_is_hypergeometric(total: int, data: st.DataObject) -> None:
    first, second = (data.draw(st.integers(1, total)) for _ in range(2))
    found = chance_overlap(first, second, total)

    def share(shared: int) -> float:
        ways = math.comb(second, shared) * math.comb(total - second, first - shared)
        return ways / math.comb(total, first)

    least, most = max(0, first + second - total), min(first, second)
    probabilities = {shared: share(shared) for shared in range(least, most + 1)}
    assert found.mean == pytest.approx(sum(n * p for n, p in probabilities.items()))
    assert sum(p for n, p in probabilities.items() if n <= found.high) >= 0.95 - 1e-9
    assert sum(p for n, p in probabilities.items() if n < found.high) < 0.95 + 1e-9
    assert (found.overlap, found.overlap_high) == (found.mean / most, found.high / most)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(st.integers(-3, 3), min_size=9, max_size=9), min_size=1, max_size=4), k=st.integers(1, 9))
def test_the_best_heads_are_those_of_a_sorted_list(rows: list[list[int]], k: int) -> None:
    array = np.array(rows) / 3
    for row, order, inside in zip(array, best_first(array), top(array, k), strict=True):
        want = sorted(range(9), key=lambda i: (-row[i], i))
        assert order.tolist() == want
        assert np.flatnonzero(inside).tolist() == sorted(want[:k])
        assert [divmod(i, 3) for i in want[:k]] == HeadScores(row.reshape(3, 3)).top(k).heads


def test_sums_that_differ_by_rounding_are_a_tie() -> None:
    assert best_first(np.array([[0.3, 0.1 + 0.2, 0.1 + 0.1 + 0.1]])).tolist() == [[0, 1, 2]]


def test_correlation() -> None:
    a = np.array([[1.0, 2.0, np.nan], [4.0, 3.0, 0.0]])
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert math.isnan(spearman(a, np.ones_like(a)))
    with pytest.raises(InputError, match="shapes"):
        spearman(a, a[:1])
    assert agreement([a, a * 2, a + 1], 2).as_dict() == {
        "k": 2, "pairs": 3, "overlap": 1.0, "overlap_low": 1.0, "overlap_high": 1.0, "spearman": pytest.approx(1.0)
    }  # fmt: skip
    assert agreement([np.ones((2, 2))] * 2, 1).as_dict()["spearman"] is None
    with pytest.raises(InputError, match="one shape"):
        agreement([a], 1)


def test_everything_together_is_json() -> None:
    samples, groups = planted(24, 0.5), [f"c{i // 3}" for i in range(24)]
    scores = HeadScores(samples.mean(0), {}, samples, groups)
    found = stability(scores, 6, draws=50, splits=5, others=[HeadScores(planted(24, 0.5, seed=1).mean(0))])
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (record["k"], record["examples"], record["groups"], record["scored"]) == (6, 24, 8, 64)
    assert record["bootstrap"]["members"][0]["head"][0] == 0
    assert np.shape(record["bootstrap"]["low"]) == SHAPE
    assert record["seeds"]["overlap"] == 1
    assert record["disjoint"]["shared"]
    assert record["halves_of_examples"]["pairs"] == 5
    assert record["chance"]["overlap"] == pytest.approx(6 / 64)
    single = stability(HeadScores(samples.mean(0), {}, samples), 6, draws=20, splits=3)
    assert single.halves_of_examples is None
    assert single.seeds is None
    two = stability(HeadScores(samples.mean(0), {}, samples, [i % 2 for i in range(24)]), 6, draws=20, splits=3)
    assert two.disjoint is None


def test_the_same_seed_gives_the_same_numbers() -> None:
    scores = HeadScores(np.zeros(SHAPE), {}, planted(12, 1.0))
    first, second = (stability(scores, 5, draws=30, splits=4, seed=3).as_dict() for _ in range(2))
    assert first == second
    assert first != stability(scores, 5, draws=30, splits=4, seed=4).as_dict()


def test_bad_input() -> None:
    samples = planted(6, 1.0)
    with pytest.raises(InputError, match="no samples"):
        stability(HeadScores(samples.mean(0)), 3)
    with pytest.raises(InputError, match=r"\[examples, layers, heads\]"):
        bootstrap_overlap(samples[0], 3)
    with pytest.raises(InputError, match="6 samples but 2 groups"):
        bootstrap_overlap(samples, 3, ["a", "b"])
    with pytest.raises(InputError, match="about one thing"):
        bootstrap_overlap(samples, 3, ["a"] * 6)
    with pytest.raises(HeadSetError, match="Cannot choose 0"):
        bootstrap_overlap(samples, 0)
    with pytest.raises(InputError, match="7 disjoint sets of 6 groups"):
        disjoint_sets(samples, 3, sets=7)
    with pytest.raises(InputError, match="between 1 and 6"):
        growth(samples, 3, sizes=[7])
    with pytest.raises(InputError, match="Sets of 5 and 3 heads"):
        chance_overlap(5, 3, 4)
