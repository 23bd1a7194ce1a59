"""What the answers amount to: measures per question, means with intervals, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater.data import world
from headwater.evaluate.answers import words
from headwater.evaluate.pear.questions import CLOSED, CONFLICT, FEW, FIRST, HARMLESS, LAST, MANY, MIDDLE, NOISE, Item
from headwater.evaluate.pear.rows import PEAR, VANILLA
from headwater.evaluate.statistics import holm, mean_interval, paired_difference

DOCUMENT, REMEMBERED, ELSE = "conflict: document", "conflict: memory", "conflict: else"
REGRESSION, LENGTH = "neutral regression", "words of an answer"
MEASURES = {
    FEW: FEW,
    MANY: MANY,
    FIRST: FIRST,
    MIDDLE: MIDDLE,
    LAST: LAST,
    DOCUMENT: CONFLICT,
    REMEMBERED: CONFLICT,
    ELSE: CONFLICT,
    CLOSED: CLOSED,
    NOISE: NOISE,
    REGRESSION: HARMLESS,
    LENGTH: FEW,
}  # measure -> the test whose questions it is over
COMPARED = (FEW, MANY, DOCUMENT, CLOSED, NOISE, REGRESSION)
Values = dict[str, np.ndarray]  # row -> [seeds, questions]
Said = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]  # test -> row -> [seeds][questions]


def measure(said: Said, tests: Mapping[str, Sequence[Item]]) -> dict[str, Values]:
    """Measure -> row -> one value per seed and question; rows that were not asked are left out."""
    out: dict[str, Values] = {}
    for name, test in MEASURES.items():
        rows: Values = {}
        for row, answers in said.get(test, {}).items():
            beside = said[CLOSED].get(row) if name == REGRESSION else None
            seeds = [
                _values(name, texts, tests[test], None if beside is None else beside[seed])
                for seed, texts in enumerate(answers)
            ]
            if seeds and seeds[0]:
                rows[row] = np.array(seeds, float)
        if rows:
            out[name] = rows
    return out


def _values(name: str, said: Sequence[str], items: Sequence[Item], alone: Sequence[str] | None) -> list[float]:
    """One value per question, for one seed."""
    pairs = list(zip(said, items, strict=False))  # a row may have been asked the first questions only
    if name == LENGTH:
        return [words(text) for text, _ in pairs]
    if name == REMEMBERED:
        return [float(world.exact_match(text, item.memory)) for text, item in pairs]
    right = [world.exact_match(text, item.answers) for text, item in pairs]
    if name == ELSE:
        return [float(not r and not world.exact_match(t, i.memory)) for r, (t, i) in zip(right, pairs, strict=True)]
    if name == REGRESSION:
        assert alone is not None
        known = [world.exact_match(text, item.answers) for text, (_, item) in zip(alone, pairs, strict=True)]
        return [float(before and not after) for before, after in zip(known, right, strict=True)]
    return [float(r) for r in right]


def summarise(values: Mapping[str, Values], tests: Mapping[str, Sequence[Item]], seed: int) -> dict[str, Any]:
    """Per measure: means with intervals over countries and seeds, differences to vanilla, PEAR minus every other row.

    Differences are over the questions that both rows were asked, seeds paired in their order. Holm's correction is over
    the rows that PEAR is compared with in one measure.
    """
    out: dict[str, Any] = {}
    for name, rows in values.items():
        groups = [item.group for item in tests[MEASURES[name]]]
        table: dict[str, Any] = {"rows": {}, "minus vanilla": {}, "PEAR minus": {}}
        for row, found in rows.items():
            table["rows"][row] = mean_interval(found, groups[: found.shape[1]], seed=seed).as_dict()
            if row != VANILLA:
                table["minus vanilla"][row] = _difference(found, rows[VANILLA], groups, seed)
            if row != PEAR and name in COMPARED:
                table["PEAR minus"][row] = _difference(rows[PEAR], found, groups, seed)
        corrected = holm({row: found["p"] for row, found in table["PEAR minus"].items()})
        for row, p in corrected.items():
            table["PEAR minus"][row]["p_holm"] = p
        out[name] = table
    return out


def _difference(first: np.ndarray, second: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, float]:
    """Over the questions and seeds that both have."""
    n = min(first.shape[1], second.shape[1])
    if min(len(first), len(second)) > 1:
        seeds = min(len(first), len(second))
        first, second = first[:seeds], second[:seeds]
    return paired_difference(first[:, :n], second[:, :n], groups[:n], seed=seed).as_dict()
