"""Coefficients folded into the weights: the columns of the output projections, multiplied in fp32.

The result is an ordinary model of the same size and speed (PEAR, arXiv 2409.19745; pear.md 3.7). The model's
configuration remembers the fold (`headwater_fold`), so that a second one is refused and `unfold` knows what to undo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from headwater.errors import HeadSetError, ModelError
from headwater.headset import Head, HeadSet
from headwater.instrument.outputs import coefficients_of
from headwater.instrument.rows import by_layer, check_origin
from headwater.model.anatomy import output_projections, unwrapped
from headwater.model.lm import LanguageModel

_MARK = "headwater_fold"


def fold(lm: LanguageModel, heads: HeadSet, *, zeros: bool = False) -> None:
    """Multiply the output-projection columns of each head by its coefficient, in place.

    Products are taken in fp32 (fp64 for an fp64 model) and stored in the weight's own dtype; biases, queries, keys and
    values are untouched. Equal to running under `hw.scaled(lm, heads)` up to that rounding.

    Args:
        lm: a loaded model.
        heads: a set with coefficients.
        zeros: take coefficients of 0 too: heads pruned for good, as `unfold` cannot bring them back.

    Raises:
        InputError: the set has no coefficients.
        HeadSetError: a head the model does not have, coefficients of other weights (as the set's provenance says), a
            coefficient of 0 without `zeros`, or a model that has been folded before.
        ModelError: a projection that is quantised or wrapped by an adapter.
    """
    config = unwrapped(lm.model).config
    before = getattr(config, _MARK, None)
    if before is not None:
        raise HeadSetError(
            f"This model has been folded already ({len(before['heads'])} heads); unfold that first, or load the "
            "original checkpoint."
        )
    coefficients = coefficients_of(heads)
    if not check_origin(heads, lm):
        raise HeadSetError(
            f"These coefficients were learned for other weights ({heads.provenance.get('model')}) than those of "
            f"{lm.name!r}; fit them again for this model."
        )
    if 0.0 in coefficients and not zeros:
        raise HeadSetError(
            "A coefficient of 0 cannot be undone; use hw.ablated(lm, heads) to take a head out, or zeros=True for good."
        )
    _multiply(lm, heads, coefficients)
    setattr(config, _MARK, {"heads": [list(head) for head in heads.heads], "coefficients": coefficients})


def unfold(lm: LanguageModel, heads: HeadSet) -> None:
    """Undo `fold` with the same set: divide the columns again. Exact up to rounding in the weight's dtype.

    Raises:
        HeadSetError: the model has not been folded, with another set, or with a coefficient of 0.
        ModelError: a projection that is quantised or wrapped by an adapter.
    """
    config = unwrapped(lm.model).config
    before = getattr(config, _MARK, None)
    coefficients = coefficients_of(heads)
    if before is None:
        raise HeadSetError("This model has not been folded, so there is nothing to undo.")
    if before != {"heads": [list(head) for head in heads.heads], "coefficients": coefficients}:
        raise HeadSetError("This model was folded with another head set; give the one it was folded with.")
    if 0.0 in coefficients:
        raise HeadSetError("A coefficient of 0 cannot be undone; load the original checkpoint.")
    _multiply(lm, heads, [1 / coefficient for coefficient in coefficients])
    delattr(config, _MARK)


@torch.no_grad()
def effective_coefficients(lm: LanguageModel, heads: HeadSet, dtype: torch.dtype | None = None) -> list[float]:
    """What is left of each coefficient after the folded weights are rounded to a storage dtype.

    The coefficient a' that explains the rounded columns W' best: <W', W> / <W, W> (pear.md 7). In bfloat16 a
    coefficient within 0.002 of 1 changes no weight at all.

    Args:
        lm: the model before folding.
        heads: a set with coefficients.
        dtype: the storage dtype (None: that of the checkpoint, else of the model).

    Raises:
        InputError: the set has no coefficients.
        ModelError: a projection that is quantised or wrapped by an adapter.
    """
    stored = dtype or lm.stored_dtype or lm.dtype
    coefficients = coefficients_of(heads)
    found = list(coefficients)
    for place, weight, part in _slices(lm, heads):
        before = weight[part].to(torch.promote_types(weight.dtype, torch.float32))
        after = (before * coefficients[place]).to(stored).double()
        norm = before.double().square().sum().item()
        if norm:
            found[place] = (after * before.double()).sum().item() / norm
    return found


def folded_columns(lm: LanguageModel, heads: HeadSet) -> Iterator[tuple[Head, float, str, Any]]:
    """Where `fold` multiplies: per head its coefficient, the name of the weight, and the part of it (an index).

    Raises:
        InputError: the set has no coefficients.
        ModelError: a projection that is quantised or wrapped by an adapter.
    """
    coefficients = coefficients_of(heads)
    names = {id(parameter): name for name, parameter in lm.model.named_parameters()}
    for place, weight, part in _slices(lm, heads):
        yield heads.heads[place], coefficients[place], names[id(weight)], part


@torch.no_grad()
def _multiply(lm: LanguageModel, heads: HeadSet, factors: list[float]) -> None:
    for place, weight, part in list(_slices(lm, heads)):
        precise = torch.promote_types(weight.dtype, torch.float32)
        weight[part] = (weight[part].to(precise) * factors[place]).to(weight.dtype)


def _slices(lm: LanguageModel, heads: HeadSet) -> Iterator[tuple[int, torch.Tensor, Any]]:
    """Place of a head in the set, the weight and the part of it that reads its output; checks every projection."""
    projections = output_projections(lm.model)
    users = Counter(_address(module) for module in projections.values())
    for layer, members in by_layer(heads.heads, lm.anatomy).items():
        module = projections[layer]
        weight: torch.Tensor = module.weight  # type: ignore[assignment]
        if isinstance(module, Conv1D):
            width, columns = weight.shape[0], False  # [in, out]
        elif _plain(module):
            width, columns = weight.shape[1], True  # [out, in]
        else:
            raise ModelError(
                f"The output projection of layer {layer} cannot be folded ({type(module).__name__} on "
                f"{weight.device.type} with {type(weight.data).__name__} weights): fold before quantising or "
                "offloading, and merge adapters first."
            )
        if users[_address(module)] > 1:
            raise ModelError(f"Layer {layer} shares its output projection with another layer, so it cannot be folded.")
        size = width // lm.anatomy.num_heads
        for place, head in members:
            part = slice(head * size, (head + 1) * size)
            yield place, weight, (slice(None), part) if columns else part


def _address(module: torch.nn.Module) -> int:
    """Where a projection's weight lies; its own id where that cannot be said (offloaded, quantised)."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    plain = type(weight.data) is torch.Tensor and weight.device.type != "meta"
    return weight.data_ptr() if plain else id(weight)


def _plain(module: torch.nn.Module) -> bool:
    """Whether a projection is a plain linear layer with plain weights here.

    torch's own, or one that a model of transformers derives from it; neither quantised nor offloaded.
    """
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    if type(weight.data) is not torch.Tensor or weight.device.type == "meta" or not weight.is_floating_point():
        return False
    own = type(module).__module__.startswith("transformers.models.") and isinstance(module, torch.nn.Linear)
    return own or type(module) is torch.nn.Linear
