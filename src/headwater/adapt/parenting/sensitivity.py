"""How much each unit matters for a loss: |weight x gradient|, smoothed, with its uncertainty (parenting.md 3.3)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from headwater.adapt.parenting.losses import TrainingPrompt, answer_loss, batches
from headwater.adapt.parenting.units import Piece, Unit, unit_modules, unit_pieces
from headwater.errors import InsufficientMemoryError, ModelError
from headwater.heads.detector import Progress
from headwater.instrument.checkpointing import checkpointed
from headwater.model.adapter import adapted, refuse_adapted
from headwater.model.anatomy import unwrapped
from headwater.model.lm import LanguageModel

Reduce = Literal["entry", "unit"]
Order = Literal["before", "after"]
Aggregate = Literal["half", "last"]
BETA = 0.85  # of both averages
_MAX_NORM = 1.0


@dataclass(frozen=True)
class Run:
    """How one mining run trains.

    Attributes:
        rank: rank of the throw-away adapter.
        alpha: it is scaled by alpha / rank.
        learning_rate: constant; without effect on units of kind "matrix", which stay as they are.
        batch: prompts of a step.
        micro_batch: prompts of a forward.
        steps: optimizer steps.
        reduce: see `Sensitivity`.
        order: "before": weight and gradient before clipping and step; "after": the stepped weight and the clipped
            gradient, as in the released code.
        aggregate: "half": mean of the unit scores over the last half of the steps; "last": of the last step.
        seed: of the adapter's first factor and of the order of the prompts.
        checkpointing: layers keep their inputs only and run again on the way back.
    """

    rank: int
    alpha: float
    learning_rate: float
    batch: int
    micro_batch: int
    steps: int
    reduce: Reduce
    order: Order
    aggregate: Aggregate
    seed: int
    checkpointing: bool = False


class Sensitivity:
    """Exponential averages of I = |p * g|: of I itself, Ib, and of how far I is from it, U (both from 0, beta 0.85).

    The score of a unit is the mean of Ib * U over its entries. With `reduce="unit"` I is first averaged over the
    unit's entries, and Ib and U are two numbers per unit instead of two buffers per entry.

    Args:
        pieces: where the parameters of each unit are.
        reduce: "entry" or "unit".
    """

    def __init__(self, pieces: Sequence[Sequence[Piece]], reduce: Reduce = "entry") -> None:
        """Start at zero."""
        self._pieces = pieces
        self._reduce = reduce
        self._parameters = {piece.name: piece.parameter for unit in pieces for piece in unit}
        self._sizes = np.array([sum(piece.of(piece.parameter).numel() for piece in unit) for unit in pieces], float)
        self._ib: dict[str, torch.Tensor] = {}
        self._u: dict[str, torch.Tensor] = {}
        self._unit_ib = np.zeros(len(pieces))
        self._unit_u = np.zeros(len(pieces))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights and the gradients as they are now; a missing gradient counts as zero."""
        products = {name: _product(parameter) for name, parameter in self._parameters.items()}
        if self._reduce == "unit":
            now = self._means(products)
            self._unit_ib = BETA * self._unit_ib + (1 - BETA) * now
            self._unit_u = BETA * self._unit_u + (1 - BETA) * np.abs(now - self._unit_ib)
            return
        for name, product in products.items():
            ib = self._ib.setdefault(name, torch.zeros_like(product)).mul_(BETA).add_(product, alpha=1 - BETA)
            self._u.setdefault(name, torch.zeros_like(product)).mul_(BETA).add_((product - ib).abs(), alpha=1 - BETA)

    def scores(self) -> np.ndarray:
        """The score of each unit at this step, float64 `[units]`."""
        if self._reduce == "unit":
            return self._unit_ib * self._unit_u
        return self._means({name: ib * self._u[name] for name, ib in self._ib.items()})

    def _means(self, tensors: dict[str, torch.Tensor]) -> np.ndarray:
        """Mean over all entries of each unit."""
        sums = [
            sum(float(piece.of(tensors[piece.name]).sum(dtype=torch.float64)) for piece in unit)
            for unit in self._pieces
        ]
        found: np.ndarray = np.array(sums) / self._sizes
        return found


def mine_once(
    lm: LanguageModel,
    units: Sequence[Unit],
    prompts: Sequence[TrainingPrompt],
    run: Run,
    progress: Progress | None = None,
) -> tuple[np.ndarray, list[float]]:
    """Train a throw-away adapter on one set and watch how much each unit matters. The model stays as it was.

    Args:
        lm: a loaded model without an adapter.
        units: all candidate units, of one kind.
        prompts: the set; in a new order every time they have all been read.
        run: settings.
        progress: called with (steps done, steps).

    Returns:
        Scores float64 `[units]`, and the mean loss per target token of every step.

    Raises:
        ModelError: a loss or a gradient is not finite, or the model is in float16.
        InsufficientMemoryError: a forward does not fit the memory of the device.
    """
    if lm.dtype == torch.float16:
        raise ModelError("Gradients underflow in float16: load the model in bfloat16 or float32.")
    with _trained(lm, units, run) as (tuned, pieces), checkpointed(tuned) if run.checkpointing else nullcontext():
        parameters = list({piece.name: piece.parameter for unit in pieces for piece in unit}.values())
        frozen = units[0].kind == "matrix"
        optimizer = None if frozen else torch.optim.AdamW(parameters, lr=run.learning_rate, weight_decay=0.0)
        watched = Sensitivity(pieces, run.reduce)
        order = _endless(prompts, random.Random(run.seed))
        total, losses = np.zeros(len(units)), []
        half = run.steps // 2 if run.aggregate == "half" else run.steps - 1
        for step in range(run.steps):
            for parameter in parameters:
                parameter.grad = None
            losses.append(_backward(tuned, [next(order) for _ in range(run.batch)], run.micro_batch))
            if run.order == "before":
                watched.update()
            norm = torch.nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
            if not (math.isfinite(losses[-1]) and math.isfinite(float(norm))):
                raise ModelError(
                    f"Mining met a loss or a gradient that is not finite at step {step + 1}: lower the rate, or use "
                    "float32."
                )
            if optimizer is not None:
                optimizer.step()
            if run.order == "after":
                watched.update()
            if step >= half:
                total += watched.scores()
            if progress is not None:
                progress(step + 1, run.steps)
        return total / (run.steps - half), losses


@contextmanager
def _trained(lm: LanguageModel, units: Sequence[Unit], run: Run) -> Iterator[tuple[LanguageModel, list[list[Piece]]]]:
    """The model with exactly the units' tensors asking for gradients, and where those are."""
    if units[0].kind != "matrix":
        with adapted(lm, unit_modules(units), run.rank, run.alpha, run.seed, values=True) as tuned:
            pieces = [unit_pieces(tuned, unit) for unit in units]
            _ask_only(tuned, pieces)
            yield tuned, pieces
        return
    refuse_adapted(lm)
    needed = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    try:
        pieces = [unit_pieces(lm, unit) for unit in units]
        _ask_only(lm, pieces)
        yield replace(lm), pieces
    finally:
        for name, parameter in lm.model.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(needed[name])


def _ask_only(lm: LanguageModel, pieces: Sequence[Sequence[Piece]]) -> None:
    """Gradients for the tensors of units alone: the shared first factor of a split projection gets none."""
    wanted = {id(piece.parameter) for unit in pieces for piece in unit}
    for parameter in unwrapped(lm.model).parameters():
        if id(parameter) in wanted and not parameter.is_floating_point():
            raise ModelError(f"The weights of {lm.name!r} are quantised, so they get no gradients: use unit='pair'.")
        parameter.requires_grad_(id(parameter) in wanted)


def _backward(lm: LanguageModel, prompts: Sequence[TrainingPrompt], size: int) -> float:
    """Gradients of the mean loss per target token of one step; gives that loss."""
    tokens, total = sum(prompt.targets for prompt in prompts), 0.0
    try:
        for batch in batches(lm, prompts, size, by_length=True):
            loss, _ = answer_loss(lm, batch)
            (loss / tokens).backward()
            total += float(loss.detach()) / tokens
    except torch.OutOfMemoryError as error:
        raise InsufficientMemoryError(
            f"{size} prompts at once do not fit the memory of {lm.device}; use a smaller micro_batch."
        ) from error
    return total


def _product(parameter: torch.nn.Parameter) -> torch.Tensor:
    """|p * g| of every entry, in fp32 at least."""
    precise = torch.promote_types(parameter.dtype, torch.float32)
    if parameter.grad is None:
        return torch.zeros_like(parameter, dtype=precise)
    return (parameter.to(precise) * parameter.grad.to(precise)).abs()


def _endless(prompts: Sequence[TrainingPrompt], draw: random.Random) -> Iterator[TrainingPrompt]:
    while True:
        yield from draw.sample(prompts, len(prompts))
