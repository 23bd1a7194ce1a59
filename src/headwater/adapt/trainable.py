"""A model opened for training: a fresh adapter, the one it carries, or all weights; afterwards it is as before."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from headwater.adapt.parenting.units import candidate_units, unit_modules
from headwater.atomic import write_text
from headwater.errors import InputError, ModelError
from headwater.model.adapter import adapted, save_adapter
from headwater.model.anatomy import unwrapped
from headwater.model.lm import LanguageModel

logger = logging.getLogger("headwater")

TRAINABLE = ("lora", "full")
RATES = {"lora": 1e-4, "full": 1e-5}  # the highest learning rate where none is given


@contextmanager
def opened(
    lm: LanguageModel,
    trainable: str,
    rank: int,
    alpha: float,
    dropout: float,
    seed: int,
    tokens: Sequence[int] = (),
) -> Iterator[LanguageModel]:
    """The model with gradients on what is trained; on leaving, also on an exception, `lm.model` is as before.

    Args:
        lm: a loaded model. One that carries an adapter has that adapter trained on, whatever `rank` and `alpha` say.
        trainable: "lora": an adapter on all linear maps of the decoder layers; "full": all weights, of which a copy
            is kept on the CPU to put them back.
        rank: of a fresh adapter.
        alpha: a fresh adapter is scaled by alpha / rank.
        dropout: of a fresh adapter's input, in training mode.
        seed: of a fresh adapter's first values.
        tokens: whose rows of the input embeddings a fresh adapter trains, too.

    Raises:
        InputError: neither "lora" nor "full".
        ModelError: "full" with an adapter or in half precision, an adapter that is not LoRA, or a model that peft
            cannot adapt.
    """
    carries = check_trainable(lm, trainable)
    if trainable == "lora" and not carries:
        modules = unit_modules(candidate_units(lm, "pair"))
        with adapted(lm, modules, rank, alpha, seed, values=True, dropout=dropout, tokens=tokens) as tuned:
            yield tuned
        return
    if carries:
        logger.info("The adapter of %s is trained on; its own rank and scale stay.", lm.name)
    chosen = {name: p for name, p in lm.model.named_parameters() if not carries or _of_adapter(name)}
    kept = {name: parameter.detach().to("cpu", copy=True) for name, parameter in chosen.items()}
    asked = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    try:
        for name, parameter in lm.model.named_parameters():
            parameter.requires_grad_(name in chosen)
        yield lm
    finally:
        with torch.no_grad():
            for name, parameter in lm.model.named_parameters():
                parameter.requires_grad_(asked[name])
                parameter.grad = None
                if name in kept:
                    parameter.copy_(kept[name])


def check_trainable(lm: LanguageModel, trainable: str) -> bool:
    """Whether the model carries an adapter; refuses what `opened` cannot open. Raises what `opened` raises."""
    if trainable not in TRAINABLE:
        raise InputError(f"trainable is one of {', '.join(TRAINABLE)}, got {trainable!r}.")
    if lm.dtype == torch.float16:
        raise ModelError("Gradients underflow in float16: load the model in bfloat16 or float32.")
    carries = unwrapped(lm.model) is not lm.model
    if carries and trainable == "full":
        raise ModelError(f"{lm.name!r} carries an adapter: merge it first (model.merge_and_unload()).")
    if trainable == "full" and lm.dtype.itemsize < 4:
        raise ModelError("The small steps of a full training vanish in half precision: load the model in float32.")
    if carries and not any(_of_adapter(name) for name, _ in lm.model.named_parameters()):
        raise ModelError(f"The adapter of {lm.name!r} is not LoRA, so it cannot be trained on: merge it first.")
    return carries


def _of_adapter(name: str) -> bool:
    """Whether a parameter of a peft wrapper is the adapter's own."""
    return ".lora_" in name or "trainable_tokens_delta" in name


def save_tuned(lm: LanguageModel, folder: Path, texts: dict[str, str]) -> None:
    """Write what was trained: a peft adapter where there is one, else an ordinary checkpoint; `texts` with it.

    The checkpoint is in the dtype it was trained in, whatever the model was stored in.
    """
    if unwrapped(lm.model) is not lm.model:
        save_adapter(lm, folder, texts)
        return
    replace(lm, stored_dtype=None).save(folder)
    for name, text in texts.items():
        write_text(folder / name, text)
