"""From sensitivities to classes: z-scores, thresholds, the share gamma (parenting.md 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from headwater.errors import InputError

Rule = Literal["z", "code"]
Transform = Literal["log", "none"]
CLASSES = ("E", "A", "R", "O")
RULES = ("z", "code")
TRANSFORMS = ("log", "none")


def weighted(raw: Sequence[float] | np.ndarray, layers: Sequence[int], weights: Sequence[float]) -> np.ndarray:
    """Sensitivities `[units]`, each times the forward term of its layer."""
    found: np.ndarray = np.asarray(raw, float) * np.asarray(weights, float)[list(layers)]
    return found


def z_scores(scores: np.ndarray, transform: Transform = "log") -> np.ndarray:
    """z-scores over all units `[units]`, with the population's standard deviation.

    With "log" a score of zero counts as the smallest positive one.

    Raises:
        InputError: a score that is not finite or negative, or scores that are all the same.
    """
    if not np.isfinite(scores).all() or (scores < 0).any():
        raise InputError("A sensitivity is negative or not finite: lower the learning rate of mining, or use float32.")
    if not (scores > 0).any():
        raise InputError("All sensitivities are zero: no gradient reached the units (a new adapter needs two steps).")
    values = np.log(np.maximum(scores, scores[scores > 0].min())) if transform == "log" else scores
    spread = values.std()
    if not spread > 0:
        raise InputError("All units have the same score, so none stands out.")
    found: np.ndarray = (values - values.mean()) / spread
    return found


def classified(
    scores_a: np.ndarray, scores_r: np.ndarray, tau: float, rule: Rule, transform: Transform
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Classes of the units, and their z-scores on both sets.

    A unit matters on a set where its z-score is above tau; with `rule="code"` where its score is above the mean plus
    the variance of all scores, as in the released code, whatever tau is.

    Raises:
        InputError: an unknown rule or transform, or scores that cannot be used.
    """
    if rule not in RULES or transform not in TRANSFORMS:
        raise InputError(f"Rules are {', '.join(RULES)}; transforms of the scores are {', '.join(TRANSFORMS)}.")
    z = {"a": z_scores(scores_a, transform), "r": z_scores(scores_r, transform)}
    above = {name: values > tau for name, values in z.items()}
    if rule == "code":
        above = {name: found > found.mean() + found.var() for name, found in (("a", scores_a), ("r", scores_r))}
    classes = [("E" if r else "A") if a else ("R" if r else "O") for a, r in zip(above["a"], above["r"], strict=True)]
    return classes, z["a"], z["r"]


def refuse_empty(classes: Sequence[str], z_a: np.ndarray, z_r: np.ndarray, tau: float, rule: Rule) -> None:
    """Refuse classes of which A or R holds no unit: there would be nothing to tune apart.

    Raises:
        InputError: names the threshold and the range of the scores.
    """
    missing = [name for name in ("A", "R") if name not in classes]
    if missing:
        limit = "mean plus variance of the scores" if rule == "code" else f"tau {tau:g}"
        raise InputError(
            f"No unit is of class {' or '.join(missing)} at {limit}: z on S_a goes from {z_a.min():.2f} to "
            f"{z_a.max():.2f}, on S_r from {z_r.min():.2f} to {z_r.max():.2f}. Use another tau."
        )


def entangled_share(classes: Sequence[str], z_a: np.ndarray, z_r: np.ndarray) -> float:
    """gamma_a: the mean z_a over class E against mean z_a plus mean z_r; 0.5 where E is empty or that is no share."""
    entangled = np.array([found == "E" for found in classes])
    if not entangled.any():
        return 0.5
    a, r = float(z_a[entangled].mean()), float(z_r[entangled].mean())
    return min(1.0, max(0.0, a / (a + r))) if a + r > 0 else 0.5


def check_shares(delta: float, leak: float) -> None:
    """Refuse shares of the losses that cannot be (`UnitMap.mixture`).

    Raises:
        InputError: a share outside 0 to 1, or a leak above 0.5.
    """
    if not 0 < delta <= 1 or not 0 <= leak <= 0.5:
        raise InputError(f"delta lies above 0 and up to 1, leak from 0 to 0.5; got {delta} and {leak}.")
