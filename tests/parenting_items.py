"""Small made-up Parenting sets, and unit maps whose classes are known."""

from __future__ import annotations

import random

from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.losses import TrainingPrompt
from headwater.adapt.parenting.units import candidate_units
from headwater.data.parenting.items import KINDS, ItemDocument, ParentingItem, extraction_target

_ROLES = {"a": ["gold"], "r": ["same_topic"], "c": ["gold", "same_topic", "off_topic"], "agree": ["gold"], "empty": []}


def made_items(kind: str, count: int = 8, seed: int = 0) -> list[ParentingItem]:
    """Items of one kind with targets of unequal length, of four groups that another seed does not have."""
    draw = random.Random(f"{kind}/{seed}")
    items = []
    for number in range(count):
        shown = [
            ItemDocument(f"x{draw.randrange(99)} is y{draw.randrange(999)}", role, title=f"t{draw.randrange(9)}")
            for role in _ROLES[kind]
        ]
        target = extraction_target(shown) if kind == "c" else "y" * draw.randrange(1, 5)
        items.append(
            ParentingItem(
                f"{number}#0/{kind}",
                f"g{seed}.{number % 4}",
                kind,
                f"What is x{number}?",
                tuple(shown),
                target,
                ("z",),
                "m",
                {"label": "known"},
            )
        )
    return items


def made_sets(count: int = 8, seed: int = 0) -> dict[str, list[ParentingItem]]:
    """All five sets."""
    return {kind: made_items(kind, count, seed) for kind in KINDS}


def short_prompts(count: int = 8, seed: int = 0, kinds=KINDS) -> dict[str, list[TrainingPrompt]]:
    """Random token ids in place of written items: short, with targets of one to four tokens."""
    out = {}
    for kind in kinds:
        draw = random.Random(f"{kind}/{seed}/short")
        out[kind] = []
        for number in range(count):
            ids = tuple(draw.randrange(5, 250) for _ in range(draw.randrange(6, 11)))
            out[kind].append(TrainingPrompt(ids, len(ids) - draw.randrange(1, 5), f"{number}/{kind}", f"g{number % 4}"))
    return out


def made_map(lm, classes: str = "EARO", kind: str = "pair", rank: int = 4, gamma: float = 0.5, **more) -> UnitMap:
    """Units that take the given classes in turn."""
    units = candidate_units(lm, kind, rank=rank, **more)
    zeros = [0.0] * len(units)
    ones = [1.0] * lm.anatomy.num_layers
    found = [classes[place % len(classes)] for place in range(len(units))]
    return UnitMap(units, found, zeros, zeros, zeros, zeros, ones, ones, gamma=gamma)
