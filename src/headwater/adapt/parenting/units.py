"""Parameter units: what Parenting scores, sorts into classes and trains apart (parenting.md 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.pytorch_utils import Conv1D

from headwater.errors import InputError, ModelError
from headwater.model.adapter import refuse_adapted
from headwater.model.anatomy import FAMILIES, attention_modules, decoder_layers, fused_rows, unwrapped
from headwater.model.lm import LanguageModel

UnitKind = Literal["pair", "factor", "rank", "matrix"]
KINDS = ("pair", "factor", "rank", "matrix")
TARGETS = ("attention", "mlp")
_ADAPTER = "default"  # peft's own name of an adapter


@dataclass(frozen=True)
class Unit:
    """Some parameters that share one class.

    Attributes:
        name: the module's name, and the part behind a colon: `model.layers.3.self_attn.q_proj`, `...q_proj:A`,
            `...q_proj:5`, `...qkv_proj:query`.
        module: the adapted or trained linear map, by its name inside the model.
        layer: its decoder layer, from 0.
        kind: "pair": both LoRA factors (only their product acts). "factor": one LoRA factor. "rank": column k of B with
            row k of A. "matrix": the weight itself.
        part: "" for all of it; "A" or "B" of a factor; the number k of a rank; "query", "key", "value", "gate" or "up"
            of a fused projection that is split (a pair's slice is those rows of B; A acts through every slice, belongs
            to no unit and is not trained).
    """

    name: str
    module: str
    layer: int
    kind: UnitKind
    part: str = ""

    @property
    def projection(self) -> str:
        """The module's place inside its layer with the part: `self_attn.q_proj`, `self_attn.qkv_proj:query`."""
        return self.name.partition(f".{self.layer}.")[2]


@dataclass(frozen=True, eq=False)
class Piece:
    """The parameters of a unit inside one tensor.

    Attributes:
        name: the tensor's name inside the model (`lm.model.named_parameters()` of the unwrapped model).
        parameter: the tensor.
        axis: the axis that `index` counts along; None where the unit has the whole tensor.
        index: int64 `[n]` on the tensor's device; None where the unit has the whole tensor.
    """

    name: str
    parameter: torch.nn.Parameter
    axis: int | None = None
    index: torch.Tensor | None = None

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The unit's part of a tensor of the parameter's shape: the weight, a gradient, a moment."""
        return tensor if self.axis is None or self.index is None else tensor.index_select(self.axis, self.index)

    def spread(self, value: float, out: torch.Tensor) -> torch.Tensor:
        """Write `value` into the unit's part of `out`, a tensor of the parameter's shape. Gives `out`."""
        if self.axis is None or self.index is None:
            return out.fill_(value)
        return out.index_fill_(self.axis, self.index, value)


def candidate_units(
    lm: LanguageModel,
    kind: UnitKind = "pair",
    targets: Sequence[str] | None = None,
    split_fused: bool = False,
    rank: int = 8,
) -> list[Unit]:
    """All units of a model, by layer, in the order of its modules.

    Candidates are the linear maps of attention and of the feed-forward part of every layer. Norms, biases, embeddings,
    the language-model head, routers, expert stacks and the state maps of hybrid layers are never units.

    Args:
        lm: a loaded model without an adapter.
        kind: what a unit is, see `Unit`.
        targets: "attention", "mlp", or the last parts of module names (`q_proj`, `attn.c_proj`). None: all; of
            kind "factor" attention alone, as in the released code.
        split_fused: query, key and value (gate and up) of one projection are units of their own; of kinds "pair" and
            "matrix".
        rank: rank of the adapter; a module has so many units of kind "rank".

    Raises:
        InputError: an unknown kind, a target that no module has, a rank below 1, or `split_fused` for another kind.
        ModelError: the model carries an adapter, has no linear map that could be a unit, a weight is tied to another
            one, or a fused projection of this family cannot be split.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown kind of unit {kind!r}; use one of {', '.join(KINDS)}.")
    if rank < 1:
        raise InputError(f"The rank of an adapter is at least 1, got {rank}.")
    if split_fused and kind not in ("pair", "matrix"):
        raise InputError(f"split_fused goes with units of kind 'pair' or 'matrix', not {kind!r}.")
    refuse_adapted(lm)
    if targets is None and kind == "factor":
        targets = ("attention",)
    units: list[Unit] = []
    for name, layer, module in _chosen(lm, targets):
        parts = [""]
        if split_fused:
            parts = list(_rows(lm, name, module)) or [""]
        elif kind == "factor":
            parts = ["A", "B"]
        elif kind == "rank":
            parts = [str(k) for k in range(rank)]
        units += [Unit(f"{name}:{part}" if part else name, name, layer, kind, part) for part in parts]
    _refuse_tied(lm, [unit.module for unit in units])
    return units


def unit_pieces(lm: LanguageModel, unit: Unit) -> list[Piece]:
    """Where the parameters of a unit are.

    Args:
        lm: the model; for every kind but "matrix" with an adapter on the unit's module.
        unit: one of its units.

    Returns:
        One or two pieces. Of a pair: A `[rank, in]`, B `[out, rank]`.

    Raises:
        ModelError: the model has no such module, or no adapter on it.
    """
    try:
        module = unwrapped(lm.model).get_submodule(unit.module)
    except AttributeError as error:
        raise ModelError(f"{lm.name!r} has no module {unit.module!r}; this unit belongs to another model.") from error
    if unit.kind == "matrix":
        module = getattr(module, "base_layer", module)
        axis = 1 if isinstance(module, Conv1D) else 0
        where = f"{unit.module}.weight"
        return [_slice(lm, unit, module, where, module.weight, axis)]
    try:
        a, b = module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight
    except (AttributeError, KeyError) as error:
        raise ModelError(f"The module {unit.module} of {lm.name!r} carries no adapter.") from error
    name_a, name_b = (f"{unit.module}.lora_{factor}.{_ADAPTER}.weight" for factor in "AB")
    if unit.kind == "factor":
        return [Piece(name_a, a)] if unit.part == "A" else [Piece(name_b, b)]
    if unit.kind == "rank":
        k = int(unit.part)
        if k >= len(a):
            raise ModelError(f"The unit {unit.name} lies outside an adapter of rank {len(a)}.")
        return [Piece(name_a, a, 0, _index([k], a)), Piece(name_b, b, 1, _index([k], b))]
    if unit.part:
        return [_slice(lm, unit, module.base_layer, name_b, b, 0)]
    return [Piece(name_a, a), Piece(name_b, b)]


def unit_modules(units: Sequence[Unit]) -> list[str]:
    """The modules of some units, each once, in order: what peft's `target_modules` takes."""
    return list(dict.fromkeys(unit.module for unit in units))


def _candidates(lm: LanguageModel) -> Iterator[tuple[str, int, str, Any]]:
    """Name, layer, "attention" or "mlp", and module of every linear map that may be a unit."""
    family = FAMILIES[lm.anatomy.family]
    layers = {id(layer): index for index, layer in enumerate(decoder_layers(lm.model))}
    with_attention = set(attention_modules(lm.model))
    layer, prefix = -1, ""
    for name, module in unwrapped(lm.model).named_modules():
        if id(module) in layers:
            layer, prefix = layers[id(module)], f"{name}."
        if not prefix or not name.startswith(prefix) or not isinstance(module, (torch.nn.Linear, Conv1D)):
            continue
        place = name[len(prefix) :]
        if place in family.feed_forward:
            yield name, layer, "mlp", module
        elif layer in with_attention and place.startswith(f"{family.attention}."):
            yield name, layer, "attention", module


def _chosen(lm: LanguageModel, targets: Sequence[str] | None) -> list[tuple[str, int, Any]]:
    """Name, layer and module of the candidates that the targets mean."""
    found = list(_candidates(lm))
    if not found:
        raise ModelError(
            f"The layers of {lm.name!r} hold no plain linear map, so there are no units: load the model unquantised, "
            "or take another one."
        )
    if targets is None:
        return [(name, layer, module) for name, layer, _, module in found]
    if isinstance(targets, str):
        raise InputError(f"targets takes a list, for example [{targets!r}].")

    def meant(name: str, side: str, target: str) -> bool:
        return side == target if target in TARGETS else f".{name}".endswith(f".{target}")

    for target in targets:
        if not any(meant(name, side, target) for name, _, side, _ in found):
            known = sorted({name.rpartition(".")[2] for name, *_ in found})
            raise InputError(f"No unit of {lm.name!r} is called {target!r}; use attention, mlp, {', '.join(known)}.")
    chosen = [
        (name, layer, module)
        for name, layer, side, module in found
        if any(meant(name, side, target) for target in targets)
    ]
    if not chosen:
        raise InputError("No targets given; leave them out to take all.")
    return chosen


def _rows(lm: LanguageModel, name: str, module: Any) -> dict[str, list[int]]:
    """Outputs of a fused projection by part; empty where it holds one thing."""
    family = FAMILIES[lm.anatomy.family]
    attention = next(iter(attention_modules(lm.model).values()))
    if family.attention in name and family.fused is None and not hasattr(attention, family.query_key[0]):
        raise ModelError(
            f"How query, key and value lie in the projections of {lm.anatomy.family} models is not known; leave "
            "split_fused off."
        )
    width = module.weight.shape[1] if isinstance(module, Conv1D) else module.out_features
    return fused_rows(lm.anatomy, name.rpartition(".")[2], width)


def _slice(lm: LanguageModel, unit: Unit, module: Any, name: str, tensor: Any, axis: int) -> Piece:
    """The rows (columns) of a unit in a tensor, or all of it."""
    if not unit.part:
        return Piece(name, tensor)
    rows = _rows(lm, unit.module, module)
    if unit.part not in rows:
        raise ModelError(f"The module {unit.module} of {lm.name!r} has no part {unit.part!r}.")
    return Piece(name, tensor, axis, _index(rows[unit.part], tensor))


def _index(places: list[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(places, device=like.device)


def _refuse_tied(lm: LanguageModel, modules: Sequence[str]) -> None:
    """Refuse units whose weight has a second name: two classes could pull at it."""
    names: dict[int, list[str]] = {}
    for name, parameter in unwrapped(lm.model).named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for module in modules:
        weight = getattr(unwrapped(lm.model).get_submodule(module), "weight", None)
        others = [name for name in names.get(id(weight), []) if name != f"{module}.weight"]
        if others:
            raise ModelError(f"The unit {module} is tied to {others[0]}; leave its projection out of the targets.")
