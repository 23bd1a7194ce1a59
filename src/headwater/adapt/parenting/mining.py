"""`Mining`: which units matter for adherence and which for robustness (parenting.md 3.3, 3.4)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.forward import FORWARDS, Forward, check_gates, layer_weights, open_gates
from headwater.adapt.parenting.losses import TrainingPrompt
from headwater.adapt.parenting.presets import take_preset
from headwater.adapt.parenting.reliability import LEAST, halved, judge, reliability_of
from headwater.adapt.parenting.sensitivity import Aggregate, Order, Reduce, Run, mine_once
from headwater.adapt.parenting.sets import Source, sets_of, writer_for
from headwater.adapt.parenting.sorting import CLASSES, RULES, TRANSFORMS, Rule, Transform, classified, weighted
from headwater.adapt.parenting.units import KINDS, Unit, UnitKind, candidate_units
from headwater.data.lines import Lines, same_run
from headwater.data.parenting.items import items_fingerprint
from headwater.errors import InputError
from headwater.heads.detector import Progress
from headwater.instrument.gates import GateCounts
from headwater.model.lm import LanguageModel

CHOICES = {
    "unit": KINDS,
    "reduce": (None, "entry", "unit"),
    "mining_order": ("before", "after"),
    "aggregate": ("half", "last"),
    "forward": FORWARDS,
    "rule": RULES,
    "score_transform": TRANSFORMS,
    "preset": (None, "paper", "code"),
}
PRESETS: dict[str, dict[str, Any]] = {  # parenting.md 4
    "paper": {"unit": "pair", "rule": "z", "tau": 1.0, "score_transform": "none", "forward": "probability"},
    "code": {
        "unit": "factor",
        "targets": ("attention",),
        "rule": "code",
        "score_transform": "none",
        "gamma": 0.5,
        "forward": "code_counts",
        "mining_order": "after",
        "aggregate": "last",
    },
}
RUNS = "runs.jsonl"
SETS = ("a", "r")


@dataclass
class Mining:
    """Sorts the units of a model into classes: entangled, adherence, robustness, other (arXiv 2410.10360).

    A throw-away adapter is trained on the conflict set S_a, another one, begun alike, on the noise set S_r; a unit's
    score is how much its weights times their gradients matter, times how active its layer's gates are. Each set is
    halved by group and mined twice: where the halves disagree, there is nothing to sort.

    Attributes:
        unit: "pair", "factor", "rank" or "matrix" (`Unit`).
        targets: which linear maps (`candidate_units`).
        split_fused: parts of fused projections are units of their own.
        rank: of the throw-away adapter.
        alpha: the adapter is scaled by alpha / rank.
        learning_rate: constant.
        batch: prompts of a step.
        micro_batch: prompts of a forward (None: the batch).
        steps: optimizer steps of each of the four runs.
        reduce: "entry": averages of every entry; "unit": of unit means (None: "unit" for matrices).
        mining_order: "before" the step, or "after" it as in the released code (`Run`).
        aggregate: scores of the "half" of the steps that comes last, or of the "last" one.
        forward: the layer weights: "probability" f_l / mean f; "code_counts": of raw counts, padding and targets
            among them, (1 + m_l - min m) / sum; "none".
        rule: "z", or "code": raw scores above mean plus variance.
        tau: threshold of z.
        score_transform: "log" before the z-scores, or "none" as in the paper.
        gamma: share of L_a in the loss of E (None: by the z-scores).
        template: of the prompts, as in `prompt_template`.
        checkpointing: less memory, more time, the same gradients.
        seed: of the adapter, the halves and the order of the prompts.
        force: give a map even where the halves disagree.
        preset: "paper" (its third version: tau 1) or "code": sets every switch of parenting.md 4.

    Raises:
        InputError: a value that a switch does not know or that its preset does not have, or a number out of range.
    """

    unit: UnitKind = "pair"
    targets: Sequence[str] | None = None
    split_fused: bool = False
    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 1e-4
    batch: int = 16
    micro_batch: int | None = None
    steps: int = 200
    reduce: Reduce | None = None
    mining_order: Order = "before"
    aggregate: Aggregate = "half"
    forward: Forward = "probability"
    rule: Rule = "z"
    tau: float = 0.0
    score_transform: Transform = "log"
    gamma: float | None = None
    template: str = "auto"
    checkpointing: bool = False
    seed: int = 0
    force: bool = False
    preset: Literal["paper", "code"] | None = None

    def __post_init__(self) -> None:
        """Apply the preset; refuse what cannot be run."""
        take_preset(self, PRESETS)
        self.targets = None if self.targets is None else list(self.targets)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                words = ", ".join(str(each) for each in known if each is not None)
                raise InputError(f"Unknown {name} {getattr(self, name)!r}; use {words}.")
        for name in ("rank", "batch", "steps", "micro_batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf or not 0 < self.alpha < math.inf:
            raise InputError(f"learning_rate and alpha are positive, got {self.learning_rate} and {self.alpha}.")
        if self.gamma is not None and not 0 <= self.gamma <= 1:
            raise InputError(f"gamma is a share between 0 and 1, got {self.gamma}.")

    def mine(
        self,
        lm: LanguageModel,
        data: Source,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> UnitMap:
        """Score every unit on both sets, twice each, and sort them.

        Args:
            lm: a loaded model without an adapter; it stays as it was.
            data: the folder of `headwater parent data`, or a mapping with the sets "a" and "r" (lists of
                `ParentingItem`); nothing else of it is looked at.
            folder: where finished runs are kept, so that the same call (with another rule or threshold, too) goes on
                behind them. None: nowhere.
            progress: called with (done, all): optimizer steps, and forwards that count open gates.

        Raises:
            InputError: a set is missing, of one group only, or made for another model or prompt, no unit is of class A
                or R, or the folder holds another mining.
            UnreliableUnitsError: two halves of a set agree too little (Spearman below 0.5), unless `force`.
            ModelError: the model carries an adapter, ties a unit to another weight, hides its gates, is in float16, or
                a loss is not finite.
            MissingExtraError: peft or scipy is not installed.
        """
        given = sets_of(lm, data)
        items, writer = given.train, writer_for(lm, given, self.template)
        units = candidate_units(lm, self.unit, self.targets, self.split_fused, self.rank)
        check_gates(lm, self.forward)
        for name in SETS:
            if not items.get(name):
                raise InputError(
                    f"There are no items of the set {name!r} to mine on; `headwater parent data` makes them."
                )
        prompts = {name: [writer.write(item) for item in items[name]] for name in SETS}
        halves = {name: halved(prompts[name], self.seed, name) for name in SETS}
        fingerprints = {name: items_fingerprint(items[name]) for name in SETS}
        with tempfile.TemporaryDirectory() as passing:
            place = Path(passing if folder is None else folder)
            same_run(place / "runs.json", self._config(lm, fingerprints, writer.fingerprint))
            done = Lines(place / RUNS)
            steps, counts = 2 * len(SETS) * self.steps, [self._passes(len(prompts[name])) for name in SETS]
            whole = steps + sum(counts)

            def report(before: int) -> Progress | None:
                return None if progress is None else lambda now, _: progress(before + now, whole)

            raw = self._runs(lm, units, halves, done, report)
            gates = {
                name: self._gates(lm, prompts[name], name, done, report(steps + sum(counts[:place])))
                for place, name in enumerate(SETS)
            }
        weights = {name: layer_weights(gates[name], self.forward, lm.anatomy.num_layers) for name in SETS}
        layers = [unit.layer for unit in units]
        scored = {name: [weighted(one, layers, weights[name]) for one in raw[name]] for name in SETS}
        reliability = reliability_of(scored["a"], scored["r"])
        judge(reliability, self.force)
        means = {name: np.mean(raw[name], axis=0) for name in SETS}
        both = [weighted(means[name], layers, weights[name]) for name in SETS]
        return UnitMap.sort(
            units,
            means["a"],
            means["r"],
            weights["a"],
            weights["r"],
            tau=self.tau,
            rule=self.rule,
            transform=self.score_transform,
            gamma=self.gamma,
            provenance={
                "method": "Mining",
                "settings": asdict(self),
                **lm.provenance(),
                "data": fingerprints,
                "items": {name: len(prompts[name]) for name in SETS},
                "prompt": writer.fingerprint,
                "reliability": {**reliability, "least": LEAST},
                "losses": {
                    key: [row["losses"][0], row["losses"][-1]] for key, row in done.done.items() if "losses" in row
                },
                "gates": {name: None if g is None else g.shares.tolist() for name, g in gates.items()},
                "sizes_at": {f"tau {tau}": self._sizes(both, tau) for tau in (0, 1)},
            },
        )

    def _config(self, lm: LanguageModel, data: Mapping[str, str], prompt: str) -> dict[str, Any]:
        """What the runs depend on: everything but how their scores are weighted and sorted."""
        later = (
            "forward",
            "rule",
            "tau",
            "score_transform",
            "gamma",
            "force",
            "preset",
            "micro_batch",
            "checkpointing",
        )
        own = {name: value for name, value in asdict(self).items() if name not in later}
        return {"model": lm.fingerprint, "dtype": str(lm.dtype), "data": dict(data), "prompt": prompt, **own}

    def _runs(
        self,
        lm: LanguageModel,
        units: Sequence[Unit],
        halves: Mapping[str, Sequence[Sequence[TrainingPrompt]]],
        done: Lines,
        report: Callable[[int], Progress | None],
    ) -> dict[str, list[np.ndarray]]:
        """Scores `[units]` of the two halves of each set."""
        run = Run(
            rank=self.rank,
            alpha=self.alpha,
            learning_rate=self.learning_rate,
            batch=self.batch,
            micro_batch=self.micro_batch or self.batch,
            steps=self.steps,
            reduce=self.reduce or ("unit" if self.unit == "matrix" else "entry"),
            order=self.mining_order,
            aggregate=self.aggregate,
            seed=self.seed,
            checkpointing=self.checkpointing,
        )
        jobs = [(f"{name}-{half}", halves[name][half]) for half in (0, 1) for name in SETS]
        for place, (key, prompts) in enumerate(jobs):
            if key not in done.done:
                scores, losses = mine_once(lm, units, prompts, run, report(place * self.steps))
                done.add({"id": key, "scores": scores.tolist(), "losses": losses})
        return {name: [np.array(done.done[f"{name}-{half}"]["scores"]) for half in (0, 1)] for name in SETS}

    @property
    def _at_once(self) -> int:
        """Prompts of a forward that counts gates; the padding that the released code counts depends on the batch."""
        return self.batch if self.forward == "code_counts" else self.micro_batch or self.batch

    def _passes(self, prompts: int) -> int:
        """Forwards that count gates."""
        return 0 if self.forward == "none" else math.ceil(prompts / self._at_once)

    def _gates(
        self,
        lm: LanguageModel,
        prompts: Sequence[TrainingPrompt],
        name: str,
        done: Lines,
        progress: Progress | None,
    ) -> GateCounts | None:
        """Open gates of the base model on a set."""
        if self.forward == "none":
            return None
        key = f"gates-{name}-{self.forward}"
        if key not in done.done:
            found = open_gates(lm, prompts, self.forward, self._at_once, progress)
            row = {"active": found.active.tolist(), "width": found.width.tolist(), "tokens": found.tokens}
            done.add({"id": key, **row})
        row = done.done[key]
        return GateCounts(np.array(row["active"]), np.array(row["width"]), int(row["tokens"]))

    def _sizes(self, scores: Sequence[np.ndarray], tau: float) -> dict[str, int]:
        classes, _, _ = classified(scores[0], scores[1], tau, "z", self.score_transform)
        return {name: classes.count(name) for name in CLASSES}
