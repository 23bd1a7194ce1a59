"""What an adaptation will do, and the folder that it leaves."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.adapt.folder import RECORD
from headwater.adapt.llara_texts import Chunks, Split
from headwater.adapt.trainable import save_tuned
from headwater.atomic import write_text
from headwater.model.lm import LanguageModel
from headwater.prompt.suffix import FILE, EmbeddingPrompt

_CARD = """---
base_model: {name}
---
# {name}, adapted to describe texts

Adapted by headwater's `Llara` (arXiv 2312.15503, stage 1) on {chunks:,} chunks of text, {steps:,} steps of {batch}. Its
states behind the prompts in `headwater.json` stand for whole texts. Tune it on queries before you search with it:

    headwater llara tune --model this-folder --output embedder
"""


@dataclass(frozen=True)
class LlaraPlan:
    """What an adaptation will do.

    Attributes:
        texts: that are not blank.
        chunks: of them, trained on.
        held_out: chunks of other texts that are only looked at.
        dropped: the other chunks of those texts, neither trained on nor looked at.
        with_next: chunks trained on that have a following one, so a target for "predict".
        tokens: read in one pass over the chunks, without tails.
        cut: chunks whose last words do not fit.
        targets: mean size of a chunk's own set.
        tails: tokens of both tails.
        steps: optimizer steps.
    """

    texts: int
    chunks: int
    held_out: int
    dropped: int
    with_next: int
    tokens: int
    cut: int
    targets: float
    tails: int
    steps: int


def planned(
    chunks: Chunks, split: Split, prompt: EmbeddingPrompt, batch: int, epochs: int, steps: int | None
) -> LlaraPlan:
    """The plan for these chunks; steps are those of `epochs` passes where they are not given."""
    room = prompt.room("summarize", "predict")
    sizes = [chunks.size(number) for number in split.train]
    return LlaraPlan(
        texts=len(chunks.starts) - 1,
        chunks=len(split.train),
        held_out=len(split.held_out),
        dropped=len(chunks) - len(split.train) - len(split.held_out),
        with_next=sum(chunks.next(number) is not None for number in split.train),
        tokens=sum(sizes),
        cut=sum(size == room for size in sizes),
        targets=sum(len(chunks.targets(number)) for number in split.train) / len(split.train),
        tails=sum(len(prompt.tail(role)) for role in ("summarize", "predict")),
        steps=steps or math.ceil(epochs * len(split.train) / batch),
    )


def write_adapted(
    folder: Path,
    tuned: LanguageModel,
    prompt: EmbeddingPrompt,
    base: dict[str, Any],
    config: dict[str, Any],
    result: dict[str, Any],
) -> None:
    """Weights, prompt and card; the record last; then the checkpoints are no longer needed.

    Args:
        folder: of the training.
        tuned: the trained model.
        prompt: it was trained with.
        base: provenance of the model before.
        config: settings.
        result: steps, log and plan.
    """
    made = {
        "prompt": prompt.as_dict(),
        "instruction": "",
        "method": config["method"],
        "base": base,
        "base_fingerprint": base["fingerprint"],
        "data": config["data"],
        "seed": config["seed"],
    }
    numbers = {"chunks": result["plan"]["chunks"], "steps": result["steps"], "batch": config["batch"]}
    card = _CARD.format(name=base["model"], **numbers)
    save_tuned(tuned, folder, {FILE: json.dumps(made, indent=1) + "\n", "README.md": card})
    write_text(folder / RECORD, json.dumps({"config": config, "result": result}, indent=1) + "\n")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
