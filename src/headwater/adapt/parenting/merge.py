"""Merging of finished adapters, class by class, as the released code does it (parenting.md 3.6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from headwater.adapt.parenting.classes import CLASSES, UnitMap
from headwater.adapt.parenting.values import put
from headwater.errors import InputError, ModelError
from headwater.model.adapter import adapted
from headwater.model.anatomy import unwrapped
from headwater.model.lm import LanguageModel

MERGED_SETS = {"a": ("a", "c"), "r": ("r", "c"), "all": ("a", "r", "c")}  # what each adapter is trained on
PARTS = tuple(MERGED_SETS)
MergeWeights = Mapping[str, tuple[float, float, float]]
CODE: MergeWeights = {"E": (0.4, 0.4, 0.2), "A": (0.8, 0.0, 0.2), "R": (0.0, 0.8, 0.2), "O": (0.1, 0.1, 0.8)}
THIRDS: MergeWeights = dict.fromkeys(CLASSES, (1 / 3, 1 / 3, 1 / 3))
WEIGHTS = {"code": CODE, "thirds": THIRDS}
SPACES = ("concat", "factors")
OTHERS = ("mix", "zero")
Tensors = Mapping[str, torch.Tensor]
_CARD = """---
library_name: transformers
base_model: {base}
---
# {base} with an adapter merged into its weights

Made by `headwater parent merge {adapter}`.
"""


def merge_weights(given: str | MergeWeights, other: str = "mix") -> MergeWeights:
    """Weights of the three adapters, per class.

    Args:
        given: "code", "thirds", or three numbers per class that sum to 1.
        other: "zero" leaves the units of class O as they are in the base model.

    Raises:
        InputError: an unknown name, a class that is missing or unknown, or numbers that do not sum to 1.
    """
    if isinstance(given, str):
        if given not in WEIGHTS:
            raise InputError(f"Unknown merge weights {given!r}; use {', '.join(WEIGHTS)}, or three numbers per class.")
        given = WEIGHTS[given]
    if set(given) != set(CLASSES):
        raise InputError(f"Merge weights name the classes {', '.join(CLASSES)}, got {', '.join(map(str, given))}.")
    for name, row in given.items():
        if len(row) != len(PARTS) or not math.isclose(sum(row), 1.0, abs_tol=1e-6):
            raise InputError(f"The merge weights of class {name} are three numbers that sum to 1, got {tuple(row)}.")
    found = {name: (float(row[0]), float(row[1]), float(row[2])) for name, row in given.items()}
    if other == "zero":
        found["O"] = (0.0, 0.0, 0.0)
    return found


def mergeable(units: UnitMap, space: str, weights: MergeWeights) -> dict[str, tuple[str, str]]:
    """The modules that a merge changes, with the classes of their two factors; a factor that is no unit counts as O.

    Args:
        units: the classes.
        space: see `merged`.
        weights: of the three adapters, per class.

    Raises:
        InputError: units of another kind than "pair" (whole ones) or "factor", "concat" where the factors of a module
            are of different classes, or nothing but weights of zero.
    """
    owner = _owners(units, space)
    kept = {module: pair for module, pair in owner.items() if any(any(weights[name]) for name in pair)}
    if not kept:
        raise InputError("All merge weights are zero, so there is nothing to merge.")
    return kept


@contextmanager
def merged(
    lm: LanguageModel,
    units: UnitMap,
    parts: Mapping[str, Tensors],
    initial: Tensors,
    weights: MergeWeights,
    space: str,
    rank: int,
    alpha: float,
    seed: int,
) -> Iterator[LanguageModel]:
    """The model with one adapter made of three.

    Args:
        lm: the model without an adapter.
        units: classes of kind "pair" or "factor".
        parts: the factors of the adapters "a", "r" and "all" by parameter name; all three began with the same factors.
        initial: those factors.
        weights: of the three, per class.
        space: "factors": A and B averaged apart, rank r. "concat": [A_a; A_r; A_all] and [w_a B_a, w_r B_r, w_all
            B_all], rank 3r: the weighted sum of the three products, exactly.
        rank: r, of each adapter.
        alpha: of each adapter, which is scaled by alpha / rank.
        seed: of nothing that stays.

    Raises:
        InputError: as `mergeable`.
    """
    kept = mergeable(units, space, weights)
    times = len(PARTS) if space == "concat" else 1
    with adapted(lm, kept, times * rank, times * alpha, seed, values=True) as model:
        for module, pair in kept.items():
            name_a, name_b = (f"{module}.lora_{factor}.default.weight" for factor in "AB")
            share_a, share_b = (weights[name] for name in pair)
            if space == "concat":
                made_a = torch.cat([parts[part][name_a] for part in PARTS])
                made_b = torch.cat([w * parts[part][name_b] for w, part in zip(share_b, PARTS, strict=True)], dim=1)
            else:
                made_a, made_b = _average(name_a, share_a, parts, initial), _average(name_b, share_b, parts, initial)
            put(model, {name_a: made_a, name_b: made_b})
        yield model


def _average(
    name: str, share: tuple[float, float, float], parts: Mapping[str, Tensors], initial: Tensors
) -> torch.Tensor:
    """Weighted mean of one factor; with no weight at all, the factor that all three began with."""
    if not any(share):
        return initial[name]
    return torch.stack([w * parts[part][name] for w, part in zip(share, PARTS, strict=True)]).sum(0)


def _owners(units: UnitMap, space: str) -> dict[str, tuple[str, str]]:
    """Classes of the two factors, per module; a factor that is no unit counts as O."""
    found: dict[str, dict[str, str]] = {}
    for unit, name in zip(units.units, units.classes, strict=True):
        if unit.kind not in ("pair", "factor") or (unit.kind == "pair" and unit.part):
            raise InputError("Merging takes units of kind 'pair' (whole ones) or 'factor'; tune the others (routed).")
        for factor in unit.part or "AB":
            found.setdefault(unit.module, {})[factor] = name
    owner = {module: (own.get("A", "O"), own.get("B", "O")) for module, own in found.items()}
    split = next((module for module, (a, b) in owner.items() if a != b), None)
    if space == "concat" and split is not None:
        raise InputError(
            f"The two factors of {split} are of different classes, so their products have no class: merge with "
            "merge_space='factors'."
        )
    return owner


def merge_adapter(lm: LanguageModel, output: str | Path) -> Path:
    """Write a model with an adapter as an ordinary checkpoint, the adapter added to the weights.

    Load the model in float32: the sum is then rounded once, to the type that the checkpoint was stored in. `lm` is used
    up: its weights are the merged ones afterwards.

    Args:
        lm: `headwater.load(adapter folder, dtype="float32")`.
        output: the folder; created if missing, and empty.

    Returns:
        The folder.

    Raises:
        ModelError: the model carries no adapter, or the sum is not finite.
        InputError: the folder is not empty, or cannot be written.
    """
    folder = Path(output)
    if unwrapped(lm.model) is lm.model:
        raise ModelError(f"{lm.name!r} carries no adapter, so there is nothing to merge; give the adapter's folder.")
    refuse_taken(folder)
    base = next(iter(lm.model.peft_config.values())).base_model_name_or_path
    try:
        lm.model = lm.model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"The adapter of {lm.name!r} cannot be merged: {error}") from error
    lm.card = _CARD.format(base=base, adapter=lm.name)
    return lm.save(folder)


def refuse_taken(folder: Path) -> None:
    """Refuse an output folder that holds something.

    Raises:
        InputError: it does, or it is a file.
    """
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"Cannot use the folder {folder}: {error.strerror or error}.") from error
    if taken:
        raise InputError(f"The folder {folder} is not empty; give a new one.")
