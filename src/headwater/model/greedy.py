"""Greedy generation, whatever generation settings a checkpoint brings along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headwater.model.memory import within_memory

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

Against = tuple[Sequence[int], float]


def end_ids(lm: LanguageModel) -> list[int]:
    """End-of-sequence ids of the tokenizer and of the checkpoint's own generation settings."""
    own = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    listed = list(own) if isinstance(own, (list, tuple)) else [own]
    return sorted({int(i) for i in [*listed, lm.tokenizer.eos_token_id] if i is not None})


def greedy(
    lm: LanguageModel, ids: Sequence[int], max_new_tokens: int, against: Against | None = None, **arguments: Any
) -> list[int]:
    """Continue a prompt with the most probable token each time, up to an end-of-sequence token.

    Sampling, beams and repetition penalties of the checkpoint are left aside: a penalty on what stands in the prompt
    already would keep a model from copying out of it.

    Args:
        lm: a loaded model.
        ids: token ids of the prompt.
        max_new_tokens: where the continuation ends at the latest.
        against: ids of a second prompt and a scale s: the next token is then the one with the largest
            s * log p(token | prompt) + (1 - s) * log p(token | second prompt), and goes to both prompts
            (transformers' classifier-free guidance).
        arguments: more for `generate`: stopping_criteria, logits_processor.

    Returns:
        The new token ids, the end-of-sequence token included.

    Raises:
        InsufficientMemoryError: the device runs out of memory.
    """
    import torch
    from transformers import GenerationConfig

    ends = end_ids(lm)
    pad = lm.tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,  # some checkpoints say no: every step would read the whole prompt
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        guidance_scale=1.0 if against is None else against[1],
        eos_token_id=ends or None,
        pad_token_id=pad if pad is not None else (ends[0] if ends else 0),
    )
    inputs = torch.tensor([list(ids)], device=lm.device)
    if against is not None:
        arguments["negative_prompt_ids"] = torch.tensor([list(against[0])], device=lm.device)
    with torch.inference_mode(), within_memory(f"reading {len(ids)} tokens"):
        out = lm.model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config, **arguments)
    return [int(i) for i in out[0, len(ids) :]]


def greedy_line(lm: LanguageModel, ids: Sequence[int], max_new_tokens: int) -> tuple[list[int], str]:
    """`greedy` up to the first line break behind some text.

    Returns:
        The new token ids, and their text without special tokens or white space at its ends, up to that line break.

    Raises:
        InsufficientMemoryError: the device runs out of memory.
    """
    import torch

    def text(new: Any) -> str:
        return str(lm.tokenizer.decode(new, skip_special_tokens=True)).lstrip()

    def over(sequences: Any, scores: Any, **_: Any) -> Any:
        return torch.tensor(["\n" in text(sequences[0, len(ids) :])], device=sequences.device)

    new = greedy(lm, ids, max_new_tokens, stopping_criteria=[over])
    return new, text(new).split("\n")[0].strip()
