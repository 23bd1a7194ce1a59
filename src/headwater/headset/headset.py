"""`HeadSet` and `HeadScores`: plain artefacts with provenance, saved as JSON.

Heads are (layer, head), 0-based; arrays are `[layer, head]`. Text and command line write `13-18`, JSON `[13, 18]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from headwater.atomic import write_text
from headwater.errors import FormatError, HeadSetError

Head = tuple[int, int]
HeadsLike = Iterable[Sequence[int]]
SCHEMA_VERSION = 1


def as_heads(heads: HeadSet | HeadsLike) -> list[Head]:
    """A head set, or any list of (layer, head) pairs, as a list of pairs.

    Raises:
        HeadSetError: an element that is not a pair of whole numbers.
    """
    if isinstance(heads, HeadSet):
        return list(heads.heads)
    if isinstance(heads, (str, bytes)):
        raise HeadSetError(
            f"Expected (layer, head) pairs, got the text {heads!r}; headwater.headset.parse_heads reads text."
        )
    out = []
    try:
        for layer, head in heads:
            out.append((index(layer), index(head)))
    except (TypeError, ValueError) as error:
        raise HeadSetError(
            "Heads are (layer, head) pairs of whole numbers, for example [(13, 18), (13, 21)]."
        ) from error
    return out


def parse_heads(text: str) -> list[Head]:
    """Read heads written `13-18,13-21` (commas or white space between them).

    Raises:
        HeadSetError: nothing to read, or a part that is not `layer-head`.
    """
    parts = [part for part in re.split(r"[,\s]+", text.strip()) if part]
    if not parts:
        raise HeadSetError("No heads given; write them layer-head, for example 13-18,13-21.")
    heads = []
    for part in parts:
        match = re.fullmatch(r"(\d+)-(\d+)", part)
        if match is None:
            raise HeadSetError(f"{part!r} is not a head; write layer-head, for example 13-18.")
        heads.append((int(match[1]), int(match[2])))
    return heads


@dataclass(frozen=True)
class HeadScores:
    """One score for every query head of a model.

    Attributes:
        scores: float `[layers, heads]`; higher is better; NaN where a head cannot be scored.
        provenance: method and its settings, model and revision, data fingerprint, prompt hash, versions, seed.
        samples: float `[examples, layers, heads]`, of which `scores` is the mean; None where nothing was sampled. For
            `headwater.headset.stability`; a saved head set does not hold them.
        groups: per example what it is about (country, needle): examples of one group are drawn together.
    """

    scores: np.ndarray
    provenance: Mapping[str, Any] = field(default_factory=dict)
    samples: np.ndarray | None = field(default=None, repr=False)
    groups: Sequence[str] | None = field(default=None, repr=False)

    def top(self, k: int) -> HeadSet:
        """The k best heads, best first; ties go to the lower (layer, head), NaN is never chosen.

        Raises:
            HeadSetError: k is not between 1 and the number of scored heads.
        """
        flat = np.asarray(self.scores, dtype=float).ravel()
        scored = int(np.isfinite(flat).sum())
        if not 1 <= k <= scored:
            raise HeadSetError(f"Cannot take {k} heads: {scored} of the model's {self.scores.size} have a score.")
        order = np.argsort(-np.where(np.isfinite(flat), flat, -np.inf), kind="stable")[:k]
        width = self.scores.shape[1]
        return HeadSet(
            [(int(i) // width, int(i) % width) for i in order], scores=self.scores, provenance=self.provenance
        )


@dataclass(frozen=True, eq=False)
class HeadSet:
    """An ordered list of query heads of one model.

    Attributes:
        heads: (layer, head) pairs, best first.
        coefficients: one factor per head, or None.
        scores: float `[layers, heads]` of all heads of the model, or None for a bare list.
        provenance: where the set comes from: `model`, `method`, `settings`, `versions`, `seed`, ...
    """

    heads: Sequence[Head]
    coefficients: Sequence[float] | None = None
    scores: np.ndarray | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shape and uniqueness once."""
        heads = as_heads(self.heads)
        if not heads:
            raise HeadSetError("A head set needs at least one head.")
        repeated = next((head for i, head in enumerate(heads) if head in heads[:i]), None)
        if repeated is not None:
            raise HeadSetError(f"Head {repeated[0]}-{repeated[1]} is listed twice.")
        if any(layer < 0 or head < 0 for layer, head in heads):
            raise HeadSetError("Layers and heads count from 0; a negative one is not a head.")
        if self.coefficients is not None:
            coefficients = [float(c) for c in self.coefficients]
            if len(coefficients) != len(heads) or not np.isfinite(coefficients).all():
                raise HeadSetError(f"Expected {len(heads)} finite coefficients, one per head.")
            object.__setattr__(self, "coefficients", coefficients)
        if self.scores is not None:
            scores = np.asarray(self.scores, dtype=float)
            layers, width = scores.shape if scores.ndim == 2 else (0, 0)
            outside = next((h for h in heads if h[0] >= layers or h[1] >= width), None)
            if outside is not None:
                raise HeadSetError(f"Head {outside[0]}-{outside[1]} lies outside its scores of shape {scores.shape}.")
            object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "heads", heads)

    def __eq__(self, other: object) -> bool:
        """Whether heads, coefficients, scores and provenance are the same."""
        if not isinstance(other, HeadSet):
            return NotImplemented
        mine, theirs = self.scores, other.scores
        if mine is None or theirs is None:
            same = mine is theirs
        else:
            same = np.array_equal(mine, theirs, equal_nan=True)
        rest = (self.heads, self.coefficients, self.provenance) == (other.heads, other.coefficients, other.provenance)
        return same and rest

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        """Number of heads."""
        return len(self.heads)

    def __str__(self) -> str:
        """The heads as text: `13-18,13-21`."""
        return ",".join(f"{layer}-{head}" for layer, head in self.heads)

    @property
    def last_layer(self) -> int:
        """The deepest layer that holds one of the heads: where a forward may stop."""
        return max(layer for layer, _ in self.heads)

    def top(self, k: int) -> HeadSet:
        """The first k heads with their coefficients.

        Raises:
            HeadSetError: k is not between 1 and the number of heads.
        """
        if not 1 <= k <= len(self.heads):
            raise HeadSetError(f"Cannot take {k} heads of a set of {len(self.heads)}.")
        kept = None if self.coefficients is None else self.coefficients[:k]
        return replace(self, heads=self.heads[:k], coefficients=kept)

    def trim(self, max_layer: int) -> HeadSet:
        """The heads of layers 0 to `max_layer` with their coefficients, so that a forward can stop there.

        Some published sets hold one deep head whose layers cost more than it adds (qrhead.md 6.4); measure the loss.
        What was dropped stands in the provenance, under "trimmed".

        Raises:
            HeadSetError: no head is left.
        """
        kept = [place for place, (layer, _) in enumerate(self.heads) if layer <= max_layer]
        if not kept:
            first = min(layer for layer, _ in self.heads)
            raise HeadSetError(f"No head lies in layers 0 to {max_layer}; the first one is in layer {first}.")
        if len(kept) == len(self.heads):
            return self
        before = self.provenance.get("trimmed", {}).get("dropped", [])
        dropped = [*before, *(list(head) for head in self.heads if head[0] > max_layer)]
        return replace(
            self,
            heads=[self.heads[place] for place in kept],
            coefficients=None if self.coefficients is None else [self.coefficients[place] for place in kept],
            provenance={**self.provenance, "trimmed": {"max_layer": max_layer, "dropped": dropped}},
        )

    def overlap(self, other: HeadSet) -> float:
        """Share of the smaller set's heads that the other set holds too, between 0 and 1."""
        return len(set(self.heads) & set(other.heads)) / min(len(self), len(other))

    def save(self, path: str | Path) -> Path:
        """Write the set as JSON (atomically: a temporary file, then a rename). Returns the path."""
        scores = None
        if self.scores is not None:
            scores = [[float(v) if np.isfinite(v) else None for v in row] for row in self.scores]
        record = {
            "schema": "headwater/headset",
            "version": SCHEMA_VERSION,
            "heads": [list(head) for head in self.heads],
            "coefficients": self.coefficients,
            "scores": scores,
            "provenance": dict(self.provenance),
        }
        return write_text(path, json.dumps(record, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> HeadSet:
        """Read a set that `save` wrote, a QRHead yaml, a Retrieval_Head json, or a published set by its name.

        Raises:
            FormatError: the file is missing, is not JSON, or is not a head set of a version this release reads.
            HeadSetError: the content is not a valid set, or no published set has this name.
        """
        from headwater.headset.importers import read_foreign
        from headwater.headset.published import load_published

        source = Path(path)
        if not source.exists() and re.fullmatch(r"[\w.-]+/[\w-]+", str(path)):
            return load_published(str(path))
        foreign = read_foreign(source) if source.exists() else None
        if foreign is not None:
            return foreign
        try:
            record = json.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise FormatError(f"Cannot read the head set {source}: {error.strerror or error}.") from error
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{source} is not JSON ({error}); expected a head set written by headwater.") from error
        if not isinstance(record, dict) or record.get("schema") != "headwater/headset":
            raise FormatError(f"{source} is not a head set: its 'schema' is not 'headwater/headset'.")
        if record.get("version") != SCHEMA_VERSION:
            raise FormatError(
                f"{source} is a head set of version {record.get('version')!r}; this headwater reads {SCHEMA_VERSION}."
            )
        try:
            scores = record["scores"]
            array = None if scores is None else np.array([[np.nan if v is None else v for v in row] for row in scores])
            provenance = dict(record["provenance"])
            shape = provenance.get("shape")
            if shape is not None and not (len(shape) == 3 and all(isinstance(n, int) for n in shape)):
                raise FormatError(f"{source} is a damaged head set: its 'shape' is {shape!r}, not three numbers.")
            return cls(record["heads"], record["coefficients"], array, provenance)
        except FormatError:
            raise
        except HeadSetError as error:
            raise HeadSetError(f"{source}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{source} is a damaged head set: {error!r}.") from error
