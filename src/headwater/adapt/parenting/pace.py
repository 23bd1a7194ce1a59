"""How fast a Parenting training goes, and which examples come when (parenting.md 3.5, 5)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from headwater.adapt.parenting.losses import TrainingPrompt


@dataclass(frozen=True)
class Pace:
    """How fast to train, and what is written down.

    Attributes:
        batch: examples of each loss in a step, over all processes.
        micro_batch: of them in one forward pass (None: all).
        learning_rate: the highest; a linear warm-up leads to it and a linear decay to zero from it, in each phase.
        warmup: share of a phase's steps that warm up.
        max_norm: gradients are scaled down to this norm.
        together: one norm over all classes; else each class by itself.
        weight_decay: of AdamW.
        every: steps between two looks at the guards, and between checkpoints.
        seed: of the order of the examples.
        checkpointing: "none", "non-reentrant" or "reentrant".
    """

    batch: int = 16
    micro_batch: int | None = None
    learning_rate: float = 5e-5
    warmup: float = 0.05
    max_norm: float = 1.0
    together: bool = False
    weight_decay: float = 0.0
    every: int = 50
    seed: int = 0
    checkpointing: str = "none"

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step `0 <= step < steps` of a phase."""
        warm = math.ceil(self.warmup * steps)
        share = (step + 1) / (warm + 1) if step < warm else (steps - step) / (steps - warm)
        return self.learning_rate * share


def draw(prompts: Sequence[TrainingPrompt], name: str, seed: int, step: int, batch: int) -> list[TrainingPrompt]:
    """The examples of one loss in one step: through all of them in a random order, then in another one."""
    chosen = []
    for place in range(step * batch, (step + 1) * batch):
        turn, within = divmod(place, len(prompts))
        chosen.append(prompts[_order(name, seed, turn, len(prompts))[within]])
    return chosen


@lru_cache(maxsize=64)
def _order(name: str, seed: int, turn: int, count: int) -> tuple[int, ...]:
    """A random order of so many examples."""
    return tuple(random.Random(f"{seed}:{name}:{turn}").sample(range(count), count))
