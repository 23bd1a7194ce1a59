"""The loop of Parenting: steps, schedule, guards, checkpoints, processes (parenting.md 3.5)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headwater.adapt.parenting.checkpoints import last_checkpoint, save_checkpoint
from headwater.adapt.parenting.guards import Guards
from headwater.adapt.parenting.losses import TrainingPrompt, batches
from headwater.adapt.parenting.pace import Pace, draw
from headwater.adapt.parenting.processes import Team
from headwater.adapt.parenting.recipe import ALL, Recipe
from headwater.adapt.parenting.routed import Router, refuse_sharded
from headwater.adapt.parenting.values import Values
from headwater.errors import InputError, ModelError
from headwater.heads.detector import Progress
from headwater.instrument.checkpointing import checkpointed
from headwater.model.lm import LanguageModel

logger = logging.getLogger("headwater")

_LOST = 20  # steps in a row without a finite gradient, until training gives up


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        steps: steps that ran.
        best: the step whose weights the model has now; 0: those it began with.
        curve: what the guards saw, with `step`.
        log: losses, gradient norms per class, the cosine of L_a and L_r over E, and the learning rate, with `step`.
        skipped: steps left out because a gradient was not finite.
        stopped: why training ended early ("" where it did not).
        last: trained tensors behind the last step, where that is not `best`.
    """

    steps: int
    best: int
    curve: list[dict[str, float]]
    log: list[dict[str, Any]]
    skipped: int
    stopped: str
    last: dict[str, torch.Tensor] | None


def train(
    lm: LanguageModel,
    recipe: Recipe,
    prompts: Mapping[str, Sequence[TrainingPrompt]],
    pace: Pace,
    checkpoints: Path,
    guards: Guards | None = None,
    members: Team | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train the units of a recipe; started again on the same folder, go on behind the last checkpoint.

    On a CPU a training that went on is the same to the bit as one that was never interrupted.

    Args:
        lm: the model, with its adapter where the units live in one.
        recipe: what is trained on what.
        prompts: examples by loss.
        pace: batches, rates.
        checkpoints: folder of this training alone, seen by all processes.
        guards: what the model may not lose, looked at before the first step and every so many steps; with them the
            model ends with the weights of the best look.
        members: the processes that train together.
        progress: called with (steps done, steps).

    Raises:
        InputError: a loss without examples, or weight decay on a part of a tensor.
        ModelError: a sharded model, float16, gradients that are never finite, or processes that drift apart.
    """
    return _Run(lm, recipe, prompts, pace, checkpoints, guards, members or Team()).run(progress)


class _Run:
    """One training under way."""

    def __init__(
        self,
        lm: LanguageModel,
        recipe: Recipe,
        prompts: Mapping[str, Sequence[TrainingPrompt]],
        pace: Pace,
        checkpoints: Path,
        guards: Guards | None,
        members: Team,
    ) -> None:
        self.lm, self.recipe, self.prompts, self.pace = lm, recipe, prompts, pace
        self.checkpoints, self.guards, self.team = checkpoints, guards, members
        refuse_sharded(lm.model)
        if lm.dtype == torch.float16:
            raise ModelError("Gradients underflow in float16: load the model in bfloat16 or float32.")
        missing = next((loss for loss in recipe.losses if not prompts.get(loss)), None)
        if missing is not None:
            raise InputError(f"There are no examples of the set {missing!r} to train on.")
        owned = recipe.owned(lm, list(recipe.units))
        if pace.weight_decay and any(each.piece.index is not None for each in owned):
            raise InputError(
                "Weight decay would move parts of a tensor that are not trained: use weight_decay 0 with units that "
                "are slices (kind 'rank', split_fused)."
            )
        for parameter in lm.model.parameters():
            parameter.requires_grad_(False)
        self.values = Values(owned)
        self.step = self.skipped = self.lost = self.best = 0
        self.stopped = ""
        self.curve: list[dict[str, float]] = []
        self.log: list[dict[str, Any]] = []
        self.chosen = self.values.copy_now() if guards is not None else {}

    def run(self, progress: Progress | None) -> Trained:
        """All phases, from where the last checkpoint is."""
        self.team.begin_alike(list(self.values.values()))
        self.values.write()
        moments = self._resume()
        if self.guards is not None and not self.curve:
            self._look()
        first = 0
        for phase in self.recipe.phases:
            if self.step < first + phase.steps and not self.stopped:
                self._phase(phase.owners, first, phase.steps, moments, progress)
                moments = {}
            first += phase.steps
        last = None
        if self.guards is not None and self.best != self.step:
            last = self.values.copy_now()
            self.values.put(self.chosen)
        return Trained(
            self.step,
            self.step if self.guards is None else self.best,
            self.curve,
            self.log,
            self.skipped,
            self.stopped,
            last,
        )

    def _phase(
        self,
        owners: Sequence[str],
        first: int,
        steps: int,
        moments: Mapping[str, torch.Tensor],
        progress: Progress | None,
    ) -> None:
        """Train some classes for some steps, of which `self.step - first` are done."""
        owned = self.recipe.owned(self.lm, owners)
        with Router(owned, self.recipe.weights, watched=ALL if ALL in owners else "E") as router:
            optimizer = self._optimizer(router)
            self.values.put_moments(optimizer, moments)
            while self.step < first + steps and not self.stopped:
                self._one(router, optimizer, self.pace.rate(self.step - first, steps))
                if progress is not None:
                    progress(self.step, self.recipe.steps)
                if self.step % self.pace.every == 0 or self.step == self.recipe.steps:
                    self.team.check_alike(list(self.values.values()))
                    if self.guards is not None:
                        self._look()
                    self._save(optimizer)

    def _optimizer(self, router: Router) -> torch.optim.Optimizer:
        """AdamW with a group per class; tensors of several classes are a group of their own."""
        groups: dict[str, list[torch.Tensor]] = {}
        for name, tensor in router.tensors.items():
            owners = sorted({each.owner for each in tensor.owned})
            groups.setdefault("+".join(owners), []).append(self.values[name])
        return torch.optim.AdamW(
            [{"params": values} for values in groups.values()],
            lr=self.pace.learning_rate,
            weight_decay=self.pace.weight_decay,
        )

    def _one(self, router: Router, optimizer: torch.optim.Optimizer, rate: float) -> None:
        """One step: every loss once, at the same weights."""
        told = (self.step + 1) % max(1, min(10, self.pace.every)) == 0
        router.clear()
        router.watch(*(("a", "r") if told else ()))
        shown = {
            loss: draw(self.prompts[loss], loss, self.pace.seed, self.step, self.pace.batch) for loss in router.losses
        }
        tokens = {loss: sum(prompt.targets for prompt in chosen) for loss, chosen in shown.items()}
        if self.recipe.together:
            tokens = dict.fromkeys(tokens, sum(tokens.values()))
        own = []
        with self._checkpointed():
            for loss, chosen in shown.items():
                share = chosen[self.team.rank :: self.team.size]
                micro = batches(self.lm, share, self.pace.micro_batch or len(chosen))
                own.append(router.collect(self.lm.model, loss, micro, tokens[loss]))
        losses = self._sum(router, own)
        norms = router.norms()
        self.step += 1
        if told:
            cosine = router.cosine("a", "r")
            values = {f"loss_{loss}": value for loss, value in zip(shown, losses, strict=True)}
            gradients = {f"norm_{owner}": norm for owner, norm in norms.items()}
            record = {"step": self.step, "rate": rate, **values, **gradients, "cosine_a_r": cosine}
            self.log.append({key: _plain(value) for key, value in record.items()})
        if not all(math.isfinite(norm) for norm in norms.values()):
            self._skip()
            return
        self.lost = 0
        router.clip(self.pace.max_norm, norms, self.pace.together)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, tensor in router.tensors.items():
            self.values[name].grad = tensor.total.to(self.values[name].dtype) if tensor.factors else None
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.values.write()

    def _checkpointed(self) -> AbstractContextManager[None]:
        """Around forward and backward passes alone: a model that generates needs its cache."""
        if self.pace.checkpointing == "none":
            return nullcontext()
        return checkpointed(self.lm, reentrant=self.pace.checkpointing == "reentrant")

    def _sum(self, router: Router, losses: list[float]) -> list[float]:
        """Sum what all processes collected; gives the losses of the whole step."""
        if self.team.size == 1:
            return losses
        vector = router.flat()
        router.restore(self.team.sum(vector))
        told = self.team.sum(torch.tensor(losses, dtype=torch.float64, device=vector.device))
        return [float(value) for value in told]

    def _skip(self) -> None:
        """Leave a step out."""
        self.skipped, self.lost = self.skipped + 1, self.lost + 1
        logger.warning("Step %d has a gradient that is not finite; it is left out.", self.step)
        if self.lost >= _LOST:
            raise ModelError(
                f"{_LOST} steps in a row had gradients that are not finite; use a lower learning_rate, or float32."
            )

    def _look(self) -> None:
        """What the guards see now; keep the weights if it is the best so far, stop if too much is lost."""
        guards = self.guards
        assert guards is not None
        found = self.team.share(lambda: guards.look(self.lm))
        self.curve.append({"step": self.step, **found})
        self.best = guards.best(self.curve)
        if self.best == self.step:
            self.chosen = self.values.copy_now()
        self.stopped = guards.reason(self.curve)
        if self.stopped:
            logger.warning("%s", self.stopped)

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint."""
        tensors = {f"now/{name}": value for name, value in self.values.items()}
        tensors |= {f"best/{name}": value for name, value in self.chosen.items()}
        tensors |= {f"adam/{key}": moment for key, moment in self.values.moments(optimizer).items()}
        state = {name: getattr(self, name) for name in ("step", "skipped", "lost", "best", "stopped", "curve", "log")}
        self.team.share(lambda: save_checkpoint(self.checkpoints, self.step, tensors, state))

    def _resume(self) -> dict[str, torch.Tensor]:
        """Go back to the last checkpoint, if there is one; gives the moments of its optimizer."""
        found = last_checkpoint(self.checkpoints)
        if found is None:
            return {}
        tensors, state = found
        for name, value in state.items():
            setattr(self, name, value)
        by_kind: dict[str, dict[str, torch.Tensor]] = {"now": {}, "best": {}, "adam": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            by_kind[kind][name] = tensor
        self.values.put(by_kind["now"])
        self.chosen = {name: tensor.to(self.values[name].device) for name, tensor in by_kind["best"].items()}
        ends = [sum(phase.steps for phase in self.recipe.phases[: n + 1]) for n in range(len(self.recipe.phases))]
        return {} if self.step in ends else by_kind["adam"]


def _plain(value: Any) -> Any:
    """A number that JSON can hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
