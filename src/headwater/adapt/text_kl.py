"""How much a change of a model moves its predictions of plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from headwater.data import world
from headwater.errors import InputError
from headwater.model.lm import LanguageModel

TOKENS = 20_000
_LONGEST = 256  # tokens of a window


def plain_texts() -> list[str]:
    """Texts that ship with headwater: Factbook documents of the development countries."""
    return [f"{document.title}\n{document.text}" for document in world.documents("development")]


def windows(lm: LanguageModel, texts: Sequence[str], tokens: int = TOKENS) -> list[torch.Tensor]:
    """The texts as token ids `[1, window]` of at most 256 tokens, each behind a begin token; `tokens` in all at most.

    Raises:
        InputError: no text of two tokens.
    """
    begin = [] if lm.tokenizer.bos_token_id is None else [int(lm.tokenizer.bos_token_id)]
    size = min(_LONGEST, lm.max_length or _LONGEST) - len(begin)
    stream: list[int] = []
    for text in texts:
        encoded = lm.tokenizer(text + "\n\n", add_special_tokens=False, split_special_tokens=True, verbose=False)
        stream += encoded["input_ids"]
        if len(stream) >= tokens:
            break
    parts = [stream[start : start + size] for start in range(0, min(len(stream), tokens), size)]
    found = [torch.tensor([begin + part], device=lm.device) for part in parts if len(begin) + len(part) > 1]
    if not found:
        raise InputError("The plain text has no two tokens to compare predictions on; give more text.")
    return found


@torch.no_grad()
def text_kl(
    lm: LanguageModel, changed: Callable[[], AbstractContextManager[None]], given: Sequence[torch.Tensor]
) -> float:
    """Mean Kullback-Leibler divergence per token from the model to the changed model, in nats.

    Args:
        lm: the model.
        changed: makes a context in which the model is the changed one, for example ``lambda: hw.scaled(lm, heads)``.
        given: windows of token ids `[1, tokens]`.
    """
    total, count = 0.0, 0
    for ids in given:
        before = _log_probabilities(lm, ids)
        with changed():
            total += _divergence(before, _log_probabilities(lm, ids))
        count += ids.shape[1]
    return total / count


@torch.no_grad()
def text_kl_of_models(lm: LanguageModel, other: LanguageModel, given: Sequence[torch.Tensor]) -> float:
    """The same from one model to another one with the same tokens."""
    total = sum(_divergence(_log_probabilities(lm, ids), _log_probabilities(other, ids)) for ids in given)
    return total / sum(ids.shape[1] for ids in given)


def _log_probabilities(lm: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = lm.model(input_ids=ids.to(lm.device), use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


def _divergence(before: torch.Tensor, after: torch.Tensor) -> float:
    """Summed over positions."""
    return (before.exp() * (before - after.to(before.device))).sum().item()
