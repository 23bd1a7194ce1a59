"""How far rankings of the same heads agree: overlap of the best heads beside chance, rank correlation of all scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from headwater.errors import HeadSetError, InputError, MissingExtraError
from headwater.headset.headset import Head, HeadSet


@dataclass(frozen=True)
class Chance:
    """Heads that two sets share if both are drawn at random: the hypergeometric distribution.

    Attributes:
        first: heads of the first set.
        second: heads of the second set.
        total: heads of the model.
        mean: expected number of shared heads, `first * second / total`.
        high: 95 % quantile of that number; to share more than that is more than chance.
        overlap: `mean` as a share of the smaller set.
        overlap_high: `high` as a share of the smaller set.
    """

    first: int
    second: int
    total: int
    mean: float
    high: int
    overlap: float
    overlap_high: float

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Agreement:
    """How far score grids of the same heads agree, over their pairs.

    Attributes:
        k: heads chosen of each.
        pairs: number of pairs.
        overlap: mean share of the top k that two grids have in common.
        overlap_low: the least over the pairs.
        overlap_high: the largest over the pairs.
        spearman: mean rank correlation of all scores; NaN where it is undefined for a pair (constant scores).
    """

    k: int
    pairs: int
    overlap: float
    overlap_low: float
    overlap_high: float
    spearman: float

    def as_dict(self) -> dict[str, float | None]:
        """Plain numbers, for JSON; a correlation that is undefined is None."""
        found: dict[str, float | None] = plain(asdict(self))
        return found


def by_score(scores: np.ndarray) -> list[Head]:
    """All heads with a finite score, best first; scores are `[layers, heads]`, ties go to the lower (layer, head)."""
    flat, width = scores.ravel(), scores.shape[1]
    return [(int(i) // width, int(i) % width) for i in best_first(flat[None])[0] if np.isfinite(flat[i])]


def order_of(heads: HeadSet) -> list[Head]:
    """The heads of a set, then all others that have a score, best first: the one order whose tops are nested."""
    return list(dict.fromkeys([*heads.heads, *([] if heads.scores is None else by_score(heads.scores))]))


def chance_overlap(first: int, second: int, total: int) -> Chance:
    """How many heads two random sets of `first` and `second` heads share, of `total` heads.

    Raises:
        InputError: a set that is empty or larger than the model.
        MissingExtraError: scipy is not installed.
    """
    if not (1 <= first <= total and 1 <= second <= total):
        raise InputError(f"Sets of {first} and {second} heads cannot be drawn from {total} heads.")
    high = int(_scipy_stats().hypergeom.ppf(0.95, total, first, second))
    mean, smaller = first * second / total, min(first, second)
    return Chance(first, second, total, mean, high, mean / smaller, high / smaller)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of two score grids over the heads that both score; NaN where one of them is constant.

    Raises:
        InputError: grids of different shapes.
        MissingExtraError: scipy is not installed.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise InputError(f"Cannot correlate scores of shapes {a.shape} and {b.shape}.")
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(_scipy_stats().spearmanr(a, b).statistic)


def agreement(grids: Sequence[np.ndarray], k: int) -> Agreement:
    """Agreement of several score grids `[layers, heads]` of one model (seeds, data, fine-tuned versions), all pairs.

    Raises:
        InputError: fewer than two grids, or grids of different shapes.
        HeadSetError: k is not between 1 and the number of scored heads.
        MissingExtraError: scipy is not installed.
    """
    arrays = [np.asarray(grid, np.float64) for grid in grids]
    if len(arrays) < 2 or any(array.shape != arrays[0].shape for array in arrays):
        raise InputError("Agreement needs at least two score grids of one shape.")
    return agreement_of_pairs(list(combinations(arrays, 2)), k)


def agreement_of_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> Agreement:
    """`agreement` of given pairs of grids of one shape."""
    for grid in (grid for pair in pairs for grid in pair):
        check_k(k, int(np.isfinite(grid).sum()))
    tops = [top(np.stack([np.ravel(a), np.ravel(b)]), k) for a, b in pairs]
    overlaps = [float((first & second).sum()) / k for first, second in tops]
    together = float(np.mean([spearman(a, b) for a, b in pairs]))
    return Agreement(k, len(pairs), float(np.mean(overlaps)), min(overlaps), max(overlaps), together)


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Which heads are the k best of each row of `[rows, heads]`: bool, same shape.

    Ties go to the lower head, also between scores that differ by rounding only; what is not finite is never chosen
    while there are k others.
    """
    inside = np.zeros(scores.shape, bool)
    np.put_along_axis(inside, best_first(scores)[:, :k], True, axis=1)
    return inside


def best_first(scores: np.ndarray) -> np.ndarray:
    """Heads of each row of `[rows, heads]`, best first, with the ties of `top`."""
    finite = np.isfinite(scores)
    largest = float(np.abs(scores[finite]).max()) if finite.any() else 0.0
    settled = np.round(np.where(finite, scores, 0.0) / (largest or 1.0), 12)
    return np.argsort(np.where(finite, -settled, np.inf), axis=1, kind="stable")


def check_k(k: int, scored: int) -> None:
    """Refuse to choose more heads than have a score."""
    if not 1 <= k <= scored:
        raise HeadSetError(f"Cannot choose {k} heads: {scored} of them have a score.")


def plain(value: Any) -> Any:
    """Nested results as what JSON knows: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError(
            "Chance and correlation need scipy, which the extra [eval] brings: pip install 'headwater[eval]'."
        ) from error
    return stats
