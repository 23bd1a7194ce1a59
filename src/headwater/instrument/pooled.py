"""Embeddings of a batch of prompts: the decoder's last states, averaged over chosen places (llara.md 3.1, 3.9)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headwater.errors import InputError, ModelError
from headwater.model.anatomy import decoder
from headwater.model.greedy import padding_id
from headwater.model.lm import LanguageModel

_STEP = 8  # rows are padded to a multiple of this


def pooled_states(
    lm: LanguageModel, rows: Sequence[Sequence[int]], places: Sequence[range], width: int = 0
) -> torch.Tensor:
    """Mean of the states behind the final norm over some places of each row, with gradients where autograd is on.

    Rows are padded at their ends, where a causal model does not look, so that positions are those of the row alone in
    every architecture.

    Args:
        lm: a loaded model; its language-model head does not run.
        rows: token ids of each prompt.
        places: which states of each prompt are averaged.
        width: pad to at least this length.

    Returns:
        fp32 `[rows, hidden]` (fp64 of a model in fp64).

    Raises:
        InputError: an empty row, or a row without places.
        ModelError: NaN or infinity in a state.
    """
    bad = next((i for i, (row, own) in enumerate(zip(rows, places, strict=True)) if not row or not own), None)
    if bad is not None:
        raise InputError(f"Prompt {bad} has no token to take an embedding from.")
    longest = -(-max(width, *map(len, rows)) // _STEP) * _STEP
    if lm.max_length:
        longest = max(min(longest, lm.max_length), *map(len, rows))
    blank = padding_id(lm)
    ids = torch.tensor([[*row, *[blank] * (longest - len(row))] for row in rows], device=lm.device)
    lengths = torch.tensor([len(row) for row in rows], device=lm.device)
    mask = (torch.arange(longest, device=lm.device) < lengths[:, None]).long()
    states = decoder(lm.model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    wide = states.dtype if states.dtype == torch.float64 else torch.float32
    means = [state[own.start : own.stop].to(wide).mean(0) for state, own in zip(states, places, strict=True)]
    out = torch.stack(means)
    if not torch.isfinite(out).all():
        raise ModelError(f"{lm.name!r} gives NaN or infinity in a state; load it in float32 or bfloat16.")
    return out
