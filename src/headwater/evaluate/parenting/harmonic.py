"""Intervals of the harmonic mean of two shares: no mean of any question's value, so both are resampled together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE, RESAMPLES = 0.95, 10_000


@dataclass(frozen=True)
class Axes:
    """What a row scored on both axes.

    Attributes:
        adherence: `[seeds, conflicts]`.
        robustness: `[seeds, noise questions]`.
    """

    adherence: np.ndarray
    robustness: np.ndarray

    @property
    def harmonic(self) -> float:
        """Harmonic mean of both means over all seeds."""
        return float(_harmonic(self.adherence.mean(), self.robustness.mean()))

    def repeated(self, seeds: int) -> Axes:
        """So many seeds of a row that has one."""
        return Axes(*(np.broadcast_to(each, (seeds, each.shape[1])) for each in (self.adherence, self.robustness)))

    def first(self, seeds: int) -> Axes:
        """The first so many seeds."""
        return Axes(self.adherence[:seeds], self.robustness[:seeds])


def interval(axes: Axes, groups: tuple[Sequence[str], Sequence[str]], seed: int = 0) -> dict[str, float]:
    """Harmonic mean with its percentile interval; seeds and countries (those of both tests at once) are resampled.

    Args:
        axes: of a row.
        groups: country of every conflict, of every noise question.
        seed: of the draws.
    """
    return _about(axes.harmonic, _drawn(axes, groups, seed), axes)


def difference(one: Axes, other: Axes, groups: tuple[Sequence[str], Sequence[str]], seed: int = 0) -> dict[str, float]:
    """Harmonic mean of one row minus that of another, under the same draws; p as in `paired_difference`.

    A row of one seed stands beside every seed of the other one; else both have as many.
    """
    seeds = max(len(one.adherence), len(other.adherence))
    if min(len(one.adherence), len(other.adherence)) > 1:
        seeds = min(len(one.adherence), len(other.adherence))
    pair = [each.first(seeds) if len(each.adherence) >= seeds else each.repeated(seeds) for each in (one, other)]
    drawn = _drawn(pair[0], groups, seed) - _drawn(pair[1], groups, seed)
    mean = pair[0].harmonic - pair[1].harmonic
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = 1.0 if mean == 0 and not drawn.any() else min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
    return {**_about(mean, drawn, pair[0]), "p": p}


def _drawn(axes: Axes, groups: tuple[Sequence[str], Sequence[str]], seed: int) -> np.ndarray:
    """Harmonic means `[resamples]`."""
    names = {name: place for place, name in enumerate(dict.fromkeys([*groups[0], *groups[1]]))}
    draw = np.random.default_rng(seed)
    clusters = draw.multinomial(len(names), [1 / len(names)] * len(names), RESAMPLES).astype(float)
    seeds = len(axes.adherence)
    weights = draw.multinomial(seeds, [1 / seeds] * seeds, RESAMPLES) / seeds
    means = []
    for values, own in zip((axes.adherence, axes.robustness), groups, strict=True):
        places = [names[name] for name in own]
        sums = np.stack([np.bincount(places, row, len(names)) for row in values])
        sizes = np.maximum(clusters @ np.bincount(places, minlength=len(names)), 1.0)
        means.append(((weights @ sums) * clusters).sum(1) / sizes)
    return _harmonic(means[0], means[1])


def _harmonic(a: np.ndarray, r: np.ndarray) -> np.ndarray:
    """2ar / (a + r), 0 where both are 0."""
    found: np.ndarray = np.divide(2 * a * r, a + r, out=np.zeros_like(np.asarray(a, float)), where=(a + r) > 0)
    return found


def _about(mean: float, drawn: np.ndarray, axes: Axes) -> dict[str, float]:
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"mean": mean, "low": float(low), "high": float(high), "n": axes.adherence.shape[1]}
