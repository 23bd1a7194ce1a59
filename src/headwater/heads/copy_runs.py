"""One needle case read by the model, and what every head copied meanwhile (retrieval_heads.md 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headwater.instrument.strongest import Strongest, strongest
from headwater.model.greedy import greedy_line
from headwater.model.lm import LanguageModel
from headwater.model.memory import within_memory
from headwater.prompt.needle import NeedlePrompt

Span = tuple[int, int]


@dataclass(frozen=True)
class CopyRun:
    """What the model said and what its heads did; arrays are fp64 or bool, `[heads]` in the order of `all_heads`.

    A head has a hit when the position it attends to most lies in the span and holds the token that is being produced.

    Attributes:
        response: the model's answer.
        once: distinct positions of the span with a hit, as a share of the span.
        count: hits, as a share of the span's length (a position hit twice counts twice).
        weight: mean attention at the hits, 0 without any.
        saw: whether the head could see any of the span at some step (a short sliding window may hide it).
    """

    response: str
    once: torch.Tensor
    count: torch.Tensor
    weight: torch.Tensor
    saw: torch.Tensor


def decode_run(lm: LanguageModel, prompt: NeedlePrompt, span: Span, max_new_tokens: int) -> CopyRun:
    """Let the model answer greedily, up to a line break, its end or `max_new_tokens`.

    The first step is the last token of the prompt; every later one is a token the model produced.

    Raises:
        InsufficientMemoryError: the device runs out of memory.
        NonFiniteAttentionError: NaN or infinity in an attention row.
    """
    with strongest(lm) as found:
        new, response = greedy_line(lm, prompt.ids, max_new_tokens)
    said = torch.tensor(new)
    return _tallied(found, prompt.ids, span, said, torch.ones(len(new), dtype=torch.bool), response)


@torch.no_grad()
def forced_run(lm: LanguageModel, prompt: NeedlePrompt, span: Span) -> CopyRun:
    """Put the right answer behind the prompt and read it in one forward (retrieval_heads.md 6).

    A token counts only if it is the model's own choice there; the response is what the model would have said at each
    place.

    Raises:
        InsufficientMemoryError: the device runs out of memory.
        NonFiniteAttentionError: NaN or infinity in an attention row.
    """
    gold = torch.tensor(prompt.continuation)
    ids = torch.tensor([[*prompt.ids, *prompt.continuation[:-1]]], device=lm.device)
    with within_memory(f"reading {ids.shape[1]} tokens"), strongest(lm, rows=range(-len(gold), 0)) as found:
        logits = lm.model(input_ids=ids, use_cache=False, logits_to_keep=len(gold)).logits[0]
    said = logits.argmax(-1).cpu()
    response = str(lm.tokenizer.decode(said, skip_special_tokens=True)).strip()
    return _tallied(found, prompt.ids, span, gold, gold == said, response)


def _tallied(
    found: Strongest, ids: Sequence[int], span: Span, tokens: torch.Tensor, counted: torch.Tensor, response: str
) -> CopyRun:
    """Hits of every head; `tokens` are those produced at each step, `counted` says which of them may be hit."""
    steps, (start, end) = len(tokens), span
    index, weight, first = (_by_step(read)[:steps].cpu() for read in (found.index, found.weight, found.first))
    place = (index - start).clamp(0, end - start - 1)
    here = torch.tensor(list(ids[start:end]))[place]
    hit = (start <= index) & (index < end) & (here == tokens[:, None]) & counted[:, None]
    size, times = end - start, hit.sum(0)
    positions = torch.zeros(index.shape[1], size).scatter_reduce_(1, place.T, hit.T.float(), "amax").sum(1)
    mean = torch.where(hit, weight, 0.0).sum(0) / times.clamp(min=1)
    return CopyRun(response, positions.double() / size, times.double() / size, mean.double(), (first < end).any(0))


def _by_step(read: torch.Tensor) -> torch.Tensor:
    """`[forwards, 1, heads, rows]`, one of the outer two being 1, as `[steps, heads]`."""
    return read[:, 0].transpose(1, 2).flatten(0, 1)
