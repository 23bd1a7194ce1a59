"""A low-rank adapter on the output projections, learned on PEAR's copy task: what PEAR's few scalars stand against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headwater.adapt.pear import Pear, Progress, copying_loss, rate
from headwater.errors import ModelError
from headwater.model.adapter import adapted
from headwater.model.anatomy import output_projections, unwrapped
from headwater.model.lm import LanguageModel


@contextmanager
def copying_adapter(
    lm: LanguageModel, pear: Pear, rank: int = 1, progress: Progress | None = None
) -> Iterator[LanguageModel]:
    """The model with a LoRA adapter on every attention output projection (pear.md 8.1, the last row).

    Learned on the same sequences as `pear`, with its steps, rates and batches; all other weights are frozen. On
    leaving, `lm` is as it was.

    Args:
        lm: a loaded model without an adapter.
        pear: task, seed, steps and rates.
        rank: rank of the adapter; its scale is 1.
        progress: called with (steps done, steps in all).

    Raises:
        ModelError: the model carries an adapter already, or a value of the adapter is not finite.
        MissingExtraError: peft is not installed.
    """
    wanted = {id(module) for module in output_projections(lm.model).values()}
    names = [name for name, module in unwrapped(lm.model).named_modules() if id(module) in wanted]
    with adapted(lm, names, rank, float(rank), pear.seed) as tuned:
        trained = [p for p in tuned.model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=pear.learning_rate, weight_decay=0.0)
        draw = torch.Generator().manual_seed(2 * pear.seed + 1_000_003)  # the sequences that the scalars learn from
        for step in range(pear.steps):
            for group in optimiser.param_groups:
                group["lr"] = rate(pear, step)
            optimiser.zero_grad()
            ids = pear.task.draw(lm, pear.batch, pear.length, draw)
            for part in ids.split(pear.micro_batch):
                loss = copying_loss(tuned, part, ids.shape[1] - pear.length + pear.skip_first)
                (loss * (len(part) / len(ids))).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            if progress is not None:
                progress(step + 1, pear.steps)
        if not all(p.isfinite().all() for p in trained):
            raise ModelError("The adapter is not finite after learning to copy; use a lower learning_rate.")
        yield tuned
