"""`Parenting`: tune a model to follow good documents and to resist noise, each part of it on its own losses."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import headwater
from headwater.adapt.folder import begin
from headwater.adapt.parenting.artefact import MINING, RECORD, digest
from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.guards import GreedyMeasure, Guards, Measure, sample
from headwater.adapt.parenting.job import Job
from headwater.adapt.parenting.losses import PromptWriter, TrainingPrompt
from headwater.adapt.parenting.merge import MERGED_SETS, OTHERS, SPACES, MergeWeights, merge_weights, mergeable
from headwater.adapt.parenting.mining import Mining
from headwater.adapt.parenting.pace import Pace
from headwater.adapt.parenting.presets import take_preset
from headwater.adapt.parenting.processes import team
from headwater.adapt.parenting.recipe import TRAINED, Recipe, check_order, mixture, routed, unified
from headwater.adapt.parenting.sets import Source, refuse_foreign, sets_of, writer_for
from headwater.adapt.parenting.sorting import check_shares
from headwater.adapt.parenting.units import Unit, candidate_units
from headwater.data.parenting.folder import ParentingData
from headwater.data.parenting.items import KINDS
from headwater.errors import InputError
from headwater.heads.detector import Progress
from headwater.model.adapter import refuse_adapted, require_peft
from headwater.model.lm import LanguageModel

logger = logging.getLogger("headwater")

CHOICES: dict[str, tuple[Any, ...]] = {
    "mode": ("routed", "unified", "mixture", "merge"),
    "schedule": ("joint", "sequential"),
    "train": ("classes", "all"),
    "normalise": ("loss", "token"),
    "merge_space": SPACES,
    "merge_other": OTHERS,
    "clip": ("class", "global"),
    "checkpointing": ("none", "non-reentrant", "reentrant"),
    "preset": (None, "paper", "code"),
}
PRESETS: dict[str, dict[str, Any]] = {  # parenting.md 4
    "paper": {"mode": "routed", "schedule": "joint", "leak": 0.0, "clip": "class"},
    "code": {
        "mode": "merge",
        "normalise": "token",
        "merge_weights": "code",
        "merge_space": "factors",
        "merge_other": "mix",
    },
}


@dataclass
class Parenting:
    """Tunes a model on documents against memory, each class of its units on its own losses (arXiv 2410.10360).

    L_a is the loss on conflicts (target: what the documents say), L_r on noise (target: what the model remembers), L_c
    on document extraction; each is a mean per target token. Units that matter for adherence get L_a and L_c, those for
    robustness L_r and L_c, entangled ones all three, the others stay as they are (parenting.md 3.4, 3.5). What else can
    be asked for is what this is compared with, at equal steps: no boundary, plain tuning on a mixture, merging.

    With development items, adherence, robustness and closed-book accuracy are looked at every so many steps: the step
    with the best harmonic mean is kept among those that lost at most a point of closed-book accuracy, and training
    stops at a loss of five.

    Attributes:
        units: classes of the units, or the file that keeps them. None: they are mined first (`Mining`; by one process
            alone), except for a mixture that trains all units.
        mode: "routed" (the paper), "unified" (every trained unit on the combination of class E: no boundary), "mixture"
            (plain tuning on `sets`), "merge" (the released code: three adapters, averaged class by class; three times
            the steps).
        schedule: of "routed": "joint", or "sequential": the classes one after the other, each a part of the steps.
        order: of a sequential schedule.
        delta: share of L_a and L_r; the rest is L_c. 1: no document extraction.
        leak: share of the other side's loss in A and R; 0 is the paper.
        train: of "unified" and "mixture": units of "classes" E, A and R, or "all".
        sets: of "mixture": "a", "r", "c", "agree", "empty" (KAFT: "agree", "a", "r", "empty").
        normalise: of "mixture" and "merge": "loss": every set counts the same; "token": every target token does.
        merge_weights: of "merge": "code", "thirds", or three numbers per class.
        merge_space: "concat" (exact products, rank 3r) or "factors" (as the released code).
        merge_other: "mix", or "zero": units of class O as in the base model.
        steps: optimizer steps.
        batch: examples of each set in a step.
        micro_batch: of them in one forward pass (None: all).
        rank: rank of the adapter.
        alpha: the adapter is scaled by alpha / rank.
        learning_rate: the highest. Take at most a quarter of what plain tuning tolerates (parenting.md 8.3).
        warmup: share of the steps that warm up; then it falls linearly to zero.
        max_norm: gradients are scaled down to this norm.
        clip: "class": each class by itself; "global": all together.
        weight_decay: of AdamW; 0 where units are slices of a tensor.
        every: steps between looks at the development items, and between checkpoints.
        looked_at: development items of each set at most.
        keep: how much closed-book accuracy a step that is kept may have lost.
        stop: at how much lost training stops.
        checkpointing: activation checkpointing: "none", "non-reentrant" or "reentrant".
        template: of the prompts, as in `prompt_template`.
        seed: of the adapter's first factors and the order of the examples.
        preset: "paper" or "code": sets every switch of parenting.md 4 that is here, and those of `Mining`.

    Raises:
        InputError: a value that a switch does not know or that its preset does not have, or a number out of range.
    """

    units: UnitMap | str | Path | None = None
    mode: Literal["routed", "unified", "mixture", "merge"] = "routed"
    schedule: Literal["joint", "sequential"] = "joint"
    order: Sequence[str] = TRAINED
    delta: float = 0.8
    leak: float = 0.0
    train: Literal["classes", "all"] = "classes"
    sets: Sequence[str] = ("a", "r", "c")
    normalise: Literal["loss", "token"] = "loss"
    merge_weights: str | MergeWeights = "code"
    merge_space: Literal["concat", "factors"] = "concat"
    merge_other: Literal["mix", "zero"] = "mix"
    steps: int = 250
    batch: int = 16
    micro_batch: int | None = None
    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 5e-5
    warmup: float = 0.05
    max_norm: float = 1.0
    clip: Literal["class", "global"] = "class"
    weight_decay: float = 0.0
    every: int = 50
    looked_at: int = 200
    keep: float = 0.01
    stop: float = 0.05
    checkpointing: Literal["none", "non-reentrant", "reentrant"] = "none"
    template: str = "auto"
    seed: int = 0
    preset: Literal["paper", "code"] | None = None

    def __post_init__(self) -> None:
        """Apply the preset; refuse what cannot be run before any model runs."""
        take_preset(self, PRESETS)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                words = ", ".join(str(each) for each in known if each is not None)
                raise InputError(f"Unknown {name} {getattr(self, name)!r}; use {words}.")
        for name in ("steps", "batch", "micro_batch", "rank", "every", "looked_at"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("alpha", "learning_rate", "max_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}.")
        for name in ("warmup", "keep", "stop", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} lies between 0 and 1, got {getattr(self, name)}.")
        odd = [name for name in self.sets if name not in KINDS]
        if odd or not self.sets or len(set(self.sets)) < len(self.sets):
            raise InputError(f"sets takes some of {', '.join(KINDS)}, each once, got {', '.join(self.sets) or 'none'}.")
        check_shares(self.delta, self.leak)
        check_order(self.order)
        if self.mode == "routed" and self.schedule == "sequential" and self.steps < len(TRAINED):
            raise InputError(f"{len(TRAINED)} classes cannot share {self.steps} steps; give more.")
        merge_weights(self.merge_weights, self.merge_other)

    def fit(
        self,
        lm: LanguageModel,
        data: Source,
        output: str | Path = "parenting-adapter",
        guard: Measure | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Train, and write an ordinary peft adapter folder (for units of kind "matrix": a checkpoint).

        Beside the adapter stands `parenting.json`: settings, classes of all units, losses, curves, versions. Where
        another step than the last one was kept, the last one's adapter is in the folder `last`. Called again after an
        interruption, training goes on behind the last checkpoint. `lm` itself is left as it was. Several processes
        (`accelerate launch`, `torchrun`) each load the model, share the examples of every step, and see one folder.

        Args:
            lm: a loaded model without an adapter, in float32 or bfloat16.
            data: the folder of `headwater parent data`, or sets of items by split ("train", "development").
            output: created if missing, and empty or from the same call.
            guard: from the model under training to R_Ad, R_Ro and closed_book (`Guards`). None: the development items,
                answered greedily; without any, the last step is kept.
            progress: called with (steps done, steps).

        Returns:
            The folder.

        Raises:
            InputError: data, units, prompts and model do not belong together, a set is missing, units cannot be
                merged, the folder holds something else, or several processes differ or have no units.
            ContextOverflowError: an item does not fit what the model reads.
            ModelError: a model that carries an adapter already, is sharded, is in float16, or gradients that are never
                finite.
            UnreliableUnitsError: units that were to be mined first do not repeat.
            MissingExtraError: peft is not installed.
        """
        require_peft()
        refuse_adapted(lm)
        given, folder = sets_of(lm, data), Path(output)
        writer = writer_for(lm, given, self.template)
        units = UnitMap.load(self.units) if isinstance(self.units, (str, Path)) else self.units
        if units is not None:
            refuse_foreign(units, given, writer, self.rank)
        prompts = self._prompts(writer, given)
        guards = self._guards(writer, given, guard)
        config = self._config(units, given, writer, guards)
        recipes = None if units is None and self._needs_units else self._recipes(lm, units)
        with team(lm) as members:
            members.agree(config)
            if recipes is None and members.size > 1:
                raise InputError("Several processes train units, they do not mine them: run `headwater parent mine`.")
            if members.share(lambda: begin(folder, config, RECORD, None)):
                logger.info("%s holds this training already.", folder)
                return folder
            if recipes is None:
                units = self._mined(lm, given, folder, progress)
                recipes = self._recipes(lm, units)
            job = Job(lm, folder, config, lm.provenance(), units, prompts, self.pace, guards, members, progress)
            if self.mode == "merge":
                job.merge(recipes, self._weights, self.merge_space, self.rank, self.alpha)
            else:
                job.tune(recipes[self.mode], self.rank, self.alpha)
        return folder

    @property
    def pace(self) -> Pace:
        """Batches and rates."""
        return Pace(
            self.batch,
            self.micro_batch,
            self.learning_rate,
            self.warmup,
            self.max_norm,
            self.clip == "global",
            self.weight_decay,
            min(self.every, self.steps),
            self.seed,
            self.checkpointing,
        )

    @property
    def _needs_units(self) -> bool:
        return not (self.mode == "mixture" and self.train == "all")

    @property
    def _sets(self) -> tuple[str, ...]:
        """The sets that are trained on."""
        if self.mode == "mixture":
            return tuple(self.sets)
        return ("a", "r", "c") if self.delta < 1 or self.mode == "merge" else ("a", "r")

    @property
    def _weights(self) -> MergeWeights:
        return merge_weights(self.merge_weights, self.merge_other)

    def _recipes(self, lm: LanguageModel, units: UnitMap | None) -> dict[str, Recipe]:
        """What is trained on what, by the mode; of a merge, by its parts."""
        if self.mode != "merge":
            return {self.mode: self._recipe(lm, units)}
        assert units is not None
        mergeable(units, self.merge_space, self._weights)
        return {part: self._mixture(units.units, sets) for part, sets in MERGED_SETS.items()}

    def _recipe(self, lm: LanguageModel, units: UnitMap | None) -> Recipe:
        if units is None:
            return self._mixture(candidate_units(lm, rank=self.rank), self.sets)
        if self.mode == "mixture":
            return self._mixture(units.units if self.train == "all" else units.of(*TRAINED), self.sets)
        if self.mode == "unified":
            return unified(units, self.steps, self.delta, self.train == "all")
        return routed(units, self.steps, self.delta, self.leak, self.order if self.schedule == "sequential" else None)

    def _mixture(self, units: Sequence[Unit], sets: Sequence[str]) -> Recipe:
        return mixture(units, self.steps, sets, self.normalise == "loss")

    def _mined(self, lm: LanguageModel, given: ParentingData, folder: Path, progress: Progress | None) -> UnitMap:
        """Classes of the units, mined with the defaults of `Mining`, within the same memory."""
        mining = Mining(
            rank=self.rank,
            alpha=self.alpha,
            micro_batch=self.micro_batch,
            template=self.template,
            checkpointing=self.checkpointing != "none",
            seed=self.seed,
            preset=self.preset,
        )
        return mining.mine(lm, given, folder / MINING, progress)

    def _prompts(self, writer: PromptWriter, given: ParentingData) -> dict[str, list[TrainingPrompt]]:
        """The training items as token ids."""
        missing = next((name for name in self._sets if not given.train.get(name)), None)
        if missing is not None:
            raise InputError(f"There are no training items of the set {missing!r}; `headwater parent data` makes them.")
        return {name: [writer.write(item) for item in given.train[name]] for name in self._sets}

    def _guards(self, writer: PromptWriter, given: ParentingData, guard: Measure | None) -> Guards | None:
        """What is looked at while training."""
        sets = {name: items for name, items in given.development.items() if items}
        if guard is None and not {"a", "r", "empty"} & set(sets):
            logger.warning("There are no development items: nothing is looked at, and the last step is kept.")
            return None
        if guard is None:
            some = [sample(sets.get(name, ()), self.looked_at, f"{self.seed}:{name}") for name in ("a", "r", "empty")]
            size = self.micro_batch or self.batch
            guard = GreedyMeasure(some[0], some[1], some[2], self.template, size, writer.instruction)
            guard.check(writer.lm)
        return Guards(guard, self.keep, self.stop)

    def _config(
        self, units: UnitMap | None, given: ParentingData, writer: PromptWriter, guards: Guards | None
    ) -> dict[str, Any]:
        """What makes two trainings the same."""
        lm = writer.lm
        measure = None if guards is None else guards.measure
        looked = None if measure is None else "greedy" if isinstance(measure, GreedyMeasure) else "given"
        config = {
            "method": type(self).__name__,
            **{name: value for name, value in vars(self).items() if name != "units"},
            "units": None if units is None else digest(units.record()),
            "model": lm.name,
            "revision": lm.revision,
            "fingerprint": lm.fingerprint,
            "dtype": str(lm.dtype),
            "headwater": headwater.__version__,
            "prompt": writer.fingerprint,
            "closed_book": writer.closed_book,
            "data": given.fingerprints(),
            "development": given.fingerprints("development"),
            "guard": looked,
        }
        found: dict[str, Any] = json.loads(json.dumps(config))
        return found
