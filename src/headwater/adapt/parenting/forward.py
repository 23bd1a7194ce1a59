"""The forward term of the unit scores: how active the gates of each layer are (parenting.md 3.3, 4)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from headwater.adapt.parenting.losses import Batch, TrainingPrompt, batches
from headwater.errors import ModelError
from headwater.heads.detector import Progress
from headwater.instrument.gates import GateCounts, gate_counts, gate_modules
from headwater.model.lm import LanguageModel

Forward = Literal["probability", "code_counts", "none"]
FORWARDS = ("probability", "code_counts", "none")


def check_gates(lm: LanguageModel, mode: Forward) -> None:
    """Refuse a model whose gates cannot be read, before any work is done.

    Raises:
        ModelError: a layer without a linear map before its activation; the message names the way around.
    """
    if mode != "none":
        try:
            gate_modules(lm)
        except ModelError as error:
            raise ModelError(f"{error} Mine with forward='none'.") from error


def open_gates(
    lm: LanguageModel, prompts: Sequence[TrainingPrompt], mode: Forward, size: int, progress: Progress | None = None
) -> GateCounts:
    """Open gates of the base model on a set.

    Args:
        lm: the model without an adapter.
        prompts: the set.
        mode: "probability" counts the tokens of the prompts; "code_counts" targets and padding, too.
        size: prompts of a forward; with "code_counts" the padding, and so the counts, depend on it.
        progress: called with (forwards done, forwards).
    """

    def counted(batch: Batch) -> torch.Tensor:
        return batch.asked if mode == "probability" else torch.ones_like(batch.ids)

    def given() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        count = math.ceil(len(prompts) / size)
        for done, batch in enumerate(batches(lm, prompts, size, by_length=mode == "probability"), 1):
            yield batch.ids, batch.mask, counted(batch)
            if progress is not None:
                progress(done, count)

    return gate_counts(lm, given())


def layer_weights(gates: GateCounts | None, mode: Forward, layers: int) -> list[float]:
    """w_l of every layer: f_l / mean f, or from raw counts m (1 + m_l - min m) / sum of these; 1 without counts."""
    if gates is None:
        return [1.0] * layers
    values = 1.0 + gates.active - gates.active.min() if mode == "code_counts" else gates.shares
    whole = values.sum() if mode == "code_counts" else values.mean()
    return [float(value) for value in values / whole]
