"""Intervals and tests: the bootstrap over clusters and seeds, for a mean and for the mean difference of paired values.

Questions about one country are not independent, so whole groups are drawn with replacement and the mean is that of
the pooled questions (a ratio of sums). Where a system ran with several seeds, seeds are drawn with replacement too.
Intervals are percentile intervals. Of one seed, `scipy.stats.bootstrap` does the work.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from headwater.errors import InputError, MissingExtraError

Values = Sequence[float] | Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: over all values.
        low: lower end.
        high: upper end.
        n: number of queries.
        groups: number of clusters that were resampled.
    """

    mean: float
    low: float
    high: float
    n: int
    groups: int

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """For example `0.913 [0.897, 0.928]`."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference with its interval.

    Attributes:
        p: two-sided p-value: how often the resampled difference falls on the other side of zero, doubled.
        detectable: the smallest true difference that this many queries would show (two-sided level 1 - confidence)
            in 80 of 100 repetitions.
    """

    p: float
    detectable: float


def mean_interval(
    values: Values,
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean and percentile bootstrap interval.

    Args:
        values: one number per query, or `[seeds, queries]`.
        groups: cluster of each query (None: each is its own).
        confidence: of the interval.
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        InputError: for no values, values that are not finite, groups of another length, or one group only.
        MissingExtraError: when scipy is not installed.
    """
    sums, counts = _clusters(values, groups)
    mean = float(sums.mean(0).sum() / counts.sum())
    drawn = _resampled(sums, counts, resamples, seed)
    low, high = _percentiles(drawn, confidence, mean)
    return Interval(mean, low, high, int(counts.sum()), len(counts))


def paired_difference(
    first: Values,
    second: Values,
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Interval of mean(first - second), both measured on the same queries in the same order.

    Where only one of them ran with several seeds, the other one's values stand beside each seed. Seeds of two systems
    are paired in their order.

    Raises:
        InputError: when the two are not of one length, or as `mean_interval`.
    """
    a, b = np.atleast_2d(np.asarray(first, np.float64)), np.atleast_2d(np.asarray(second, np.float64))
    if a.shape[1] != b.shape[1] or (len(a) != len(b) and min(len(a), len(b)) > 1):
        raise InputError(f"Paired values must have one length, got {a.shape} and {b.shape}.")
    sums, counts = _clusters(a - b, groups)
    mean = float(sums.mean(0).sum() / counts.sum())
    drawn = _resampled(sums, counts, resamples, seed)
    low, high = _percentiles(drawn, confidence, mean)
    if np.ptp(drawn) == 0:
        same_sign = 0.5 ** (len(counts) - 1)  # the sign test
        p = 1.0 if mean == 0 else max(2 / (resamples + 1), same_sign)
    else:
        beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
        p = min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
    normal = NormalDist()
    factor = normal.inv_cdf(1 - (1 - confidence) / 2) + normal.inv_cdf(0.8)
    return Difference(mean, low, high, int(counts.sum()), len(counts), float(p), float(factor * drawn.std()))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number by Holm's step-down method (Holm 1979), by name.

    Raises:
        InputError: for a value outside 0 to 1.
    """
    if any(not 0 <= p <= 1 for p in p_values.values()):
        raise InputError("p-values lie between 0 and 1.")
    out: dict[str, float] = {}
    largest = 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - place)))
        out[name] = largest
    return {name: out[name] for name in p_values}


def _clusters(values: Values, groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums `[seeds, clusters]` and sizes `[clusters]`."""
    array = np.asarray(values, np.float64)
    if array.ndim not in (1, 2) or not array.size or not np.isfinite(array).all():
        raise InputError("The bootstrap needs a list of at least one finite number.")
    array = np.atleast_2d(array)
    number = array.shape[1]
    if groups is not None and len(groups) != number:
        raise InputError(f"There are {number} values but {len(groups)} groups.")
    names: dict[Hashable, int] = {}
    places = [names.setdefault(name, len(names)) for name in (range(number) if groups is None else groups)]
    if len(names) == 1 and number > 1:
        raise InputError("All values are of one group; an interval over groups needs at least two.")
    counts = np.bincount(places).astype(np.float64)
    return np.stack([np.bincount(places, weights=row) for row in array]), counts


def _resampled(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of resampled clusters (and seeds), `[resamples]`."""
    means = sums / counts
    if np.ptp(means) == 0:  # scipy calls a constant sample degenerate; every resample has this mean
        return np.full(1, means[0, 0])
    draw = np.random.default_rng(seed)
    if len(sums) > 1:
        seeds = draw.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples) / len(sums)
        clusters = draw.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=resamples)
        total: np.ndarray = ((seeds @ sums) * clusters).sum(1) / (clusters @ counts)
        return total
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise MissingExtraError(
            "Intervals need scipy, which the extra [eval] brings: pip install 'headwater[eval]'."
        ) from error

    def pooled(total: np.ndarray, number: np.ndarray, axis: int = -1) -> np.ndarray:
        return total.sum(axis) / number.sum(axis)

    result = bootstrap(
        (sums[0], counts),
        pooled,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        batch=1000,
        rng=draw,
    )
    return np.asarray(result.bootstrap_distribution)


def _percentiles(drawn: np.ndarray, confidence: float, mean: float) -> tuple[float, float]:
    if len(drawn) == 1:
        return mean, mean
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
