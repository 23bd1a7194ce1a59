"""Intervals: the bootstrap over clusters, for a mean and for the mean difference of paired values.

Questions about one country are not independent, so whole groups are drawn with replacement and the mean is that of
the pooled questions (a ratio of sums). The percentile interval of `scipy.stats.bootstrap` is used.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from headwater.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: over all values.
        low: lower end.
        high: upper end.
        n: number of values.
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


def mean_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean and percentile bootstrap interval.

    Args:
        values: one number per query.
        groups: cluster of each query (None: each is its own).
        confidence: of the interval.
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        InputError: for no values, values that are not finite, groups of another length, or one group only.
        MissingExtraError: when scipy is not installed.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise InputError("The bootstrap needs a list of at least one finite number.")
    if groups is not None and len(groups) != array.size:
        raise InputError(f"There are {array.size} values but {len(groups)} groups.")
    clusters: dict[Hashable, list[int]] = {}
    for index, name in enumerate(range(array.size) if groups is None else groups):
        clusters.setdefault(name, []).append(index)
    sums = np.array([array[members].sum() for members in clusters.values()])
    counts = np.array([len(members) for members in clusters.values()], np.float64)
    mean = float(array.mean())
    if len(clusters) == 1 and array.size > 1:
        raise InputError("All values are of one group; an interval over groups needs at least two.")
    if np.ptp(array) == 0:  # scipy calls a constant sample degenerate; every resample has this mean
        return Interval(mean, mean, mean, array.size, len(clusters))
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise MissingExtraError(
            "Intervals need scipy, which the extra [eval] brings: pip install 'headwater[eval]'."
        ) from error

    def pooled(total: np.ndarray, number: np.ndarray, axis: int = -1) -> np.ndarray:
        return total.sum(axis) / number.sum(axis)

    result = bootstrap(
        (sums, counts),
        pooled,
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=resamples,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(mean, float(low), float(high), array.size, len(clusters))


def paired_difference(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(first - second), both measured on the same queries in the same order.

    Raises:
        InputError: when the two are not of one length, or as `mean_interval`.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise InputError(f"Paired values must have one length, got {a.shape} and {b.shape}.")
    return mean_interval(a - b, groups, confidence=confidence, resamples=resamples, seed=seed)
