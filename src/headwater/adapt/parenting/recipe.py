"""What a training trains on what: units by class, losses by class, phases (parenting.md 3.4, 3.5, 8.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.routed import Owned, Weights
from headwater.adapt.parenting.units import Unit, unit_pieces
from headwater.errors import InputError
from headwater.model.lm import LanguageModel

ALL = "all"  # the one class of a training without classes
TRAINED = ("E", "A", "R")


@dataclass(frozen=True)
class Phase:
    """Some steps in which some classes are trained and the others are frozen.

    Attributes:
        owners: the classes.
        steps: how many.
    """

    owners: tuple[str, ...]
    steps: int


@dataclass(frozen=True)
class Recipe:
    """What a training trains on what.

    Attributes:
        units: trained units by class.
        weights: K: class -> loss -> factor.
        phases: one after the other, each with an optimizer of its own.
        together: one mean over the target tokens of all losses, instead of one mean per loss.
    """

    units: Mapping[str, Sequence[Unit]]
    weights: Weights
    phases: tuple[Phase, ...]
    together: bool = False

    @property
    def losses(self) -> tuple[str, ...]:
        """The losses that count anywhere."""
        rows = [self.weights[owner] for owner in self.units]
        return tuple(dict.fromkeys(loss for row in rows for loss, k in row.items() if k != 0))

    @property
    def trained(self) -> list[Unit]:
        """All trained units."""
        return [unit for units in self.units.values() for unit in units]

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def owned(self, lm: LanguageModel, owners: Sequence[str]) -> list[Owned]:
        """The parameters of some classes in an adapted model.

        Raises:
            ModelError: the model has no such modules.
        """
        return [
            Owned(owner, piece) for owner in owners for unit in self.units[owner] for piece in unit_pieces(lm, unit)
        ]


def routed(units: UnitMap, steps: int, delta: float, leak: float, order: Sequence[str] | None = None) -> Recipe:
    """Every class on its own combination of losses (3.4, 3.5).

    Args:
        units: the classes.
        steps: of the whole training.
        delta: share of L_a and L_r.
        leak: share of the other side's loss in A and R.
        order: train the classes one after the other in this order, each for an equal part of the steps. None: together.

    Raises:
        InputError: an unknown class in the order, or a class of units that it leaves out.
    """
    by_class = {name: units.of(name) for name in TRAINED if units.of(name)}
    weights = {name: units.mixture(delta, leak)[name] for name in by_class}
    if order is None:
        return Recipe(by_class, weights, (Phase(tuple(by_class), steps),))
    check_order(order)
    present = [name for name in order if name in by_class]
    if steps < len(present):
        raise InputError(f"{len(present)} classes cannot share {steps} steps; give more.")
    each, more = divmod(steps, len(present))
    phases = [Phase((name,), each + (place < more)) for place, name in enumerate(present)]
    return Recipe(by_class, weights, tuple(phases))


def check_order(order: Sequence[str]) -> None:
    """Refuse an order of classes that leaves one out.

    Raises:
        InputError: anything but E, A and R, each once.
    """
    if sorted(order) != sorted(TRAINED):
        raise InputError(f"The order of classes holds E, A and R once each, got {', '.join(order) or 'nothing'}.")


def unified(units: UnitMap, steps: int, delta: float, everything: bool) -> Recipe:
    """Every unit on the combination of class E: no boundary, the same losses (8.4).

    Args:
        units: the classes, of which the gamma of E is taken, and the trained units.
        steps: of the training.
        delta: share of L_a and L_r.
        everything: train the units of class O, too.
    """
    chosen = list(units.units) if everything else units.of(*TRAINED)
    return Recipe({ALL: chosen}, {ALL: units.mixture(delta)["E"]}, (Phase((ALL,), steps),))


def mixture(units: Sequence[Unit], steps: int, sets: Sequence[str], per_loss: bool) -> Recipe:
    """Plain fine-tuning of some units on a mixture of sets (8.4).

    Args:
        units: what is trained.
        steps: of the training.
        sets: names of the sets, each with the same number of examples in a step.
        per_loss: the mean of each set's mean per target token; else the mean over all target tokens, where sets with
            long targets count more.
    """
    k = 1.0 / len(sets) if per_loss else 1.0
    return Recipe({ALL: list(units)}, {ALL: dict.fromkeys(sets, k)}, (Phase((ALL,), steps),), together=not per_loss)
