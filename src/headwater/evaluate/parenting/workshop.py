"""Where the rows are made: sets, classes, coefficients and adapters, each once, kept in the folder of the run."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from headwater.adapt.parenting.artefact import LAST, read_record
from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.guards import GreedyMeasure
from headwater.adapt.parenting.method import Parenting
from headwater.adapt.parenting.mining import Mining
from headwater.adapt.pear import Pear
from headwater.adapt.text_kl import plain_texts, windows
from headwater.data.parenting.build import ParentingSets
from headwater.data.parenting.folder import RECORD, ParentingData, read_data
from headwater.errors import HeadwaterError, InputError
from headwater.evaluate.files import Lines, write_page
from headwater.evaluate.main_job import Progress
from headwater.evaluate.parenting.rows import Row, maker, partition
from headwater.evaluate.parenting.settings import Settings
from headwater.headset import HeadSet
from headwater.instrument.fold import fold
from headwater.instrument.outputs import scaled
from headwater.model.adapter import with_adapter
from headwater.model.anatomy import unwrapped
from headwater.model.lm import LanguageModel
from headwater.read.parenting_data import make_data, prepare

SHARES = (0.5, 0.2, 0.3)  # of countries: many choices are made on development questions
TAUS = (0.0, 0.25, -0.25, 0.5, -0.5)  # tried in this order


class Looks:
    """Development questions, answered by a model under training; an untouched adapter's answers are asked once."""

    def __init__(self, data: ParentingData, settings: Settings) -> None:
        """Take the development items."""
        sets, n = data.development, settings.development
        conflicts, noise, questions = (list(sets.get(kind, ()))[:n] for kind in ("a", "r", "empty"))
        self._measure = GreedyMeasure(conflicts, noise, questions, batch=settings.answered)
        self._untouched: dict[str, float] | None = None

    def __call__(self, lm: LanguageModel) -> dict[str, float]:
        """R_Ad, R_Ro and closed_book, as shares."""
        factors = [tensor for name, tensor in lm.model.named_parameters() if ".lora_B." in name]
        if any(bool(factor.any()) for factor in factors):
            return self._measure(lm)
        if self._untouched is None:
            self._untouched = self._measure(lm)
        return dict(self._untouched)


class Workshop:
    """Makes everything that rows need for one model; what it made before is read from the folder.

    What is large and can be made again (sets, mining, adapters) lies in `work`, which git leaves alone.

    Attributes:
        lm: the model.
        folder: of the run.
        settings: sizes and seeds.
        runs: finished trainings, a line each.
    """

    def __init__(self, lm: LanguageModel, folder: Path, settings: Settings, progress: Progress) -> None:
        """Make the folder."""
        self.lm, self.folder, self.settings, self._progress = lm, folder, settings, progress
        self.work = folder / "work"
        write_page(self.work / ".gitignore", "*\n")
        self.runs = Lines(folder / "runs.jsonl")
        self._looks: dict[bool, Looks] = {}

    @cached_property
    def data(self) -> ParentingData:
        """The sets of this model: probed and built once."""
        if not (self.sets / RECORD).is_file():
            own = self.settings
            sizes = {"train": own.train, "development": own.development, "test": own.questions}
            sets = ParentingSets(documents=own.documents, sizes=sizes, seed=own.seed)
            step = self._progress("what the model knows")
            prepared = prepare(sets=sets, questions=own.asked, shares=SHARES)
            make_data(self.lm, prepared, self.sets, sets=sets, progress=step)
        return read_data(self.sets)

    @property
    def sets(self) -> Path:
        """Folder of the sets."""
        return self.work / "sets"

    @cached_property
    def text(self) -> list[torch.Tensor]:
        """Plain text whose predictions are compared."""
        return windows(self.lm, plain_texts(), self.settings.text_tokens)

    @cached_property
    def units(self) -> UnitMap:
        """Classes of the units, mined once; taken also where two halves of a set disagree, which the tables say.

        Raises:
            InputError: no unit is of class A or R at any of the thresholds.
        """
        path = self.folder / "units.json"
        if not path.exists():
            self._mined().save(path)
        return UnitMap.load(path)

    def _mined(self) -> UnitMap:
        """The map at the first threshold where adherence and robustness have units; runs are not repeated for it."""
        own = self.settings
        mining = Mining(
            rank=own.rank,
            alpha=2.0 * own.rank,
            learning_rate=own.mining_rate,
            batch=own.batch,
            steps=own.mining_steps,
            seed=own.seed,
            force=True,
        )
        for tau in TAUS:
            try:
                found = replace(mining, tau=tau).mine(self.lm, self.data, self.work / "mined", self._progress("mining"))
            except InputError as error:
                refused = error
            else:
                return found
        raise refused

    @cached_property
    def pear(self) -> HeadSet:
        """PEAR's heads and coefficients, learned once on the model as it is.

        Raises:
            ModelError: a model that does not copy random tokens, so that no head can be found.
        """
        path = self.folder / "pear.json"
        if not path.exists():
            Pear(seed=self.settings.seed).fit(self.lm, self._progress("PEAR")).save(path)
        return HeadSet.load(path)

    @cached_property
    def _folded(self) -> LanguageModel:
        """A copy of the model with PEAR's coefficients in its weights."""
        other = replace(self.lm, model=copy.deepcopy(self.lm.model))
        fold(other, self.pear)
        return other

    def refused(self, row: Row) -> str:
        """Why a row cannot be made ("": it can)."""
        units = self.units
        try:
            if row.fold:
                _ = self.pear
            partition(units, row.partition, self.settings.seed)
        except HeadwaterError as error:
            return str(error)
        return ""

    def method(self, row: Row, rate: float, seed: int) -> Parenting:
        """How a row is trained."""
        own, units = self.settings, partition(self.units, row.partition, seed)
        if row.fold == "before":  # mined on the model as it is
            units = replace(units, provenance={**units.provenance, "fingerprint": self._folded.fingerprint})
        return Parenting(
            units=units,
            steps=own.steps,
            batch=own.batch,
            every=own.every,
            rank=own.rank,
            alpha=2.0 * own.rank,
            learning_rate=rate,
            keep=own.keep,
            stop=own.stop,
            seed=seed,
            **(row.switches or {}),
        )

    def trained(self, row: Row, rate: float, seed: int) -> dict[str, Any]:
        """What came of a training: chosen step, curve, parameters; done once."""
        name = f"{row.name}/{rate:g}/{seed}"
        if name not in self.runs.done:
            started = time.monotonic()
            record = read_record(self._fit(row, rate, seed))
            result = record["result"]
            modules = {name.partition(":")[0] for name in record["trained"]}
            self.runs.add(
                {
                    "id": name,
                    **{key: result[key] for key in ("steps", "best", "curve", "stopped", "skipped", "log")},
                    "parameters": self._parameters(modules, 3 if record["config"]["mode"] == "merge" else 1),
                    "seconds": round(time.monotonic() - started, 1),
                }
            )
        return self.runs.done[name]

    def rate(self, row: Row) -> float:
        """The learning rate with the best harmonic mean at its chosen step on development questions, first seed."""
        found = {rate: score(self.trained(row, rate, self.settings.seed)) for rate in sorted(self.settings.rates)}
        return max(found, key=lambda rate: found[rate])

    @contextmanager
    def tuned(self, row: Row, rate: float | None, seed: int, last: bool = False) -> Iterator[LanguageModel]:
        """The model of a row behind its chosen step (behind its `last` one); on leaving, the model is as before.

        Args:
            row: what it is.
            rate: learning rate of its training (None: nothing was trained).
            seed: of the training.
            last: behind the last step.
        """
        lm = self._folded if row.fold == "before" else self.lm
        with ExitStack() as stack:
            if rate is not None:
                folder = self._fit(maker(row), rate, seed)
                lm = with_adapter(lm, folder / LAST if last and (folder / LAST).is_dir() else folder)
                stack.callback(lm.model.unload)
            if row.fold == "after":
                stack.enter_context(scaled(lm, self.pear))
            yield lm

    def _fit(self, row: Row, rate: float, seed: int) -> Path:
        """Train, or find what was trained."""
        folded = row.fold == "before"
        lm = self._folded if folded else self.lm
        looks = self._looks.setdefault(folded, Looks(self.data, self.settings))
        sets = replace(self.data, record={}) if folded else self.data  # what is remembered is the base model's
        place = self.work / "adapters" / f"{slug(row.name)}-{rate:g}-{seed}"
        step = self._progress(f"training: {row.name}, rate {rate:g}, seed {seed}")
        return self.method(row, rate, seed).fit(lm, sets, place, looks, step)

    def _parameters(self, modules: set[str], times: int) -> int:
        """Numbers in the adapters of some modules."""
        own = dict(unwrapped(self.lm.model).named_modules())
        return sum(times * self.settings.rank * sum(own[name].weight.shape) for name in modules)


def score(run: dict[str, Any]) -> float:
    """Harmonic mean of both axes on development questions at the step that was chosen."""
    return float(next(point["harmonic"] for point in run["curve"] if point["step"] == run["best"]))


def slug(name: str) -> str:
    """A row's name as a folder's."""
    return "-".join("".join(c if c.isalnum() else " " for c in name).lower().split())
