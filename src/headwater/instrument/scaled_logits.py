"""Probabilities of next tokens behind one prompt under many head sets' coefficients; one growing batch, no cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from headwater.errors import ContextOverflowError, InputError, ModelError
from headwater.headset import HeadSet
from headwater.instrument.interface import refuse_compiled
from headwater.instrument.scaled_variants import factor_grid, first_layers, growing, multiplied, whole_batch
from headwater.model.lm import LanguageModel
from headwater.model.memory import within_memory

ROWS = 64  # head sets of one pass


@torch.no_grad()
def scaled_log_probabilities(
    lm: LanguageModel,
    ids: Sequence[int],
    sets: Sequence[HeadSet | None],
    tokens: Sequence[int],
    rows: int = ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Log-probabilities of tokens behind a prompt, each set's heads multiplied at all positions, as inside ``scaled``.

    A row begins in the layer of its first head, as in `decode_scaled`; batched sums may differ in the last digits.

    Args:
        lm: a loaded model.
        ids: token ids of the prompt.
        sets: head sets with coefficients; None for the model as it is.
        tokens: the tokens asked for.
        rows: head sets of one pass.
        progress: called with (sets done, sets in all).

    Returns:
        float64 `[sets, tokens]`, in nats; the softmax is taken in fp32 (fp64 for an fp64 model).

    Raises:
        InputError: an empty prompt, no sets, no tokens, or a set without coefficients.
        HeadSetError: a head that the model does not have.
        ContextOverflowError: a prompt longer than the model reads.
        ModelError: a compiled model, or NaN in its logits.
        InsufficientMemoryError: the device runs out of memory.
    """
    if not ids or not sets or not tokens or rows < 1:
        raise InputError("Give a prompt, at least one head set, at least one token, and 1 row or more.")
    if len(ids) > lm.max_length:
        raise ContextOverflowError(
            f"A prompt of {len(ids):,} tokens is longer than {lm.name!r} reads ({lm.max_length:,}).",
            tokens=len(ids),
            limit=lm.max_length,
        )
    refuse_compiled(lm)
    factors = factor_grid(lm, sets)
    first = first_layers(factors)
    order = sorted(range(len(sets)), key=lambda place: first[place])
    out = torch.empty(len(sets), len(tokens), dtype=torch.float64)
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        with within_memory(f"reading {len(ids)} tokens {len(part)} times"):
            logits = _logits(lm, ids, factors[part], [first[place] for place in part])
        logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        if logs.isnan().any():
            named = sets[part[int(logs.isnan().any(1).nonzero()[0])]]
            raise ModelError(
                f"{lm.name!r} in {lm.dtype} gives no numbers with {named or 'no head'} scaled; load it in float32 or "
                "bfloat16, or scale less."
            )
        out[part] = logs[:, list(tokens)].double().cpu()
        if progress is not None:
            progress(min(start + rows, len(order)), len(order))
    return out


def _logits(lm: LanguageModel, ids: Sequence[int], factors: torch.Tensor, first: Sequence[int]) -> torch.Tensor:
    """Next-token logits `[sets, vocabulary]`; sets stand in the order of the first layer that they change."""
    prompt = torch.tensor([list(ids)], device=lm.device)
    if whole_batch(lm) or lm.anatomy.headless:  # masks, biases or states have a row per sequence from the beginning
        with multiplied(lm, factors):
            every = lm.model(input_ids=prompt.expand(len(first), -1), use_cache=False, logits_to_keep=1)
        last: torch.Tensor = every.logits[:, -1]
        return last
    with growing(lm, first), multiplied(lm, torch.cat([torch.ones_like(factors[:1]), factors])):
        logits = lm.model(input_ids=prompt, use_cache=False, logits_to_keep=1).logits[:, -1]
    rows = [0 if layer == lm.anatomy.num_layers else 1 + place for place, layer in enumerate(first)]
    return logits[torch.tensor(rows, device=logits.device)]
