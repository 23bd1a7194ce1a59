"""How far a head set depends on the examples it was found on (retrieval_heads.md 8, qrhead.md 5 and 9).

Everything starts from the samples of a detector, `HeadScores.samples` `[examples, layers, heads]`. Examples about one
thing (a country, a needle: `HeadScores.groups`) are not independent, so whole groups are resampled or kept apart; a
score is the mean over the pooled examples. A head without a finite score in every example is never chosen; ties go to
the lower (layer, head).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headwater.errors import InputError
from headwater.headset.agreement import (
    Agreement,
    Chance,
    agreement,
    agreement_of_pairs,
    best_first,
    chance_overlap,
    plain,
    top,
)
from headwater.headset.headset import Head, HeadScores
from headwater.headset.samples import Samples

Groups = Sequence[Hashable] | None
_TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Member:
    """A chosen head: its score with a 95 % bootstrap interval, and the share of bootstrap sets that hold it."""

    head: Head
    score: float
    low: float
    high: float
    membership: float


@dataclass(frozen=True)
class Bootstrap:
    """Head scores and the top k under resampled groups.

    Attributes:
        k: heads chosen.
        examples: number of samples.
        groups: number of groups that were resampled.
        draws: bootstrap samples.
        overlap: mean share of the top k that the top k of a bootstrap sample holds too.
        noise: the same where the heads of every group are shuffled, so that no head is better than another. It is above
            chance, because a bootstrap sample is made of the examples it is compared with.
        members: the top k, best first.
        low: lower ends of the 95 % intervals of all scores, `[layers, heads]`; NaN where there is no score.
        high: upper ends.
        membership: share of bootstrap sets that hold the head, `[layers, heads]`.
    """

    k: int
    examples: int
    groups: int
    draws: int
    overlap: float
    noise: float
    members: list[Member]
    low: np.ndarray
    high: np.ndarray
    membership: np.ndarray


@dataclass(frozen=True)
class Disjoint:
    """Head sets found on disjoint sets of examples.

    Attributes:
        sizes: examples of each set.
        sets: the top k of each.
        shared: heads that all of them hold.
        agreement: over all pairs.
    """

    sizes: list[int]
    sets: list[list[Head]]
    shared: list[Head]
    agreement: Agreement


@dataclass(frozen=True)
class Point:
    """A number of examples, and how far it fixes the top k: means and 2.5 and 97.5 % quantiles over draws.

    Attributes:
        n: number of examples.
        full: overlap of n examples with all of them (which hold the n).
        between: overlap of two sets of n examples without a common group; None where there are not enough.
    """

    n: int
    full: dict[str, float]
    between: dict[str, float] | None


@dataclass(frozen=True)
class Stability:
    """Everything above about one detector.

    Attributes:
        k: heads chosen.
        examples: number of samples.
        groups: number of groups.
        scored: heads with a score.
        chance: of two sets of k heads.
        bootstrap: groups resampled.
        halves: random halves without a common group.
        halves_of_examples: random halves that may share groups; None where every example is its own group.
        disjoint: disjoint sets; None where there are fewer groups than sets.
        curve: overlap against the number of examples.
        seeds: the detector with other seeds on the same examples; None where it ran once.
    """

    k: int
    examples: int
    groups: int
    scored: int
    chance: Chance
    bootstrap: Bootstrap
    halves: Agreement
    halves_of_examples: Agreement | None
    disjoint: Disjoint | None
    curve: list[Point]
    seeds: Agreement | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON; what is not finite becomes None."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def stability(
    found: HeadScores,
    k: int,
    *,
    sets: int = 3,
    draws: int = 1000,
    splits: int = 50,
    seed: int = 0,
    others: Sequence[HeadScores] = (),
) -> Stability:
    """Everything about the top k of a detector's scores.

    Args:
        found: scores with samples.
        k: heads chosen.
        sets: disjoint sets of examples.
        draws: bootstrap samples.
        splits: random halves, and draws per point of the curve.
        seed: of all draws.
        others: scores of the same detector with other seeds.

    Raises:
        InputError: scores without samples, or fewer than two groups.
        HeadSetError: k is not between 1 and the number of scored heads.
        MissingExtraError: scipy is not installed.
    """
    if found.samples is None:
        raise InputError("These scores hold no samples per example, so there is nothing to resample.")
    table = Samples(found.samples, k, found.groups)
    number, scored = len(table.values), int(table.scored.sum())
    alone = table.groups == number
    return Stability(
        k=k,
        examples=number,
        groups=table.groups,
        scored=scored,
        chance=chance_overlap(k, k, scored),
        bootstrap=bootstrap(found.samples, k, found.groups, draws, seed),
        halves=halves(found.samples, k, found.groups, splits, seed),
        halves_of_examples=None if alone else halves(found.samples, k, None, splits, seed),
        disjoint=disjoint_sets(found.samples, k, found.groups, sets, seed) if table.groups >= sets else None,
        curve=growth(found.samples, k, found.groups, None, splits, seed),
        seeds=agreement([found.scores, *(other.scores for other in others)], k) if others else None,
    )


def bootstrap_overlap(samples: np.ndarray, k: int, groups: Groups = None, draws: int = 200, seed: int = 0) -> float:
    """Mean share of the top k of the mean that the top k of bootstrap means hold too.

    The stop rule of detectors asks for at least 0.9 twice running (qrhead.md 5). Chance is no measure for it: see
    `Bootstrap.noise`.

    Args:
        samples: float `[examples, layers, heads]`; a head with NaN is never chosen.
        k: heads chosen.
        groups: what each example is about; whole groups are drawn (None: examples).
        draws: bootstrap samples.
        seed: of the draws.

    Raises:
        InputError: samples of another shape, groups of another length, or one group only.
        HeadSetError: k is not between 1 and the number of scored heads.
    """
    table = Samples(samples, k, groups)
    drawn = top(table.resampled(draws, np.random.default_rng(seed)), k)
    return float(drawn[:, table.chosen].mean())


def bootstrap(samples: np.ndarray, k: int, groups: Groups = None, draws: int = 1000, seed: int = 0) -> Bootstrap:
    """Overlap, intervals of all scores, membership of all heads. Arguments and errors of `bootstrap_overlap`."""
    table = Samples(samples, k, groups)
    means = table.resampled(draws, np.random.default_rng(seed))
    inside = top(means, k)
    low, high = np.quantile(np.where(table.scored, means, 0.0), _TAILS, axis=0)
    low, high = (np.where(table.scored, end, np.nan) for end in (low, high))
    share = inside.mean(0)
    members = [
        Member(table.head(i), float(table.mean[i]), float(low[i]), float(high[i]), float(share[i]))
        for i in table.chosen
    ]
    overlap = float(inside[:, table.chosen].mean())
    noise = bootstrap_overlap(table.shuffled(np.random.default_rng(seed)), k, groups, min(draws, 200), seed)
    low, high, share = (array.reshape(table.shape) for array in (low, high, share))
    return Bootstrap(k, len(table.values), table.groups, draws, overlap, noise, members, low, high, share)


def halves(samples: np.ndarray, k: int, groups: Groups = None, draws: int = 50, seed: int = 0) -> Agreement:
    """Agreement of random disjoint halves; no group is in both. Arguments and errors of `bootstrap_overlap`."""
    table = Samples(samples, k, groups)
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(draws):
        first, second = table.parts(2, rng)
        pairs.append((table.means(first), table.means(second)))
    return agreement_of_pairs(pairs, k)


def disjoint_sets(samples: np.ndarray, k: int, groups: Groups = None, sets: int = 3, seed: int = 0) -> Disjoint:
    """The top k of several sets of examples without a common group. Arguments and errors of `bootstrap_overlap`.

    Raises:
        InputError: fewer groups than sets, or fewer than two sets.
    """
    table = Samples(samples, k, groups)
    if not 2 <= sets <= table.groups:
        raise InputError(f"Cannot make {sets} disjoint sets of {table.groups} groups; ask for 2 to {table.groups}.")
    parts = table.parts(sets, np.random.default_rng(seed))
    grids = [table.means(part) for part in parts]
    found = [[table.head(place) for place in best_first(grid[None])[0, :k]] for grid in grids]
    shared = [head for head in found[0] if all(head in other for other in found[1:])]
    return Disjoint([len(part) for part in parts], found, shared, agreement(grids, k))


def growth(
    samples: np.ndarray,
    k: int,
    groups: Groups = None,
    sizes: Sequence[int] | None = None,
    draws: int = 50,
    seed: int = 0,
) -> list[Point]:
    """Overlap against the number of examples. Further arguments and errors of `bootstrap_overlap`.

    Examples are drawn without replacement: from all of them, and for `between` from each of two random halves that
    share no group.

    Args:
        samples: float `[examples, layers, heads]`.
        k: heads chosen.
        groups: what each example is about.
        sizes: numbers of examples (None: powers of two below the number of examples).
        draws: per number.
        seed: of the draws.

    Raises:
        InputError: a number that is not between 1 and the number of examples.
    """
    table = Samples(samples, k, groups)
    rng, number = np.random.default_rng(seed), len(table.values)
    wanted = [2**i for i in range(number.bit_length()) if 2**i < number] if sizes is None else list(sizes)
    if any(not 1 <= n <= number for n in wanted):
        raise InputError(f"Numbers of examples lie between 1 and {number}, got {wanted}.")
    everything = set(table.chosen.tolist())
    points = []
    for n in wanted:
        full, between = [], []
        for _ in range(draws):
            full.append(len(everything & table.best(rng.permutation(number)[:n])) / k)
            first, second = (rng.permutation(part)[:n] for part in table.parts(2, rng))
            if len(first) == len(second) == n:
                between.append(len(table.best(first) & table.best(second)) / k)
        points.append(Point(n, _spread(full), _spread(between) if len(between) == draws else None))
    return points


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, high = np.quantile(values, _TAILS)
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}
