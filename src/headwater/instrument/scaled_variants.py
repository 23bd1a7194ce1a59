"""One prompt continued under many head sets' coefficients: a row begins where its first scaled head lies.

Below that layer every row is the same, so one clean row runs there for all of them. Above, each head set is a row of
one batch, its heads' outputs multiplied at every position, as `scaled` does. All rows read the same ids, so nothing is
padded. This is what makes an experiment with dozens of head sets affordable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from headwater.errors import InputError, ModelError
from headwater.headset import HeadSet
from headwater.instrument.interface import exclusive, refuse_compiled
from headwater.instrument.outputs import coefficients_of
from headwater.instrument.rows import by_layer
from headwater.instrument.variants import Finished, continuation
from headwater.model.anatomy import FAMILIES, decoder_layers, output_projections
from headwater.model.lm import LanguageModel
from headwater.model.memory import within_memory

ROWS = 32  # continuations of one pass; each holds keys and values of the prompt


@torch.no_grad()
def decode_scaled(
    lm: LanguageModel,
    ids: Sequence[int],
    sets: Sequence[HeadSet | None],
    max_new_tokens: int,
    finished: Finished | None = None,
    rows: int = ROWS,
) -> list[list[int]]:
    """Continue a prompt greedily once per head set, as `greedy` does inside ``scaled(lm, heads)``.

    Batched sums may differ in the last digits. In families outside transformers' attention interface (BLOOM, Falcon,
    MPT), whose attention counts its rows beforehand, every row runs through all layers.

    Args:
        lm: a loaded model.
        ids: token ids of the prompt.
        sets: head sets with coefficients; None for the model as it is.
        max_new_tokens: where a continuation ends at the latest.
        finished: called for each new token with the set's place, its new ids so far and the log probability of the
            last one; True ends that continuation. End-of-sequence tokens end it anyway.
        rows: continuations of one pass.

    Returns:
        The new token ids of each set, an end-of-sequence token included.

    Raises:
        InputError: an empty prompt, no sets, a set without coefficients, or a number of tokens or rows below 1.
        HeadSetError: a head that the model does not have.
        ModelError: a compiled model, or a hybrid, whose state cannot be copied.
        InsufficientMemoryError: the device runs out of memory.
    """
    if not ids or not sets or max_new_tokens < 1 or rows < 1:
        raise InputError("Decoding with scaled heads needs a prompt, a head set, and at least 1 new token and 1 row.")
    if lm.anatomy.headless:
        raise ModelError(f"{lm.name!r} has layers without attention, whose state cannot be copied for each head set.")
    refuse_compiled(lm)
    factors = factor_grid(lm, sets)
    first = first_layers(factors)
    order = sorted(range(len(sets)), key=lambda place: first[place])
    out: list[list[int]] = [[] for _ in sets]
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        with within_memory(f"reading {len(ids)} tokens {len(part)} times"):
            found = _decode(lm, ids, factors[part], [first[i] for i in part], max_new_tokens, _placed(finished, part))
        for place, new in zip(part, found, strict=True):
            out[place] = new
    return out


def factor_grid(lm: LanguageModel, sets: Sequence[HeadSet | None]) -> torch.Tensor:
    """Factors of all heads, `[sets, layers, heads]`, 1 where a set says nothing; fp32 (fp64 for an fp64 model)."""
    shape = len(sets), lm.anatomy.num_layers, lm.anatomy.num_heads
    out = torch.ones(shape, dtype=torch.promote_types(lm.dtype, torch.float32))
    for grid, heads in zip(out, sets, strict=True):
        if heads is None:
            continue
        coefficients = coefficients_of(heads)
        for layer, members in by_layer(heads.heads, lm.anatomy).items():
            for place, head in members:
                grid[layer, head] = coefficients[place]
    return out


def first_layers(factors: torch.Tensor) -> list[int]:
    """The first layer that each set changes, from `factor_grid`; the number of layers where it changes none."""
    layers = factors.shape[1]
    return [next((layer for layer in range(layers) if (grid[layer] != 1).any()), layers) for grid in factors]


def whole_batch(lm: LanguageModel) -> bool:
    """Whether every row has to run through all layers: attention or masks count the rows before the first layer."""
    return not FAMILIES[lm.anatomy.family].interface or lm.model.config._attn_implementation == "eager"


def _placed(finished: Finished | None, part: Sequence[int]) -> Finished | None:
    """`finished` for rows that stand in another order than the sets."""
    if finished is None:
        return None
    ask = finished
    return lambda row, new, log_probability: ask(part[row], new, log_probability)


def _decode(
    lm: LanguageModel,
    ids: Sequence[int],
    factors: torch.Tensor,
    first: Sequence[int],
    max_new_tokens: int,
    finished: Finished | None,
) -> list[list[int]]:
    """New ids per set; sets stand in the order of the first layer that they change, `factors` `[sets, layers, H]`."""
    count = len(first)
    prompt = torch.tensor([list(ids)], device=lm.device)
    if whole_batch(lm):
        with multiplied(lm, factors):
            read = lm.model(input_ids=prompt.expand(count, -1), use_cache=True, logits_to_keep=1)
            return continuation(lm, read.logits[:, -1], read.past_key_values, max_new_tokens, finished)
    with growing(lm, first), multiplied(lm, torch.cat([torch.ones_like(factors[:1]), factors])):
        read = lm.model(input_ids=prompt, use_cache=True, logits_to_keep=1)

    def own(layer: int) -> torch.Tensor:
        """The row that holds each set there: the clean one (0) below the first layer that the set changes."""
        return torch.tensor([1 + place if start <= layer else 0 for place, start in enumerate(first)])

    for layer, cached in enumerate(read.past_key_values.layers):
        cached.batch_select_indices(own(layer).to(cached.keys.device))
    logits = read.logits[own(lm.anatomy.num_layers - 1).to(read.logits.device), -1]
    with multiplied(lm, factors):
        return continuation(lm, logits, read.past_key_values, max_new_tokens, finished)


@contextmanager
def growing(lm: LanguageModel, first: Sequence[int]) -> Iterator[None]:
    """Layer l gets further copies of row 0, one for each set that begins there."""
    with exclusive(lm), ExitStack() as stack:
        for layer, block in enumerate(decoder_layers(lm.model)):
            more = sum(start == layer for start in first)
            if not more:
                continue

            def grow(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], more: int = more) -> Any:
                hidden = args[0] if args else kwargs["hidden_states"]
                hidden = torch.cat([hidden, hidden[:1].expand(more, -1, -1)])
                return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

            stack.callback(block.register_forward_pre_hook(grow, with_kwargs=True).remove)
        yield


@contextmanager
def multiplied(lm: LanguageModel, factors: torch.Tensor) -> Iterator[None]:
    """Multiply heads' outputs row by row: `factors` `[rows, layers, H]`, of which a batch takes the first ones."""
    with exclusive(lm), ExitStack() as stack:
        for layer, projection in output_projections(lm.model).items():
            if (factors[:, layer] == 1).all():
                continue
            own = factors[:, layer, None, :, None]

            def hook(module: torch.nn.Module, args: tuple[Any, ...], own: torch.Tensor = own) -> tuple[Any, ...]:
                slices = args[0].unflatten(-1, (lm.anatomy.num_heads, -1))
                product = slices.to(own.dtype) * own[: len(slices)].to(slices.device)
                return (product.to(slices.dtype).flatten(-2), *args[1:])

            stack.callback(projection.register_forward_pre_hook(hook).remove)
        yield
