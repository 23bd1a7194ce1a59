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


def padding_id(lm: LanguageModel) -> int:
    """A token id to fill batches with, which no other token attends to: the tokenizer's own, or some other."""
    own, ends = lm.tokenizer.pad_token_id, end_ids(lm)
    return int(own) if own is not None else (ends[0] if ends else 0)


def _settings(lm: LanguageModel, max_new_tokens: int, guidance: float = 1.0) -> Any:
    """Greedy decoding, and nothing of what a checkpoint says about generation."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,  # some checkpoints say no: every step would read the whole prompt
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        guidance_scale=guidance,
        eos_token_id=end_ids(lm) or None,
        pad_token_id=padding_id(lm),
    )


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

    config = _settings(lm, max_new_tokens, 1.0 if against is None else against[1])
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


def greedy_lines(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch: int = 16
) -> list[str]:
    """`greedy_line` of many prompts, so many at a time, padded on the left; prompts of like length together.

    Args:
        lm: a loaded model.
        prompts: token ids of each prompt.
        max_new_tokens: where a continuation ends at the latest.
        batch: prompts of one forward pass.

    Returns:
        The first line of each continuation, in the order of the prompts.

    Raises:
        InsufficientMemoryError: the device runs out of memory.
    """
    import torch

    config = _settings(lm, max_new_tokens)
    pad = config.pad_token_id

    def text(new: Any) -> str:
        return str(lm.tokenizer.decode(new, skip_special_tokens=True)).lstrip()

    found = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        longest = max(len(prompts[place]) for place in places)
        blank = [longest - len(prompts[place]) for place in places]
        ids = [[pad] * gap + list(prompts[place]) for gap, place in zip(blank, places, strict=True)]
        mask = [[0] * gap + [1] * (longest - gap) for gap in blank]
        inputs = torch.tensor(ids, device=lm.device)

        def over(sequences: Any, scores: Any, length: int = longest, **_: Any) -> Any:
            return torch.tensor(["\n" in text(row[length:]) for row in sequences], device=sequences.device)

        with torch.inference_mode(), within_memory(f"reading {len(places)} prompts of {longest} tokens"):
            out = lm.model.generate(
                inputs,
                attention_mask=torch.tensor(mask, device=lm.device),
                generation_config=config,
                stopping_criteria=[over],
            )
        for place, row in zip(places, out, strict=True):
            found[place] = text(row[longest:]).split("\n")[0].strip()
    return found
