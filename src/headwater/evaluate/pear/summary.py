"""What the answers amount to: measures per question, means with intervals, paired differences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from headwater.data import world
from headwater.evaluate.answers import contains, f1, words
from headwater.evaluate.pear.questions import (
    ASKED,
    CLOSED,
    CONFLICT,
    FEW,
    FIRST,
    HARMLESS,
    LAST,
    MANY,
    MIDDLE,
    NOISE,
    Item,
)
from headwater.evaluate.pear.rows import PEAR, VANILLA
from headwater.evaluate.statistics import holm, mean_interval, paired_difference

DOCUMENT, REMEMBERED, ELSE = "conflict: document", "conflict: memory", "conflict: else"
REGRESSION, LENGTH = "neutral regression", "words of an answer"
F1, SUBSPAN = "F1", "sub-span"
MEASURES = {
    FEW: FEW,
    F1: FEW,
    SUBSPAN: FEW,
    MANY: MANY,
    FIRST: FIRST,
    MIDDLE: MIDDLE,
    LAST: LAST,
    DOCUMENT: CONFLICT,
    REMEMBERED: CONFLICT,
    ELSE: CONFLICT,
    ASKED: ASKED,
    CLOSED: CLOSED,
    NOISE: NOISE,
    REGRESSION: HARMLESS,
    LENGTH: FEW,
}  # measure -> the test whose questions it is over
COMPARED = (FEW, MANY, DOCUMENT, ASKED, CLOSED, NOISE, REGRESSION)
Values = dict[str, np.ndarray]  # row -> [seeds, questions]
Said = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]  # test -> row -> [seeds][questions]


def measure(said: Said, tests: Mapping[str, Sequence[Item]]) -> dict[str, Values]:
    """Measure -> row -> one value per seed and question; rows that were not asked are left out.

    Neutral regression is over the questions that the row itself gets right alone; elsewhere it is NaN.
    """
    out: dict[str, Values] = {}
    for name, test in MEASURES.items():
        rows: Values = {}
        for row, answers in said.get(test, {}).items():
            beside = said[CLOSED].get(row) if name == REGRESSION else None
            seeds = [
                _values(name, texts, tests[test], None if beside is None else beside[seed])
                for seed, texts in enumerate(answers)
            ]
            if seeds and seeds[0] and not np.isnan(seeds).all():
                rows[row] = np.array(seeds, float)
        if rows:
            out[name] = rows
    return out


def _values(name: str, said: Sequence[str], items: Sequence[Item], alone: Sequence[str] | None) -> list[float]:
    """One value per question, for one seed."""
    pairs = list(zip(said, items, strict=False))  # a row may have been asked the first questions only
    if name == LENGTH:
        return [words(text) for text, _ in pairs]
    if name in (F1, SUBSPAN):
        metric = f1 if name == F1 else contains
        return [metric(text, item.answers) for text, item in pairs]
    if name == REMEMBERED:
        return [float(world.exact_match(text, item.memory)) for text, item in pairs]
    right = [world.exact_match(text, item.answers) for text, item in pairs]
    if name == ELSE:
        return [float(not r and not world.exact_match(t, i.memory)) for r, (t, i) in zip(right, pairs, strict=True)]
    if name == REGRESSION:
        assert alone is not None
        known = [world.exact_match(text, item.answers) for text, (_, item) in zip(alone, pairs, strict=True)]
        return [float(not after) if before else np.nan for before, after in zip(known, right, strict=True)]
    return [float(r) for r in right]


def summarise(
    values: Mapping[str, Values],
    tests: Mapping[str, Sequence[Item]],
    seed: int,
    unseeded: Collection[str] = (VANILLA,),
) -> dict[str, Any]:
    """Per measure: means with intervals over countries and seeds, differences to vanilla, PEAR minus every other row.

    Differences are over the questions that both rows were asked and the seeds that both have, paired in their order;
    beside a row of `unseeded`, for which nothing is drawn, PEAR has all its seeds. Holm's correction is over the rows
    that PEAR is compared with in one measure. What has values of one country only is left out.
    """
    out: dict[str, Any] = {}
    for name, rows in values.items():
        groups = [item.group for item in tests[MEASURES[name]]]
        table: dict[str, Any] = {"rows": {}, "minus vanilla": {}, "PEAR minus": {}}
        for row, found in rows.items():
            about = _interval(found, groups, seed)
            if about is None:
                continue
            table["rows"][row] = about
            pairs: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
            if row != VANILLA:
                pairs["minus vanilla"] = found, rows.get(VANILLA)
            if row != PEAR and name in COMPARED and PEAR in rows:
                pairs["PEAR minus"] = (rows[PEAR] if row in unseeded else rows[PEAR][: len(found)], found)
            for kind, (first, second) in pairs.items():
                gap = None if second is None else _difference(first, second, groups, seed)
                if gap is not None:
                    table[kind][row] = gap
        corrected = holm({row: found["p"] for row, found in table["PEAR minus"].items()})
        for row, p in corrected.items():
            table["PEAR minus"][row]["p_holm"] = p
        if table["rows"]:
            out[name] = table
    return out


def _interval(found: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, float] | None:
    values, named = _measured(found, groups)
    return None if _of_one(named) else mean_interval(values, named, seed=seed).as_dict()


def _difference(first: np.ndarray, second: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, float] | None:
    """Over the questions and seeds that both have; None where they are of one country."""
    n = min(first.shape[1], second.shape[1])
    if min(len(first), len(second)) > 1:
        seeds = min(len(first), len(second))
        first, second = first[:seeds], second[:seeds]
    shape = max(len(first), len(second)), n
    first, second = np.broadcast_to(first[:, :n], shape), np.broadcast_to(second[:, :n], shape)
    both = np.where(np.isnan(first) | np.isnan(second), np.nan, 0.0)
    (one, named), (other, _) = _measured(first + both, groups), _measured(second + both, groups)
    return None if _of_one(named) else paired_difference(one, other, named, seed=seed).as_dict()


def _measured(found: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The values and their countries; where some questions have none, those of all seeds in one row without them."""
    named = list(groups[: found.shape[1]])
    if not np.isnan(found).any():
        return found, named
    there = ~np.isnan(found)
    return found[there], [named[place] for place in np.nonzero(there)[1]]


def _of_one(groups: Sequence[str]) -> bool:
    """Whether no interval over countries can be given."""
    return len(set(groups)) < 2
