"""When enough examples were looked at: the best heads would stay the same with others of the same kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headwater.headset.stability import bootstrap_overlap

DRAWS, ENOUGH, TIMES = 200, 0.9, 2  # qrhead.md 5, retrieval_heads.md 8


class StopRule:
    """Bootstraps the top k heads, whole groups at a time, after every few examples.

    Attributes:
        overlaps: mean overlap of the top k with that of bootstrap samples, one number per look.
    """

    def __init__(self, seed: int, every: int) -> None:
        """Nothing seen yet."""
        self.seed, self.every = seed, every
        self.overlaps: list[float] = []

    @property
    def settled(self) -> bool:
        """Whether the latest two looks agreed by at least 0.9."""
        return len(self.overlaps) >= TIMES and min(self.overlaps[-TIMES:]) >= ENOUGH

    def stable(self, samples: np.ndarray, groups: Sequence[str], k: int) -> bool:
        """Take note of the samples so far, `[examples, layers, heads]`, and say whether the top k are settled."""
        scored = int(np.isfinite(samples).all(0).sum())
        if len(samples) % self.every == 0 and len(set(groups)) > 1 and scored:
            self.overlaps.append(bootstrap_overlap(samples, min(k, scored), groups, DRAWS, self.seed))
        return self.settled
