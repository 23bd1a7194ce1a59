"""Whether unit scores repeat: two halves of a set that share nothing, and how alike they rank (parenting.md 3.3)."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence

import numpy as np

from headwater.adapt.parenting.losses import TrainingPrompt
from headwater.errors import InputError, UnreliableUnitsError
from headwater.headset.agreement import spearman

logger = logging.getLogger("headwater")

LEAST = 0.5


def halved(prompts: Sequence[TrainingPrompt], seed: int, name: str = "a") -> tuple[list[TrainingPrompt], ...]:
    """Two halves of a set that share no group, of about the same size.

    Raises:
        InputError: all prompts are of one group.
    """
    groups: dict[str, list[TrainingPrompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.group, []).append(prompt)
    if len(groups) < 2:
        raise InputError(f"The items of the set {name!r} are all of one group; mining twice needs two groups at least.")
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    halves: tuple[list[TrainingPrompt], list[TrainingPrompt]] = ([], [])
    for group in order:
        halves[len(halves[0]) > len(halves[1])].extend(groups[group])
    return halves


def reliability_of(scores_a: Sequence[np.ndarray], scores_r: Sequence[np.ndarray]) -> dict[str, float]:
    """Spearman's rho between the two halves of S_a ("a"), of S_r ("r"), and between the sets ("between": mean of all).

    A constant score counts as no correlation.
    """
    pairs = {
        "a": [(scores_a[0], scores_a[1])],
        "r": [(scores_r[0], scores_r[1])],
        "between": [(a, r) for a in scores_a for r in scores_r],
    }
    found = {name: [spearman(one, other) for one, other in given] for name, given in pairs.items()}
    return {name: float(np.mean([0.0 if math.isnan(rho) else rho for rho in rhos])) for name, rhos in found.items()}


def judge(reliability: Mapping[str, float], force: bool) -> None:
    """Refuse scores that do not repeat; with `force` a warning says so.

    Raises:
        UnreliableUnitsError: a rho within a set is below 0.5.
    """
    poor = [name for name in ("a", "r") if reliability[name] < LEAST]
    if not poor:
        return
    told = " and ".join(f"{reliability[name]:.2f} on S_{name}" for name in poor)
    text = f"Mined on two disjoint halves, the units rank too differently: Spearman's rho is {told}, below {LEAST}"
    if not force:
        raise UnreliableUnitsError(
            f"{text}. Mine on more items or for more steps, or take the map all the same with force (--force).",
            reliability=dict(reliability),
        )
    logger.warning("%s; taken all the same.", text)
