"""Logits of given tokens without the whole vocabulary: centred, or against another token's."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from headwater.model.anatomy import decoder, text_config
from headwater.model.lm import LanguageModel

VOCABULARY_BLOCK = 8192  # tokens whose logits are held at once


@torch.no_grad()
def centred_scores(
    lm: LanguageModel, ids: torch.Tensor, targets: torch.Tensor, against: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred logit of the token after each sequence, and whether it is the most likely one; one plain forward.

    Args:
        lm: a loaded model.
        ids: token ids `[sequences, tokens]`, no padding.
        targets: the token after each sequence, `[sequences]`.
        against: tokens whose logits take the place of the vocabulary's mean, `[sequences]`.

    Returns:
        fp32 `[sequences]` (fp64 for an fp64 model), bool `[sequences]`.
    """
    hidden = decoder(lm.model)(input_ids=ids.to(lm.device), use_cache=False).last_hidden_state[:, -1]
    scores = target_scores(lm, hidden, targets, against)
    precise = hidden.to(lm.model.get_output_embeddings().weight.device, scores.dtype)
    return scores, _most_likely(lm, precise) == targets.to(precise.device)


def target_scores(
    lm: LanguageModel, hidden: torch.Tensor, targets: torch.Tensor, against: torch.Tensor | None = None
) -> torch.Tensor:
    """Centred logits of the targets `[rows]` from `hidden` `[rows, D]` (after the final norm), in fp32 (fp64).

    Without soft-capping of logits the vocabulary is not needed: the mean logit is that of the mean output row. With
    `against` `[rows]` the logits of these tokens are taken away in place of the mean.
    """
    head = lm.model.get_output_embeddings()
    precise = torch.promote_types(hidden.dtype, torch.float32)
    hidden, targets = hidden.to(head.weight.device, precise), targets.to(head.weight.device)
    other = None if against is None else against.to(head.weight.device)
    if getattr(text_config(lm.model), "final_logit_softcapping", None) is None:
        base = head.weight.mean(0, dtype=precise) if other is None else head.weight[other].to(precise)
        scores = (hidden * (head.weight[targets].to(precise) - base)).sum(-1)
        if head.bias is not None:
            level = head.bias.mean(dtype=precise) if other is None else head.bias[other].to(precise)
            scores = scores + head.bias[targets].to(precise) - level
        return scores * logit_scale(lm)
    own, base = torch.zeros_like(hidden[:, 0]), torch.zeros_like(hidden[:, 0])
    for start, logits in _logits(lm, hidden):
        own += _picked(logits, targets, start)
        base += logits.sum(-1) / head.weight.shape[0] if other is None else _picked(logits, other, start)
    return own - base


def _picked(logits: torch.Tensor, tokens: torch.Tensor, start: int) -> torch.Tensor:
    """Each row's logit of its token where a block of the vocabulary holds it, else 0."""
    inside = (tokens >= start) & (tokens < start + logits.shape[1])
    place = (tokens - start).clamp(0, logits.shape[1] - 1)
    return torch.where(inside, logits.gather(1, place[:, None])[:, 0], 0.0)


def _most_likely(lm: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """The token with the highest logit, `[rows]`."""
    best, token = torch.full_like(hidden[:, 0], -torch.inf), torch.zeros(len(hidden), dtype=torch.long)
    token = token.to(hidden.device)
    for start, logits in _logits(lm, hidden):
        highest, place = logits.max(-1)
        token = torch.where(highest > best, place + start, token)
        best = torch.maximum(best, highest)
    return token


def _logits(lm: LanguageModel, hidden: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Logits `[rows, block]` with the first token of their block of the vocabulary."""
    head = lm.model.get_output_embeddings()
    cap = getattr(text_config(lm.model), "final_logit_softcapping", None)
    for start in range(0, head.weight.shape[0], VOCABULARY_BLOCK):
        block = slice(start, start + VOCABULARY_BLOCK)
        bias = None if head.bias is None else head.bias[block].to(hidden.dtype)
        logits = torch.nn.functional.linear(hidden, head.weight[block].to(hidden.dtype), bias) * logit_scale(lm)
        yield start, logits if cap is None else (logits / cap).tanh() * cap


def logit_scale(lm: LanguageModel) -> float:
    """What the family multiplies its logits by."""
    config = text_config(lm.model)
    if lm.anatomy.family in ("cohere", "cohere2"):
        return float(config.logit_scale)
    return 1 / config.logits_scaling if lm.anatomy.family == "granite" else 1.0
