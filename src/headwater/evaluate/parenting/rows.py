"""The rows of the Parenting experiment: what each is trained on, on which units (parenting.md 8.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headwater.adapt.parenting.classes import UnitMap

BASE, PLAIN, KAFT, ROUTED = "base", "plain LoRA on the mixture", "KAFT-style mixture", "Parenting, routed"
PER_LOSS = "plain LoRA, mean per loss"
EVERY_UNIT = "plain LoRA, all units"
SEQUENTIAL, MERGED = "Parenting, sequential", "Parenting, merged"
NO_BOUNDARY, NO_EXTRACTION = "no boundary control", "no extraction task"
NO_FORWARD, RANDOM, DEPTH, SWAPPED = (
    "no forward signal",
    "random partition",
    "random partition, depth-matched",
    "swapped classes",
)
PEAR, PEAR_FIRST, PEAR_LAST = "PEAR folded", "PEAR folded, then Parenting", "Parenting, then PEAR folded"
Partition = Literal["mined", "no forward", "random", "depth-matched", "swapped"]
Fold = Literal["", "before", "after"]


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Attributes:
        name: of the row.
        seeds: "none" (nothing is drawn), "some" or "all".
        switches: of `Parenting`; None: nothing is trained.
        partition: which classes the units have.
        fold: PEAR's coefficients are folded into the model "before" training, or "after" it.
        adapters: name of the row whose adapters are taken, where it has none of its own.
        unlike: in what the row is not equal to the routed one.
    """

    name: str
    seeds: Literal["none", "some", "all"] = "some"
    switches: Mapping[str, Any] | None = field(default_factory=dict)
    partition: Partition = "mined"
    fold: Fold = ""
    adapters: str = ""
    unlike: str = ""


ROWS = (
    Row(BASE, "none", None),
    Row(PLAIN, "all", {"mode": "mixture", "normalise": "token"}),
    Row(
        KAFT,
        "all",
        {"mode": "mixture", "normalise": "token", "sets": ("agree", "a", "r", "empty")},
        unlike="four sets: a third more examples, without the long ones of extraction",
    ),
    Row(ROUTED, "all"),
    Row(PER_LOSS, switches={"mode": "mixture", "normalise": "loss"}),
    Row(
        EVERY_UNIT,
        switches={"mode": "mixture", "normalise": "token", "train": "all"},
        unlike="more parameters: class O is trained, too",
    ),
    Row(SEQUENTIAL, switches={"schedule": "sequential"}, unlike="a class is trained for its part of the steps only"),
    Row(
        MERGED,
        switches={"mode": "merge"},
        unlike="three trainings of so many steps each, all units, three times the rank; no step is chosen",
    ),
    Row(NO_BOUNDARY, switches={"mode": "unified"}),
    Row(NO_EXTRACTION, switches={"delta": 1.0}, unlike="two sets: a third fewer examples"),
    Row(NO_FORWARD, partition="no forward", unlike="other units, so another number of parameters"),
    Row(RANDOM, partition="random", unlike="other units, so another number of parameters"),
    Row(DEPTH, partition="depth-matched", unlike="other units, so another number of parameters"),
    Row(SWAPPED, partition="swapped"),
    Row(PEAR, "none", None, fold="after", unlike="nothing is trained but PEAR's coefficients"),
    Row(PEAR_FIRST, fold="before", unlike="PEAR's coefficients besides"),
    Row(PEAR_LAST, switches=None, fold="after", adapters=ROUTED, unlike="PEAR's coefficients besides"),
)
SHOWN = (PLAIN, KAFT, ROUTED, NO_BOUNDARY, RANDOM, SWAPPED)  # in the pictures of training


def partition(units: UnitMap, which: Partition, seed: int) -> UnitMap:
    """The classes of a row's units.

    Raises:
        InputError: without the forward term no unit is of class A or R.
    """
    if which == "no forward":
        return units.resorted(forward=False)
    if which in ("random", "depth-matched"):
        return units.random(seed, which == "depth-matched")
    return units.swapped() if which == "swapped" else units


def maker(row: Row) -> Row:
    """The row whose trainings a row shows: mostly itself."""
    return next(each for each in ROWS if each.name == (row.adapters or row.name))


def by_third(units: UnitMap, layers: int) -> dict[str, list[float]]:
    """Class -> share of its units in the first, middle and last third of the layers; zeros for an empty class."""
    out = {}
    for name, count in units.sizes.items():
        places = [min(2, 3 * unit.layer // layers) for unit in units.of(name)]
        out[name] = [places.count(third) / count if count else 0.0 for third in range(3)]
    return out
