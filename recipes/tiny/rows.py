"""Plain rows of packs, which a causal model of any architecture reads, and a training step on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.tiny.model import IGNORE, Trainer
from recipes.tiny.prompts import Pack


@dataclass
class Rows:
    """Token ids and labels (already shifted: the label of a position is the token after it), padded on the right."""

    ids: Tensor
    labels: Tensor


def rows(packs: list[Pack]) -> Rows:
    """One plain row per pack: the prefix, then its questions with their answers one after the other.

    A causal model of any architecture reads it. The first question of a row is exactly a prompt of the evaluation;
    later ones follow others.
    """
    width = max(map(len, packs))
    ids = torch.zeros(len(packs), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE)
    for row, pack in enumerate(packs):
        place = len(pack.prefix)
        ids[row, :place] = torch.tensor(pack.prefix)
        for tail, learned in zip(pack.tails, pack.answers, strict=True):
            end = place + len(tail)
            ids[row, place:end] = torch.tensor(tail)
            labels[row, end - learned - 1 : end - 1] = ids[row, end - learned : end]
            place = end
    return Rows(ids, labels)


def loss_and_hits(model: Any, batch: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy; per learned position whether the top token is right, and its row."""
    hidden = model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
    where, columns = torch.nonzero(batch.labels != IGNORE, as_tuple=True)
    logits, wanted = model.lm_head(hidden[where, columns]), batch.labels[where, columns]
    return F.cross_entropy(logits, wanted), logits.argmax(-1) == wanted, where


class RowTrainer(Trainer):
    """AdamW in fp32, on plain rows."""

    attention = None

    def loss(self, batch: Any) -> Tensor:
        """Mean cross-entropy of what a batch learns."""
        return loss_and_hits(self.model, batch)[0]
