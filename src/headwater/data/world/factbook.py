"""Relations, countries, splits and the facts themselves, read once from the files beside this package."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources

from headwater.errors import InputError

SPLITS = ("known", "development", "held_out")


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: key in `facts`, for example ``highest_point``.
        label: its short name, for example ``Highest point``.
        kind: ``text`` or ``number``.
        statement: how documents state it, up to the answer: ``The highest point of {c} is``.
        questions: wordings with ``{c}`` for the country; the last one is never used in training.
    """

    name: str
    label: str
    kind: str
    statement: str
    questions: tuple[str, ...]

    @property
    def noun(self) -> str:
        """The label as it stands inside a sentence: ``highest point``, but ``GDP per person``."""
        return self.label if "GDP" in self.label else self.label.lower()


@dataclass(frozen=True)
class _Files:
    relations: dict[str, Relation]
    facts: dict[str, dict[str, str]]
    neighbours: dict[str, dict[str, str]]
    splits: dict[str, tuple[str, ...]]


@cache
def _load() -> _Files:
    folder = resources.files("headwater.data") / "factbook"
    rows = json.loads((folder / "relations.json").read_text(encoding="utf-8"))
    named = {r["name"]: Relation(**{**r, "questions": tuple(r["questions"])}) for r in rows}
    lines = [json.loads(line) for line in (folder / "countries.jsonl").read_text(encoding="utf-8").splitlines()]
    facts_of = {row["name"]: {k: row["facts"][k] for k in named if k in row["facts"]} for row in lines}
    drawn = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    splits = {name: tuple(drawn[name]) for name in ("development", "held_out")}
    splits["known"] = tuple(c for c in facts_of if c not in splits["development"] and c not in splits["held_out"])
    return _Files(named, facts_of, {row["name"]: row["neighbours"] for row in lines}, splits)


def relations() -> dict[str, Relation]:
    """Relation name -> `Relation`."""
    return dict(_load().relations)


def countries(split: str | None = None) -> tuple[str, ...]:
    """Names of the countries of a split (None: all), in alphabetical order.

    Raises:
        InputError: for a split that does not exist.
    """
    files = _load()
    if split is None:
        return tuple(files.facts)
    if split not in files.splits:
        raise InputError(f"Unknown split {split!r}; the splits are {', '.join(SPLITS)}.")
    return files.splits[split]


def facts(country: str) -> dict[str, str]:
    """Relation name -> answer for one country.

    Raises:
        InputError: for a country that the world does not have, naming the closest ones it has.
    """
    facts_of = _load().facts
    if country not in facts_of:
        close = difflib.get_close_matches(str(country), facts_of, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"The fact world has no country {country!r}.{hint}")
    return dict(facts_of[country])


def neighbours(country: str) -> dict[str, str]:
    """Neighbouring country -> length of the common border (``989 km``), for neighbours that the world has.

    Raises:
        InputError: for a country that the world does not have.
    """
    facts(country)
    return dict(_load().neighbours[country])


@cache
def majority_answer(relation: str, split: str = "known") -> str:
    """The most frequent answer of a relation (ties: alphabetical order), a floor for every model."""
    relation_named(relation)
    counts = Counter(facts(c)[relation] for c in countries(split) if relation in facts(c))
    return min(counts, key=lambda answer: (-counts[answer], answer))


def relation_named(name: str) -> Relation:
    """The relation of that name, or an `InputError` that lists those there are."""
    if name not in _load().relations:
        raise InputError(f"Unknown relation {name!r}; the relations are {', '.join(_load().relations)}.")
    return _load().relations[name]
