"""What a masking experiment is made of, and the tasks that heads can be taken out of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.data import world
from headwater.errors import InputError
from headwater.evaluate.bench.catalogue import build_task
from headwater.evaluate.tasks.task import Task
from headwater.instrument.outputs import PHASES, Mode, Phase

MODES = ("zero", "reference_mean", "sequence_mean", "uniform")
CLOSED_BOOK = "closed-book"
# Short names; every other task of the bench goes by its own.
TASKS: dict[str, Mapping[str, Any]] = {
    "needle": {"task": "invented-facts", "name": "needle"},
    "reading": {"task": "world-gold-5", "name": "reading"},
    "two-hop": {"task": "world-hops", "name": "two-hop"},
    CLOSED_BOOK: {"task": "world-reading", "split": "known", "documents": 1, "name": CLOSED_BOOK},
    "perplexity": {"task": "wikitext", "name": "perplexity"},
}


@dataclass(frozen=True)
class Settings:
    """A masking experiment.

    Attributes:
        tasks: names of `TASKS`, or tasks of the bench of kind reading, choice or text.
        sizes: values of K (None: `default_sizes`).
        mode: "zero", "reference_mean", "sequence_mean" or "uniform", as for `hw.ablated`.
        phase: "all" or "decode".
        controls: whether random, layer-matched and bottom heads are masked too.
        seeds: of the heads drawn.
        limit: examples per task, a fixed sample (None: all).
        data: folder of data sets, for the tasks that need one.
        reference: texts for "reference_mean", and only for it.
    """

    tasks: tuple[str | Mapping[str, Any], ...] = ("reading",)
    sizes: tuple[int, ...] | None = None
    mode: Mode = "zero"
    phase: Phase = "all"
    controls: bool = True
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    limit: int | None = None
    data: str | None = None
    reference: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without a model.

        Raises:
            InputError: no tasks or seeds, a seed twice, an unknown mode or phase, a reference missing or not taken.
        """
        if not self.tasks or (self.controls and not self.seeds) or len(set(self.seeds)) < len(self.seeds):
            raise InputError("A masking experiment needs at least one task, and seeds without repetitions.")
        if self.mode not in MODES:
            raise InputError(f"Unknown mode {self.mode!r}; use one of {', '.join(MODES)}.")
        if self.phase not in PHASES:
            raise InputError(f"Unknown phase {self.phase!r}; use one of {', '.join(PHASES)}.")
        if (self.reference is not None) != (self.mode == "reference_mean"):
            raise InputError("mode='reference_mean' needs reference texts, and no other mode takes them.")


def built_in_reference() -> tuple[str, ...]:
    """Texts for "reference_mean": documents about the development countries of the fact world."""
    examples = world.reading_examples("development", 16)
    return tuple(dict.fromkeys(document.text for example in examples for document in example.documents))


def masked_task(wanted: str | Mapping[str, Any], settings: Settings) -> Task:
    """A task by its short name or as the bench knows it.

    Raises:
        InputError: an unknown task, missing data, or one where nothing is read, predicted or, with "decode", written.
    """
    named = TASKS.get(wanted, wanted) if isinstance(wanted, str) else wanted
    task = build_task(named, None if settings.data is None else Path(settings.data))
    if task.kind not in ("reading", "choice", "text"):
        raise InputError(f"{task.name} is a task of {task.kind}; heads are masked where the model reads or predicts.")
    if settings.phase == "decode" and task.kind != "reading":
        raise InputError(f"{task.name} generates nothing, so phase='decode' would leave it as it is; use phase='all'.")
    return task
