"""Which heads a masking experiment takes out: nested tops of each set, and the controls of the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headwater.errors import HeadSetError, InputError
from headwater.heads import RandomHeads
from headwater.headset import Head, HeadSet
from headwater.headset.agreement import order_of
from headwater.instrument.rows import by_layer
from headwater.model.anatomy import Anatomy
from headwater.model.lm import LanguageModel

SHARES = (0.01, 0.02, 0.04)  # of the heads that are masked by default (retrieval_heads.md 5)
TOP, RANDOM, MATCHED, BOTTOM = "top", "random", "layer-matched", "bottom"


@dataclass(frozen=True)
class Cell:
    """Heads that are taken out together.

    Attributes:
        role: "top", "random", "layer-matched" or "bottom".
        of: the set whose heads these are, or whose controls.
        k: number of heads.
        draws: the heads, one list per seed; a single list where nothing is drawn.
        seeds: the seeds; empty where nothing is drawn.
    """

    role: str
    of: str
    k: int
    draws: Sequence[Sequence[Head]]
    seeds: Sequence[int] = ()

    @property
    def name(self) -> str:
        """For example `qr top 4` or `random 4`; controls are named without their set."""
        return f"{self.of} top {self.k}" if self.role == TOP else f"{self.role} {self.k}"


@dataclass(frozen=True)
class Missing:
    """A cell that cannot be: its name, and why."""

    name: str
    why: str


def default_sizes(anatomy: Anatomy) -> tuple[int, ...]:
    """1, 2 and 4 % of the heads, at least 1."""
    return tuple(sorted({max(1, round(share * len(anatomy.all_heads))) for share in SHARES}))


def cells(
    lm: LanguageModel, sets: Mapping[str, HeadSet], sizes: Sequence[int], controls: bool, seeds: Sequence[int]
) -> tuple[list[Cell], list[Missing]]:
    """Every cell of an experiment (retrieval_heads.md 8), size by size, and those that cannot be.

    Of each set the top K. With `controls`: K random heads outside the first set's top 2K and the top K of every other
    set, since all of them are compared with random heads; for the first set alone as many drawn from the layers of its
    top K, outside its top 2K; both once per seed; and its bottom K, which only a set with scores of all heads has.
    Where just K or fewer heads are left outside, so that every draw would be the same, random heads are drawn outside
    the top K of all sets, and where that leaves too few as well, outside the first set's top K.

    Args:
        lm: the model.
        sets: head sets by name; the first is the one that is controlled for.
        sizes: values of K.
        controls: whether random, layer-matched and bottom heads are masked too.
        seeds: of the draws.

    Raises:
        InputError: no sets, or sizes that are not whole numbers from 1 on, each once.
        HeadSetError: K above the number of heads of the model or of a set, or a head that the model does not have.
    """
    if not sets:
        raise InputError("Give at least one head set to mask.")
    if not sizes or len(set(sizes)) < len(sizes) or not all(isinstance(k, int) and k >= 1 for k in sizes):
        raise InputError(f"K takes whole numbers from 1 on, each once, got {', '.join(map(str, sizes)) or 'none'}.")
    total = len(lm.anatomy.all_heads)
    if max(sizes) > total:
        raise HeadSetError(f"K is {max(sizes)}, but {lm.name!r} has {total} heads.")
    orders = {name: order_of(heads) for name, heads in sets.items()}
    for name, order in orders.items():
        by_layer(order, lm.anatomy)
        if max(sizes) > len(order):
            raise HeadSetError(
                f"The set {name!r} ranks {len(order)} heads, so its top {max(sizes)} is not known; mask fewer, or give "
                "a set that holds scores of all heads, as `headwater heads find` writes it."
            )
    found: list[Cell] = []
    missing: list[Missing] = []
    first = next(iter(sets))
    for k in sorted(sizes):
        found += [Cell(TOP, name, k, [order[:k]]) for name, order in orders.items()]
        if controls:
            _add_controls(lm, first, sets[first], list(orders.values()), k, seeds, found, missing)
    return found, missing


def _never_drawn(total: int, orders: Sequence[Sequence[Head]], k: int) -> list[Head]:
    """The heads that the controls of sets, given in their orders, stay outside of; the first is controlled for."""
    own, *others = orders
    tops = [head for order in others for head in order[:k]]
    for outside in ([*own[: 2 * k], *tops], [*own[:k], *tops]):
        if total - len(set(outside)) > k:
            return list(dict.fromkeys(outside))
    return list(own[:k])


def _add_controls(
    lm: LanguageModel,
    name: str,
    heads: HeadSet,
    orders: Sequence[Sequence[Head]],
    k: int,
    seeds: Sequence[int],
    found: list[Cell],
    missing: list[Missing],
) -> None:
    """Random, layer-matched and bottom heads of one size; what cannot be drawn goes to `missing`."""
    order, total = orders[0], len(lm.anatomy.all_heads)
    top = order[:k]
    outside, own = _never_drawn(total, orders, k), _never_drawn(total, orders[:1], k)
    draws: dict[str, Callable[[int], RandomHeads]] = {
        RANDOM: lambda seed: RandomHeads(k, seed, exclude=outside),
        MATCHED: lambda seed: RandomHeads(seed=seed, exclude=own, like=top),
    }
    for role, detector in draws.items():
        try:
            drawn = [sorted(detector(seed).find(lm).heads) for seed in seeds]
        except HeadSetError as error:
            missing.append(Missing(f"{role} {k}", str(error)))
        else:
            found.append(Cell(role, name, k, drawn, tuple(seeds)))
    if heads.scores is None:
        missing.append(Missing(f"{BOTTOM} {k}", f"The set {name!r} is a list without scores of all heads."))
    elif len(order) < 2 * k:
        missing.append(Missing(f"{BOTTOM} {k}", f"{len(order)} scored heads have no bottom {k} beside their top {k}."))
    else:
        found.append(Cell(BOTTOM, name, k, [order[: -k - 1 : -1]]))
