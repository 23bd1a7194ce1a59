"""Samples of head scores in groups: means of any part of them, resampled groups, disjoint parts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from headwater.errors import InputError
from headwater.headset.agreement import best_first, check_k
from headwater.headset.headset import Head


class Samples:
    """Checked samples of which k heads are chosen.

    Args:
        samples: float `[examples, layers, heads]`.
        k: heads chosen.
        groups: what each example is about (None: each is its own group).

    Attributes:
        shape: `(layers, heads)`.
        values: `[examples, layers * heads]`, 0 for heads without a score.
        scored: heads with a finite score in every example, `[layers * heads]`.
        mean: over all examples, NaN where a head has no score.
        chosen: places of the k best heads, best first.
        groups: number of groups.

    Raises:
        InputError: samples of another shape, groups of another length, or one group only.
        HeadSetError: k is not between 1 and the number of scored heads.
    """

    def __init__(self, samples: np.ndarray, k: int, groups: Sequence[Hashable] | None = None) -> None:
        """Check, and add up the groups."""
        array = np.asarray(samples, np.float64)
        if array.ndim != 3 or not array.size:
            raise InputError(f"Samples of head scores are [examples, layers, heads], got shape {array.shape}.")
        if groups is not None and len(groups) != len(array):
            raise InputError(f"There are {len(array)} samples but {len(groups)} groups.")
        self.shape = array.shape[1:]
        flat = array.reshape(len(array), -1)
        self.scored = np.isfinite(flat).all(0)
        self.values = np.where(self.scored, flat, 0.0)
        check_k(k, int(self.scored.sum()))
        names: dict[Hashable, int] = {}
        places = [names.setdefault(name, len(names)) for name in (range(len(array)) if groups is None else groups)]
        if len(names) < 2:
            raise InputError("All examples are about one thing, so nothing can be resampled; give at least two groups.")
        self.groups = len(names)
        self._members: list[list[int]] = [[] for _ in names]
        for example, place in enumerate(places):
            self._members[place].append(example)
        self._sizes = np.array([len(members) for members in self._members], np.float64)
        self._sums = np.stack([self.values[members].sum(0) for members in self._members])
        self.k = k
        self.mean = self.means(np.arange(len(array)))
        self.chosen = best_first(self.mean[None])[0, :k]

    def head(self, place: int) -> Head:
        """(layer, head) of a place."""
        return int(place) // self.shape[1], int(place) % self.shape[1]

    def means(self, examples: Sequence[int] | np.ndarray) -> np.ndarray:
        """Mean of some examples, `[layers * heads]`; NaN where a head has no score."""
        return np.where(self.scored, self.values[examples].mean(0), np.nan)

    def best(self, examples: Sequence[int] | np.ndarray) -> set[int]:
        """Places of the k best heads by the mean of some examples."""
        return set(best_first(self.means(examples)[None])[0, : self.k].tolist())

    def resampled(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Means of the pooled examples of groups drawn with replacement, `[draws, layers * heads]`."""
        weights = rng.multinomial(self.groups, np.full(self.groups, 1 / self.groups), size=draws)
        return np.where(self.scored, (weights @ self._sums) / (weights @ self._sizes)[:, None], np.nan)

    def parts(self, count: int, rng: np.random.Generator) -> list[list[int]]:
        """All examples in `count` random parts of like size, no group in two of them."""
        parts: list[list[int]] = [[] for _ in range(count)]
        for group in rng.permutation(self.groups):
            min(parts, key=len).extend(self._members[group])
        return parts

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Samples `[examples, layers, heads]` in which each group has its scored heads in an order of its own."""
        out = np.where(self.scored, self.values, np.nan)
        places = np.flatnonzero(self.scored)
        for members in map(np.array, self._members):
            out[np.ix_(members, places)] = self.values[np.ix_(members, rng.permutation(places))]
        return out.reshape(-1, *self.shape)
