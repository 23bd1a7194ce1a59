"""One Parenting run: the model made trainable, trained, put together, written (parenting.md 3.5, 3.6 and 7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headwater.adapt.parenting.artefact import CHECKPOINTS, LAST, SCHEMA_VERSION, drop, write_tuned
from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.guards import Guards
from headwater.adapt.parenting.losses import TrainingPrompt
from headwater.adapt.parenting.merge import MergeWeights, merged
from headwater.adapt.parenting.pace import Pace
from headwater.adapt.parenting.processes import Team
from headwater.adapt.parenting.recipe import ALL, Recipe
from headwater.adapt.parenting.train import Trained, train
from headwater.adapt.parenting.units import Unit, unit_modules
from headwater.adapt.parenting.values import Values, lent, put
from headwater.errors import InsufficientMemoryError
from headwater.heads.detector import Progress
from headwater.model.adapter import adapted
from headwater.model.lm import LanguageModel

logger = logging.getLogger("headwater")


@dataclass(frozen=True)
class Job:
    """Everything that a run needs.

    Attributes:
        lm: the model without an adapter.
        folder: where the result goes.
        config: what makes two runs the same.
        provenance: of the model, as it was before anything was put on it.
        units: classes of the units (None: all are trained alike).
        prompts: training items by set.
        pace: batches, rates.
        guards: what is looked at.
        members: the processes.
        progress: called with (steps done, steps).
    """

    lm: LanguageModel
    folder: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    units: UnitMap | None
    prompts: Mapping[str, Sequence[TrainingPrompt]]
    pace: Pace
    guards: Guards | None
    members: Team
    progress: Progress | None = None

    def tune(self, recipe: Recipe, rank: int, alpha: float) -> None:
        """Train once."""
        matrices = recipe.trained[0].kind == "matrix"
        with self._trainable(recipe.trained, rank, alpha) as tuned:
            done = self._train(tuned, recipe, self.folder / CHECKPOINTS, self.guards)
            record = self._record(recipe.weights, recipe.trained, done)
            if self.guards is not None and done.best == 0:
                logger.warning("No step was better than the model itself on the development items.")

            def write() -> None:
                if done.last is not None:
                    chosen = Values(recipe.owned(tuned, list(recipe.units))).copy_now()
                    put(tuned, done.last)
                    write_tuned(tuned, self.folder / LAST, matrices, self._of_last(record))
                    put(tuned, chosen)
                self._write(tuned, matrices, record)

            self.members.share(write)

    def merge(self, parts: Mapping[str, Recipe], weights: MergeWeights, space: str, rank: int, alpha: float) -> None:
        """Train an adapter per part, all from the same start, and average them class by class."""
        units = self.units
        assert units is not None
        found: dict[str, dict[str, torch.Tensor]] = {}
        logs: dict[str, list[dict[str, Any]]] = {}
        skipped, whole = 0, sum(recipe.steps for recipe in parts.values())
        with self._trainable(units.units, rank, alpha) as tuned:
            trained = Values(next(iter(parts.values())).owned(tuned, [ALL]))
            initial = trained.copy_now()
            for place, (part, recipe) in enumerate(parts.items()):
                trained.put(initial)
                done = self._train(tuned, recipe, self.folder / CHECKPOINTS / part, None, place * recipe.steps, whole)
                found[part], logs[part], skipped = trained.copy_now(), done.log, skipped + done.skipped
        steps = next(iter(parts.values())).steps
        curve = self._seen(0, self.lm)  # before the adapter is on: it is put into the model itself
        with merged(self.lm, units, found, initial, weights, space, rank, alpha, self.pace.seed) as tuned:
            curve += self._seen(steps, tuned)
            result = Trained(steps, steps, curve, [], skipped, "", None)
            record = self._record({name: list(row) for name, row in weights.items()}, units.units, result)
            record["result"]["log"] = logs
            self.members.share(lambda: self._write(tuned, False, record))

    def _write(self, tuned: LanguageModel, matrices: bool, record: Mapping[str, Any]) -> None:
        """Write the result, and forget what only the training needed."""
        write_tuned(tuned, self.folder, matrices, record)
        drop(self.folder)

    def _train(
        self, tuned: LanguageModel, recipe: Recipe, place: Path, guards: Guards | None, before: int = 0, whole: int = 0
    ) -> Trained:
        progress = self.progress

        def step(now: int, total: int) -> None:
            if progress is not None:
                progress(before + now, whole or total)

        try:
            return train(tuned, recipe, self.prompts, self.pace, place, guards, self.members, step)
        except torch.OutOfMemoryError as error:
            raise InsufficientMemoryError(
                f"Training ran out of memory on {self.lm.device}: use a smaller micro_batch, checkpointing, shorter "
                "documents, or load the model in bfloat16."
            ) from error

    def _seen(self, step: int, lm: LanguageModel) -> list[dict[str, float]]:
        """What the guards see, if there are any."""
        guards = self.guards
        return [] if guards is None else [{"step": step, **self.members.share(lambda: guards.look(lm))}]

    def _trainable(self, units: Sequence[Unit], rank: int, alpha: float) -> AbstractContextManager[LanguageModel]:
        """The model with what is trained: a fresh adapter on the units' modules, or their weights themselves."""
        modules = unit_modules(units)
        if units[0].kind == "matrix":
            return lent(self.lm, modules)
        return adapted(self.lm, modules, rank, alpha, self.pace.seed, values=True)

    def _record(self, weights: Mapping[str, Any], trained: Sequence[Unit], done: Trained) -> dict[str, Any]:
        """`parenting.json`."""
        result = {name: value for name, value in vars(done).items() if name != "last"}
        sizes = {unit.name: unit.module for unit in trained}
        return {
            "schema": "headwater/parenting",
            "version": SCHEMA_VERSION,
            "config": dict(self.config),
            "weights": weights,
            "trained": sorted(sizes),
            "result": result,
            "units": None if self.units is None else self.units.record(),
            "provenance": {**self.provenance, "processes": self.members.size},
        }

    def _of_last(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record of the adapter behind the last step."""
        return {**record, "result": {**record["result"], "best": record["result"]["steps"]}}
