"""Log probabilities: of a text, and of continuations of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from headwater.errors import ContextOverflowError, InputError

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


def text_loss(lm: LanguageModel, text: str) -> tuple[float, int]:
    """Negative log likelihood of a text in nats, summed over its tokens, and their number.

    The begin token, where the tokenizer has one, is given; without it the first token is given and not counted. A text
    longer than the model reads is cut into parts that are predicted one by one, each behind a begin token of its own.

    Raises:
        InputError: a text without any token to predict.
    """
    ids = _encode(lm, text)
    begin = [] if lm.tokenizer.bos_token_id is None else [int(lm.tokenizer.bos_token_id)]
    room = (lm.max_length or 10**9) - len(begin)
    parts = [ids[start : start + room] for start in range(0, len(ids), room)]
    nats, tokens = 0.0, 0
    for part in parts:
        given = begin or part[:1]
        rest = part if begin else part[1:]
        if rest:
            nats -= sum(_log_probabilities(lm, given, rest))
            tokens += len(rest)
    if not tokens:
        raise InputError("The text has no token to predict; give more text.")
    return nats, tokens


def continuation_log_probabilities(lm: LanguageModel, prompt: str, options: Sequence[str]) -> list[float]:
    """Log probability of each continuation of a prompt, summed over its tokens, float64 nats.

    Prompt and continuation are tokenised one by one, so write the space before a word into the continuation.

    Raises:
        InputError: an empty prompt for a model without a begin token, no options, or an empty one.
        ContextOverflowError: prompt and continuation are longer than the model reads.
    """
    begin = [] if lm.tokenizer.bos_token_id is None else [int(lm.tokenizer.bos_token_id)]
    given = begin + _encode(lm, prompt)
    if not given or not options:
        raise InputError("Give a prompt and at least one continuation.")
    out = []
    for option in options:
        rest = _encode(lm, option)
        if not rest:
            raise InputError(f"The continuation {option!r} has no tokens.")
        needed, limit = len(given) + len(rest), lm.max_length
        if limit is not None and needed > limit:
            raise ContextOverflowError(
                f"Prompt and continuation take {needed} tokens, but {lm.name} reads {limit}.",
                tokens=needed,
                limit=limit,
            )
        out.append(sum(_log_probabilities(lm, given, rest)))
    return out


def _encode(lm: LanguageModel, text: str) -> list[int]:
    encoded = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return list(encoded["input_ids"])


@torch.inference_mode()
def _log_probabilities(lm: LanguageModel, given: list[int], rest: list[int]) -> list[float]:
    """Log probability of each token of `rest` after `given`."""
    ids = torch.tensor([given + rest], device=lm.device)
    logits = lm.model(input_ids=ids, use_cache=False).logits[0, len(given) - 1 : -1]
    chosen = logits.float().log_softmax(-1).gather(1, ids[0, len(given) :, None])
    return [float(value) for value in chosen[:, 0]]
