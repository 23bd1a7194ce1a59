"""Head sets of one model beside each other: what they share, and how much of that chance would share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from headwater.errors import HeadSetError, InputError
from headwater.headset.agreement import Chance, chance_overlap, order_of, plain, spearman
from headwater.headset.headset import Head, HeadSet

SIZES = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Overlap:
    """The heads that two sets share.

    Attributes:
        first: name of the first set.
        second: name of the second set.
        k: heads taken of either; None: the whole lists.
        shared: heads that both hold, in the order of the first.
        overlap: their share of the smaller set.
        chance: what two random sets of these sizes share; None where nobody says how many heads the model has.
    """

    first: str
    second: str
    k: int | None
    shared: list[Head]
    overlap: float
    chance: Chance | None


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of all scores of two sets; NaN where it is undefined."""

    first: str
    second: str
    spearman: float


@dataclass(frozen=True)
class Comparison:
    """Several head sets of one model.

    Attributes:
        sizes: heads of each set, by name.
        shape: layers and query heads of the model; None where no set says.
        overlaps: per pair and number of heads; the whole lists come last.
        correlations: of the pairs that both have scores.
        shared: heads that every set holds, in the order of the first.
        layers: per set the number of its heads in each layer.
    """

    sizes: dict[str, int]
    shape: tuple[int, int] | None
    overlaps: list[Overlap]
    correlations: list[Correlation]
    shared: list[Head]
    layers: dict[str, list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON; what is not finite becomes None."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def compare(
    sets: Mapping[str, HeadSet], ks: Sequence[int] | None = None, shape: tuple[int, int] | None = None
) -> Comparison:
    """Compare head sets of one model.

    A set that lists fewer than k heads goes on with the best of its scores, where it has scores.

    Args:
        sets: by name, at least two.
        ks: numbers of heads (None: 4, 8, 16, ... as far as every set goes, and half the heads of the model).
        shape: layers and query heads, for sets that do not say.

    Raises:
        InputError: fewer than two sets, or a k below 1.
        HeadSetError: sets of models of different shapes, a head outside the shape, or a k beyond a set's heads.
        MissingExtraError: scipy is not installed.
    """
    if len(sets) < 2:
        raise InputError("Give at least two head sets to compare.")
    found = _shape(sets, shape)
    total = None if found is None else found[0] * found[1]
    orders = {name: order_of(heads) for name, heads in sets.items()}
    wanted = _sizes(orders, total) if ks is None else sorted(set(ks))
    if any(k < 1 for k in wanted):
        raise InputError("The number of heads to compare must be at least 1.")
    for name, order in orders.items():
        if wanted and wanted[-1] > len(order):
            raise HeadSetError(
                f"{name} lists {len(order)} heads and has no scores of others, so its best {wanted[-1]} are not known."
            )
    overlaps, correlations = [], []
    for first, second in combinations(sets, 2):
        for k in wanted:
            overlaps.append(_overlap((first, orders[first][:k]), (second, orders[second][:k]), k, total))
        overlaps.append(_overlap((first, sets[first].heads), (second, sets[second].heads), None, total))
        a, b = sets[first].scores, sets[second].scores
        if a is not None and b is not None:
            correlations.append(Correlation(first, second, spearman(a, b)))
    lists = list(sets.values())
    depth = max(heads.last_layer for heads in lists) + 1 if found is None else found[0]
    counts = {name: np.bincount([layer for layer, _ in heads.heads], minlength=depth) for name, heads in sets.items()}
    return Comparison(
        {name: len(heads) for name, heads in sets.items()},
        found,
        overlaps,
        correlations,
        [head for head in lists[0].heads if all(head in other.heads for other in lists[1:])],
        {name: row.tolist() for name, row in counts.items()},
    )


def _shape(sets: Mapping[str, HeadSet], given: tuple[int, int] | None) -> tuple[int, int] | None:
    """Layers and heads that all sets agree on."""
    known = {} if given is None else {"the given shape": given}
    for name, heads in sets.items():
        said = heads.provenance.get("shape")
        if heads.scores is not None:
            known[name] = heads.scores.shape
        elif said is not None:
            known[name] = (said[0], said[1])
    if not known:
        return None
    (one, first), *rest = known.items()
    for name, shape in rest:
        if shape != first:
            raise HeadSetError(
                f"{one} is of a model of {first[0]} layers x {first[1]} heads and {name} of one of {shape[0]} x "
                f"{shape[1]}; only sets of one shape can be compared."
            )
    for name, heads in sets.items():
        outside = next((head for head in heads.heads if head[0] >= first[0] or head[1] >= first[1]), None)
        if outside is not None:
            raise HeadSetError(
                f"{name} holds the head {outside[0]}-{outside[1]}, which a model of {first[0]} layers x {first[1]} "
                f"heads ({one}) does not have; only sets of one shape can be compared."
            )
    return int(first[0]), int(first[1])


def _sizes(orders: Mapping[str, Sequence[Head]], total: int | None) -> list[int]:
    most = min(map(len, orders.values()))
    return [k for k in SIZES if k <= most and (total is None or k <= total / 2)]


def _overlap(
    first: tuple[str, Sequence[Head]], second: tuple[str, Sequence[Head]], k: int | None, total: int | None
) -> Overlap:
    inside = set(second[1])
    shared = [head for head in first[1] if head in inside]
    sizes = len(first[1]), len(second[1])
    chance = None if total is None else chance_overlap(*sizes, total)
    return Overlap(first[0], second[0], k, shared, len(shared) / min(sizes), chance)
