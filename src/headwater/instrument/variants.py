"""One prompt continued with different heads taken out: the prompt is read once, all continuations run as one batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from headwater.errors import InputError, ModelError
from headwater.headset import Head, HeadSet, HeadsLike, as_heads
from headwater.instrument.interface import exclusive, refuse_compiled
from headwater.instrument.rows import by_layer
from headwater.model.anatomy import decoder, output_projections
from headwater.model.greedy import end_ids
from headwater.model.lm import LanguageModel
from headwater.model.memory import within_memory

ROWS = 16  # continuations of one pass; each holds a copy of the prompt's keys and values
Finished = Callable[[int, list[int], float], bool]


@torch.no_grad()
def decode_variants(
    lm: LanguageModel,
    ids: Sequence[int],
    variants: Sequence[HeadSet | HeadsLike],
    max_new_tokens: int,
    finished: Finished | None = None,
    rows: int = ROWS,
) -> list[list[int]]:
    """Continue a prompt greedily once per head set, the set's heads zeroed while decoding (retrieval_heads.md 6).

    Row i gives what `greedy` gives inside ``ablated(lm, variants[i], "zero", "decode")``: the last prompt token and
    the new ones run without the heads, keys and values of the prompt before it come from the intact model. It is read
    once instead of once per variant; batched sums may differ in the last digits.

    Args:
        lm: a loaded model.
        ids: token ids of the prompt.
        variants: one head set per continuation; an empty one takes nothing out.
        max_new_tokens: where a continuation ends at the latest.
        finished: called for each new token with the variant's place, its new ids so far and the log probability of
            the last one; True ends that continuation. End-of-sequence tokens end it anyway.
        rows: continuations of one pass.

    Returns:
        The new token ids of each variant, an end-of-sequence token included.

    Raises:
        InputError: an empty prompt, no variants, or a number of tokens or rows below 1.
        HeadSetError: a repeated head, or one the model does not have.
        ModelError: a compiled model, or a hybrid, whose state cannot be copied.
        InsufficientMemoryError: the device runs out of memory.
    """
    chosen = [as_heads(heads) for heads in variants]
    if not ids or not chosen or max_new_tokens < 1 or rows < 1:
        raise InputError("Decoding variants needs a prompt, a head set, and at least 1 new token and 1 row.")
    if lm.anatomy.headless:
        raise ModelError(f"{lm.name!r} has layers without attention, whose state cannot be copied for each variant.")
    masks = [_masks(lm, chosen[start : start + rows]) for start in range(0, len(chosen), rows)]
    refuse_compiled(lm)
    out: list[list[int]] = []
    with within_memory(f"reading {len(ids)} tokens {min(rows, len(chosen))} times"):
        past = None
        if len(ids) > 1:
            prompt = torch.tensor([list(ids[:-1])], device=lm.device)
            past = decoder(lm.model)(input_ids=prompt, use_cache=True).past_key_values
        for mask in masks:
            count = min(rows, len(chosen) - len(out))
            cache = copy.deepcopy(past)
            if cache is not None:
                cache.batch_repeat_interleave(count)
            with _without(lm, mask):
                out += _decode(lm, int(ids[-1]), cache, count, max_new_tokens, finished, len(out))
    return out


def _decode(
    lm: LanguageModel,
    last: int,
    cache: Any,
    count: int,
    max_new_tokens: int,
    finished: Finished | None,
    first: int,
) -> list[list[int]]:
    """New ids of `count` rows that all begin with the token `last`."""
    tokens = torch.full((count, 1), last, device=lm.device)
    result = lm.model(input_ids=tokens, past_key_values=cache, use_cache=True)
    return continuation(lm, result.logits[:, -1], result.past_key_values, max_new_tokens, finished, first)


def continuation(
    lm: LanguageModel,
    logits: torch.Tensor,
    cache: Any,
    max_new_tokens: int,
    finished: Finished | None = None,
    first: int = 0,
) -> list[list[int]]:
    """Greedy continuations of a batch that has been read; a row that is over runs on unseen.

    Args:
        lm: a loaded model.
        logits: of the next token, `[rows, vocabulary]`.
        cache: keys and values of what has been read; it grows.
        max_new_tokens: where a continuation ends at the latest.
        finished: as for `decode_variants`, called with `first` plus the row.
        first: see above.
    """
    ends = set(end_ids(lm))
    new: list[list[int]] = [[] for _ in logits]
    going = set(range(len(new)))
    for left in reversed(range(max_new_tokens)):
        logits = logits.float()
        tokens = logits.argmax(-1, keepdim=True)
        logs = (logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True))[:, 0].tolist()
        for row, token in enumerate(tokens[:, 0].tolist()):
            if row not in going:
                continue
            new[row].append(token)
            over = finished is not None and finished(first + row, new[row], logs[row])
            if over or token in ends:
                going.discard(row)
        if not going or not left:
            break
        result = lm.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        cache, logits = result.past_key_values, result.logits[:, -1]
    return new


def _masks(lm: LanguageModel, variants: Sequence[list[Head]]) -> dict[int, torch.Tensor]:
    """Which heads are out in which row: `{layer: bool [rows, H]}`, for the layers that lose any."""
    out: dict[int, torch.Tensor] = {}
    for row, heads in enumerate(variants):
        for layer, members in (by_layer(heads, lm.anatomy) if heads else {}).items():
            mask = out.setdefault(layer, torch.zeros(len(variants), lm.anatomy.num_heads, dtype=torch.bool))
            mask[row, [head for _, head in members]] = True
    return out


@contextmanager
def _without(lm: LanguageModel, masks: dict[int, torch.Tensor]) -> Iterator[None]:
    """Zero the heads' slices of the inputs of the output projections, row by row."""
    projections = output_projections(lm.model)
    with exclusive(lm), ExitStack() as stack:
        for layer, mask in masks.items():

            def hook(module: torch.nn.Module, args: tuple[Any, ...], mask: torch.Tensor = mask) -> tuple[Any, ...]:
                slices = args[0].unflatten(-1, (lm.anatomy.num_heads, -1))
                slices = slices.masked_fill(mask.to(slices.device)[:, None, :, None], 0)
                return (slices.flatten(-2), *args[1:])

            stack.callback(projections[layer].register_forward_pre_hook(hook).remove)
        yield
