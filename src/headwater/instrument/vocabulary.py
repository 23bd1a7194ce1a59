"""Logits of chosen states only, and the language-model loss in blocks (llara.md 3.5)."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from headwater.errors import ModelError
from headwater.instrument.token_scores import logit_scale
from headwater.model.anatomy import decoder, text_config
from headwater.model.lm import LanguageModel

BLOCK = 2048  # tokens whose logits are held at once
_CHECKED = 8  # tokens of the comparison with the model's own logits


def state_logits(lm: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits `[..., V]` of states `[..., D]` (after the final norm), as the model gives them, in fp32 (fp64)."""
    logits = lm.model.get_output_embeddings()(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * logit_scale(lm)
    cap = getattr(text_config(lm.model), "final_logit_softcapping", None)
    return logits if cap is None else (logits / cap).tanh() * cap


def next_token_loss(lm: LanguageModel, hidden: torch.Tensor, said: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    """Summed cross-entropy of tokens `[M]` given the states in front of them `[M, D]`, in nats, fp32 (fp64).

    Logits of `block` tokens are held at a time, and computed again on the way back.
    """

    def part(states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        logits = state_logits(lm, states)
        return cross_entropy(logits, tokens.to(logits.device), reduction="sum")

    total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for states, tokens in zip(hidden.split(block), said.split(block), strict=True):
        if torch.is_grad_enabled():
            total = total + checkpoint(part, states, tokens, use_reentrant=False)
        else:
            total = total + part(states, tokens)
    return total


@torch.no_grad()
def check_projection(lm: LanguageModel) -> None:
    """Compare `state_logits` with the model's own logits on a few tokens.

    Raises:
        ModelError: they differ, so that the model does more to its logits than is known here.
    """
    size = min(len(lm.tokenizer), lm.model.get_input_embeddings().weight.shape[0])
    ids = torch.linspace(0, size - 1, _CHECKED, device=lm.device).long()[None]
    want = lm.model(input_ids=ids, use_cache=False).logits.float()
    found = state_logits(lm, decoder(lm.model)(input_ids=ids, use_cache=False).last_hidden_state).float()
    allowed = 1e-4 if lm.dtype in (torch.float32, torch.float64) else 3e-2
    if (found - want).abs().max() > allowed * want.abs().max().clamp_min(1.0):
        raise ModelError(
            f"The logits of {lm.name!r} are not its output projection with the scale and cap of its configuration, so "
            "no loss can be computed at chosen places."
        )
