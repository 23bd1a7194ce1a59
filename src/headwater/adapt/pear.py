"""PEAR: one learned coefficient for each head that suppresses the context, to be folded into the weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from headwater.adapt.text_kl import plain_texts, text_kl, windows
from headwater.errors import InputError, ModelError
from headwater.heads.suppression import SuppressionHeads
from headwater.headset import HeadSet, HeadsLike, as_heads
from headwater.instrument.fold import effective_coefficients
from headwater.instrument.outputs import scaled_by
from headwater.instrument.rows import check_origin
from headwater.model.lm import LanguageModel
from headwater.prompt.copying import CopyTask

logger = logging.getLogger("headwater")

Progress = Callable[[int, int], None]
EVERY = 10  # steps between looks at held-out sequences
HELD_OUT = 40  # sequences of each look
ROUNDED = 1e-3  # a coefficient that storage moves by more is worth a warning


@dataclass
class Pear:
    """Learns coefficients on random-token copying; documents and labels are not needed (arXiv 2409.19745; pear.md 3.6).

    The weights stay frozen; K scalars start at 1. What comes out is a `HeadSet` with coefficients: `hw.scaled` applies
    it while the model runs, `hw.fold` writes it into the weights, at no cost of inference.

    Attributes:
        heads: the heads to scale: a `HeadSet` or (layer, head) pairs; "all" for every head (SEAL-H); None: found by
            `SuppressionHeads` first.
        top_k: of them, the first so many (None: all of a given set, 30 of 1,024 in proportion where they are found).
        steps: optimiser steps.
        seed: of detection and of the sequences.
        learning_rate: peak of AdamW, which falls linearly to zero over `schedule` steps after `warmup`.
        schedule: see above; longer than `steps`, so that a run of 60 steps is the beginning of the published one.
        warmup: see above.
        length: tokens of a block.
        batch: sequences per step.
        micro_batch: sequences at once.
        skip_first: leave the first repeated token out of the loss, which nothing predicts.
        task: how sequences are drawn.
        bounds: least and largest value a coefficient may take (None: any).
        select: "fixed": the coefficients after `steps`. "heldout": those of the look (every 10 steps) with the lowest
            held-out copy loss among the ones within `max_text_kl`.
        max_text_kl: nats per token that predictions of plain text may move by, for select="heldout".
        texts: plain text for that (None: Factbook documents that ship with headwater).
        rounded: keep coefficients in bfloat16 while learning, as the released code does.
        preset: "official" sets every switch to the released code's value (pear.md 4).
    """

    heads: HeadSet | HeadsLike | Literal["all"] | None = None
    top_k: int | None = None
    steps: int = 60
    seed: int = 0
    _: KW_ONLY
    learning_rate: float = 5e-3
    schedule: int = 2500
    warmup: int = 2
    length: int = 50
    batch: int = 20
    micro_batch: int = 20
    skip_first: bool = True
    task: CopyTask = field(default_factory=CopyTask)
    bounds: tuple[float, float] | None = None
    select: Literal["fixed", "heldout"] = "fixed"
    max_text_kl: float = 0.02
    texts: Sequence[str] | None = None
    rounded: bool = False
    preset: Literal["official"] | None = None

    def __post_init__(self) -> None:
        """Apply the preset; refuse what cannot be run."""
        if self.preset == "official" and self.select != "fixed":
            raise InputError("preset='official' takes the coefficients after all steps; leave select='fixed'.")
        if self.heads == "all" and self.top_k is not None:
            raise InputError("heads='all' learns every head; leave top_k out.")
        if self.preset == "official":
            self.skip_first, self.rounded, self.select, self.bounds = False, True, "fixed", None
            self.task = CopyTask(ids="from-two", distinct=False, begin="never")
        elif self.preset is not None:
            raise InputError(f"Unknown preset {self.preset!r}; the only one is 'official'.")
        if self.select not in ("fixed", "heldout"):
            raise InputError(f"Unknown select {self.select!r}; use 'fixed' or 'heldout'.")
        if isinstance(self.heads, str) and self.heads != "all":
            raise InputError(f"heads is a head set, (layer, head) pairs, 'all' or None, got {self.heads!r}.")
        for name in ("steps", "schedule", "batch", "micro_batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.steps > self.schedule:
            raise InputError(
                f"{self.steps} steps are more than the schedule of {self.schedule}; give schedule= as well."
            )
        if self.bounds is not None and not self.bounds[0] <= 1 <= self.bounds[1]:
            raise InputError(f"bounds must hold 1, where coefficients start, got {self.bounds}.")

    def fit(self, lm: LanguageModel, progress: Progress | None = None) -> HeadSet:
        """Find the heads where none are given, and learn their coefficients.

        Args:
            lm: a loaded model; it is left as it was, bit for bit.
            progress: called with (steps done, steps in all); before that with those of the search for heads.

        Returns:
            The heads in their order with coefficients; provenance holds the curve (losses and coefficients every 10
            steps), held-out copy loss and text KL before and after, the coefficients that survive rounding to the
            checkpoint's dtype, and the share below one.

        Raises:
            ModelError: heads are to be found and the model does not copy, or a coefficient is not finite.
            HeadSetError: heads of a model of another shape.
        """
        found = self._heads(lm, progress)
        alpha = torch.ones(len(found), device=lm.device, requires_grad=True)
        optimiser = torch.optim.AdamW([alpha], lr=self.learning_rate, weight_decay=0.0)
        given = windows(lm, plain_texts() if self.texts is None else self.texts)
        held_out = self.task.draw(lm, HELD_OUT, self.length, self._generator("held out"))
        train = self._generator("train")
        curve = [self._look(lm, found, alpha, held_out, given, 0, None)]
        with _frozen(lm):
            for step in range(self.steps):
                for group in optimiser.param_groups:
                    group["lr"] = rate(self, step)
                loss = self._step(lm, found, alpha, self.task.draw(lm, self.batch, self.length, train))
                torch.nn.utils.clip_grad_norm_([alpha], 1.0)
                optimiser.step()
                with torch.no_grad():
                    if self.bounds is not None:
                        alpha.clamp_(*self.bounds)
                    if self.rounded:
                        alpha.copy_(alpha.bfloat16())
                if not alpha.isfinite().all():
                    raise ModelError(f"A coefficient is not finite after step {step + 1}; use a lower learning_rate.")
                if (step + 1) % EVERY == 0 or step + 1 == self.steps:
                    curve.append(self._look(lm, found, alpha, held_out, given, step + 1, loss))
                if progress is not None:
                    progress(step + 1, self.steps)
        return self._result(lm, found, curve)

    def _heads(self, lm: LanguageModel, progress: Progress | None) -> HeadSet:
        """The heads to scale, without coefficients."""
        if self.heads is None:
            detector = SuppressionHeads(top_k=self.top_k, seed=self.seed, task=self.task)
            if self.preset == "official":
                detector = SuppressionHeads(top_k=self.top_k, seed=self.seed, preset="official")
            return detector.find(lm, progress=progress)
        if isinstance(self.heads, str):
            return HeadSet(lm.anatomy.all_heads, provenance={"method": "all"})
        found = self.heads if isinstance(self.heads, HeadSet) else HeadSet(as_heads(self.heads))
        check_origin(found, lm)
        return replace(found if self.top_k is None else found.top(self.top_k), coefficients=None)

    def _generator(self, use: str) -> torch.Generator:
        return torch.Generator().manual_seed(2 * self.seed + (use == "held out") + 1_000_003)

    def _loss(self, lm: LanguageModel, heads: HeadSet, alpha: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the second copy."""
        with scaled_by(lm, heads.heads, alpha):
            return copying_loss(lm, ids, ids.shape[1] - self.length + self.skip_first)

    def _step(self, lm: LanguageModel, heads: HeadSet, alpha: torch.Tensor, ids: torch.Tensor) -> float:
        """Gradients of one batch; returns its loss."""
        alpha.grad = None
        total = 0.0
        for part in ids.split(self.micro_batch):
            loss = self._loss(lm, heads, alpha, part) * (len(part) / len(ids))
            loss.backward()
            total += loss.item()
        return total

    @torch.no_grad()
    def _look(
        self,
        lm: LanguageModel,
        heads: HeadSet,
        alpha: torch.Tensor,
        held_out: torch.Tensor,
        given: Sequence[torch.Tensor],
        step: int,
        loss: float | None,
    ) -> dict[str, Any]:
        """Losses and coefficients at a step; text KL only where it selects, or at the end."""
        parts = held_out.split(self.micro_batch)
        held = sum(self._loss(lm, heads, alpha, part).item() * len(part) for part in parts) / len(held_out)
        moved = None
        if self.select == "heldout" or step == self.steps:
            moved = 0.0 if step == 0 else text_kl(lm, lambda: scaled_by(lm, heads.heads, alpha), given)
        return {"step": step, "loss": loss, "heldout": held, "text_kl": moved, "coefficients": alpha.tolist()}

    def _result(self, lm: LanguageModel, heads: HeadSet, curve: list[dict[str, Any]]) -> HeadSet:
        chosen = curve[-1]
        if self.select == "heldout":
            chosen = min((row for row in curve if row["text_kl"] <= self.max_text_kl), key=lambda row: row["heldout"])
        settings = asdict(replace(self, heads=None, texts=None))
        provenance = {
            **lm.provenance(),
            "method": "Pear",
            "settings": settings,
            "texts": "built-in" if self.texts is None else f"{len(self.texts)} given",
            "detection": dict(heads.provenance),
            "step": chosen["step"],
            "heldout": {"before": curve[0]["heldout"], "after": chosen["heldout"]},
            "text_kl": chosen["text_kl"],
            "below_one": float(np.mean(np.array(chosen["coefficients"]) < 1)),
            "curve": curve,
        }
        found = HeadSet(heads.heads, chosen["coefficients"], heads.scores, provenance)
        try:
            kept = effective_coefficients(lm, found)
        except ModelError as error:
            logger.warning("These coefficients cannot be folded as the model is now: %s", error)
            return found
        lost = max(abs(a - b) for a, b in zip(kept, found.coefficients or [], strict=True))
        if lost > ROUNDED:
            logger.warning("Rounding to the checkpoint's dtype moves a coefficient by %.4f.", lost)
        return replace(found, provenance={**provenance, "effective": kept})


def rate(pear: Pear, step: int) -> float:
    """The learning rate of a step, as transformers' linear schedule has it."""
    if step < pear.warmup:
        return pear.learning_rate * step / pear.warmup
    return pear.learning_rate * max(0.0, (pear.schedule - step) / max(1, pear.schedule - pear.warmup))


def copying_loss(lm: LanguageModel, ids: torch.Tensor, first: int) -> torch.Tensor:
    """Mean cross-entropy of the tokens from place `first` on, `ids` being `[sequences, tokens]`; with gradients."""
    logits = lm.model(input_ids=ids[:, :-1], use_cache=False).logits[:, first - 1 :]
    return cross_entropy(logits.flatten(0, 1).float(), ids[:, first:].to(logits.device).flatten())


@contextmanager
def _frozen(lm: LanguageModel) -> Iterator[None]:
    """No weight gets a gradient inside; afterwards each asks for one as before."""
    asked = [(parameter, parameter.requires_grad) for parameter in lm.model.parameters()]
    for parameter, _ in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, before in asked:
            parameter.requires_grad_(before)
