"""`UnitMap`: every unit of a model with its class, as an artefact (parenting.md 3.4)."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from headwater.adapt.parenting.sorting import (
    CLASSES,
    RULES,
    TRANSFORMS,
    Rule,
    Transform,
    check_shares,
    classified,
    entangled_share,
    refuse_empty,
    weighted,
)
from headwater.adapt.parenting.units import KINDS, Unit
from headwater.atomic import write_text
from headwater.errors import FormatError, InputError, ModelError
from headwater.model.anatomy import unwrapped
from headwater.model.lm import LanguageModel

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class UnitMap:
    """Every unit of a model, its scores on the two sets, and the class that follows from them.

    E (entangled) matters for adherence and for robustness, A for adherence only, R for robustness only, O for neither.
    All sequences but the layer weights are in the order of `units`. Source: arXiv 2410.10360, parenting.md 3.3, 3.4.

    Attributes:
        units: all candidate units.
        classes: "E", "A", "R" or "O" of each.
        z_a: z-score of each on the conflict set S_a, over all units.
        z_r: the same on the noise set S_r.
        raw_a: sensitivity of each on S_a, before the layer weights.
        raw_r: the same on S_r.
        weights_a: the forward term of each layer on S_a, a factor of the raw scores of its units.
        weights_r: the same on S_r.
        gamma: gamma_a, the share of L_a (against L_r) in the loss of class E.
        tau: threshold of the z-scores.
        rule: "z", or "code": score above mean plus variance, as in the released code.
        transform: "log" (z of the logarithms) or "none".
        provenance: model, settings, data, reliability, versions.
    """

    units: Sequence[Unit]
    classes: Sequence[str]
    z_a: Sequence[float]
    z_r: Sequence[float]
    raw_a: Sequence[float]
    raw_r: Sequence[float]
    weights_a: Sequence[float]
    weights_r: Sequence[float]
    gamma: float = 0.5
    tau: float = 0.0
    rule: Rule = "z"
    transform: Transform = "log"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check lengths, names and classes once."""
        for name in ("units", "classes", "z_a", "z_r", "raw_a", "raw_r", "weights_a", "weights_r"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        count = len(self.units)
        for name in ("classes", "z_a", "z_r", "raw_a", "raw_r"):
            if len(getattr(self, name)) != count:
                raise InputError(f"A unit map of {count} units has {len(getattr(self, name))} values in {name!r}.")
        odd = sorted({str(found) for found in self.classes} - set(CLASSES))
        if odd:
            raise InputError(f"Unknown class {odd[0]!r} in a unit map; classes are {', '.join(CLASSES)}.")
        if self.rule not in RULES or self.transform not in TRANSFORMS:
            raise InputError(f"Unknown rule {self.rule!r} or transform {self.transform!r} in a unit map.")
        if any(unit.layer >= min(len(self.weights_a), len(self.weights_r)) for unit in self.units):
            raise InputError("A unit map needs layer weights for every layer that holds a unit.")
        if len({unit.name for unit in self.units}) != count:
            raise InputError("A unit is listed twice in this unit map.")
        if not 0 <= self.gamma <= 1:
            raise InputError(f"gamma is a share between 0 and 1, got {self.gamma}.")

    @classmethod
    def sort(
        cls,
        units: Sequence[Unit],
        raw_a: Sequence[float],
        raw_r: Sequence[float],
        weights_a: Sequence[float] | None = None,
        weights_r: Sequence[float] | None = None,
        *,
        tau: float = 0.0,
        rule: Rule = "z",
        transform: Transform = "log",
        gamma: float | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> UnitMap:
        """Sort units into classes by their scores.

        Args:
            units: all candidate units.
            raw_a: sensitivities on S_a.
            raw_r: sensitivities on S_r.
            weights_a: a factor per layer on S_a (None: 1 each).
            weights_r: a factor per layer on S_r (None: 1 each).
            tau: a unit matters where its z-score is above it.
            rule: see `UnitMap`.
            transform: see `UnitMap`.
            gamma: of the loss of class E (None: by the mean z-scores of E; 0.5 where that is no share).
            provenance: to keep with the map.

        Raises:
            InputError: scores that cannot be used, an unknown rule or transform, or no unit of class A or R.
        """
        layers = [unit.layer for unit in units]
        factors = [
            [1.0] * (1 + max(layers)) if given is None else [float(f) for f in given]
            for given in (weights_a, weights_r)
        ]
        scores = [weighted(raw, layers, own) for raw, own in zip((raw_a, raw_r), factors, strict=True)]
        classes, z_a, z_r = classified(scores[0], scores[1], tau, rule, transform)
        refuse_empty(classes, z_a, z_r, tau, rule)
        return cls(
            units,
            classes,
            z_a.tolist(),
            z_r.tolist(),
            [float(score) for score in raw_a],
            [float(score) for score in raw_r],
            factors[0],
            factors[1],
            gamma=entangled_share(classes, z_a, z_r) if gamma is None else gamma,
            tau=tau,
            rule=rule,
            transform=transform,
            provenance=dict(provenance or {}),
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Units of each class."""
        return {name: list(self.classes).count(name) for name in CLASSES}

    def of(self, *names: str) -> list[Unit]:
        """The units of some classes, in order; `of("E", "A", "R")` are those that are trained."""
        return [unit for unit, found in zip(self.units, self.classes, strict=True) if found in names]

    def mixture(self, delta: float = 0.8, leak: float = 0.0) -> dict[str, dict[str, float]]:
        """The losses of each class: the matrix K (parenting.md 3.4). O has no row: it stays frozen.

        Args:
            delta: share of L_a and L_r together; the rest is document extraction, L_c.
            leak: share of the other side's loss in A and R; 0 is the paper, 0.5 removes the boundary.

        Returns:
            {class: {"a": k, "r": k, "c": k}} for "E", "A" and "R"; a row sums to 1.

        Raises:
            InputError: a share outside 0 to 1, or a leak above 0.5.
        """
        check_shares(delta, leak)
        rest = 1.0 - delta
        return {
            "E": {"a": delta * self.gamma, "r": delta * (1.0 - self.gamma), "c": rest},
            "A": {"a": delta * (1.0 - leak), "r": delta * leak, "c": rest},
            "R": {"a": delta * leak, "r": delta * (1.0 - leak), "c": rest},
        }

    def random(self, seed: int, depth_matched: bool = False) -> UnitMap:
        """The same number of units in each class, drawn at random: a control, as the provenance then says.

        Args:
            seed: of the draw.
            depth_matched: draw within each layer, so that every layer keeps its numbers.
        """
        draw = random.Random(seed)
        classes = list(self.classes)
        pools = [list(range(len(classes)))]
        if depth_matched:
            layers = sorted({unit.layer for unit in self.units})
            pools = [[i for i, unit in enumerate(self.units) if unit.layer == layer] for layer in layers]
        for pool in pools:
            drawn = draw.sample(pool, len(pool))
            for place, source in zip(pool, drawn, strict=True):
                classes[place] = self.classes[source]
        return self._changed(classes, {"random": {"seed": seed, "depth_matched": depth_matched}})

    def swapped(self) -> UnitMap:
        """A and R exchanged: a control."""
        other = {"A": "R", "R": "A"}
        return self._changed([other.get(found, found) for found in self.classes], "swapped")

    def resorted(
        self, tau: float | None = None, rule: Rule | None = None, gamma: float | None = None, forward: bool = True
    ) -> UnitMap:
        """The same scores, sorted by another threshold or rule (None: as before), or without the layer weights.

        A gamma that was given to the map stays (None), one by the z-scores follows the new classes. What comes out is
        no control, whatever this map is. Arguments and errors of `sort`.
        """
        if gamma is None and not math.isclose(self.gamma, self._share()):
            gamma = self.gamma
        return UnitMap.sort(
            self.units,
            self.raw_a,
            self.raw_r,
            self.weights_a if forward else None,
            self.weights_r if forward else None,
            tau=self.tau if tau is None else tau,
            rule=rule or self.rule,
            transform=self.transform,
            gamma=gamma,
            provenance={name: value for name, value in self.provenance.items() if name != "control"},
        )

    def check(self, lm: LanguageModel) -> None:
        """Refuse a model that this map was not made for.

        Raises:
            ModelError: other weights, or a unit whose module the model does not have.
        """
        modules = dict(unwrapped(lm.model).named_modules())
        missing = next((unit for unit in self.units if unit.module not in modules), None)
        if missing is not None:
            raise ModelError(f"{lm.name!r} has no module {missing.module!r}; this unit map is of another model.")
        made_for = self.provenance.get("fingerprint")
        if made_for is not None and made_for != lm.fingerprint:
            raise ModelError(
                f"This unit map was mined on other weights ({self.provenance.get('model')}) than those of {lm.name!r}; "
                "mine again on this model."
            )

    def save(self, path: str | Path) -> Path:
        """Write the map as JSON (atomically). Returns the path."""
        return write_text(path, json.dumps(self.record(), indent=1) + "\n")

    def record(self) -> dict[str, Any]:
        """The map as plain JSON values."""
        columns = zip(self.units, self.classes, self.z_a, self.z_r, self.raw_a, self.raw_r, strict=True)
        return {
            "schema": "headwater/units",
            "version": SCHEMA_VERSION,
            "sizes": self.sizes,
            "gamma": self.gamma,
            "tau": self.tau,
            "rule": self.rule,
            "transform": self.transform,
            "weights_a": list(self.weights_a),
            "weights_r": list(self.weights_r),
            "units": [
                {**asdict(unit), "class": found, "z_a": z_a, "z_r": z_r, "raw_a": raw_a, "raw_r": raw_r}
                for unit, found, z_a, z_r, raw_a, raw_r in columns
            ],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def load(cls, path: str | Path) -> UnitMap:
        """Read a map that `save` wrote.

        Raises:
            FormatError: the file is missing, is not JSON, or is not a unit map of a version this release reads.
            InputError: an unknown class, or a unit that is listed twice.
        """
        source = Path(path)
        try:
            record = json.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise FormatError(f"Cannot read the unit map {source}: {error.strerror or error}.") from error
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{source} is not JSON ({error}); expected a unit map written by headwater.") from error
        try:
            return cls.from_record(record)
        except InputError as error:
            raise type(error)(f"{source}: {error}") from error

    @classmethod
    def from_record(cls, record: Any) -> UnitMap:
        """The map in a `record`. Errors of `load`."""
        if not isinstance(record, dict) or record.get("schema") != "headwater/units":
            raise FormatError("This is not a unit map: its 'schema' is not 'headwater/units'.")
        if record.get("version") != SCHEMA_VERSION:
            raise FormatError(
                f"This unit map is of version {record.get('version')!r}; this headwater reads {SCHEMA_VERSION}."
            )
        try:
            rows = record["units"]
            units = [Unit(row["name"], row["module"], int(row["layer"]), row["kind"], row["part"]) for row in rows]
            odd = next((unit for unit in units if unit.kind not in KINDS), None)
            if odd is not None:
                raise FormatError(f"The unit {odd.name} is of the unknown kind {odd.kind!r}.")
            numbers = {key: [float(row[key]) for row in rows] for key in ("z_a", "z_r", "raw_a", "raw_r")}
            weights = {key: [float(value) for value in record[key]] for key in ("weights_a", "weights_r")}
            rest = {"rule": record["rule"], "transform": record["transform"], "provenance": dict(record["provenance"])}
            shares = {key: float(record[key]) for key in ("gamma", "tau")}
            columns: dict[str, Any] = {**numbers, **weights, **shares, **rest}
            return cls(units, [row["class"] for row in rows], **columns)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise FormatError(f"This unit map is damaged: {error!r}.") from error

    def _changed(self, classes: list[str], control: Any) -> UnitMap:
        """Other classes; the provenance lists what was done to them, in order."""
        controls = [*self.provenance.get("control", ()), control]
        return replace(self, classes=classes, provenance={**self.provenance, "control": controls})

    def _share(self) -> float:
        """The gamma that follows from the z-scores, whatever the classes are now."""
        layers = [unit.layer for unit in self.units]
        a, r = weighted(self.raw_a, layers, self.weights_a), weighted(self.raw_r, layers, self.weights_r)
        return entangled_share(*classified(a, r, self.tau, self.rule, self.transform))
