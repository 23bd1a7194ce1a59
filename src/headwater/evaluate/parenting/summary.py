"""What the answers amount to: measures per question, means with intervals, paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headwater.data.parenting.items import ParentingItem
from headwater.data.parenting.match import hits, verdict
from headwater.evaluate.parenting import harmonic
from headwater.evaluate.parenting.questions import AGREEMENT, ASKED, CLOSED, CONFLICT, NOISE, UNSEEN, Tests
from headwater.evaluate.parenting.rows import BASE, ROUTED
from headwater.evaluate.statistics import holm, mean_interval, paired_difference

ADHERENCE, REMEMBERED, ROBUSTNESS, HARMONIC = "R_Ad", "MemR", "R_Ro", "harmonic mean"
COMPARED = (ADHERENCE, ROBUSTNESS, HARMONIC, AGREEMENT, CLOSED, ASKED, UNSEEN)
Right = Callable[[str, ParentingItem], bool]


def _says(which: str) -> Right:
    return lambda text, item: verdict(text, item.in_documents, item.in_memory) == which


MEASURES: dict[str, tuple[str, Right]] = {  # measure -> the test it is over, and when an answer counts
    ADHERENCE: (CONFLICT, _says("document")),
    REMEMBERED: (CONFLICT, _says("memory")),
    ROBUSTNESS: (NOISE, _says("memory")),
    AGREEMENT: (AGREEMENT, lambda text, item: hits(text, item.gold)),
    CLOSED: (CLOSED, lambda text, item: hits(text, item.right)),
    ASKED: (ASKED, lambda text, item: hits(text, item.gold)),
    UNSEEN: (UNSEEN, lambda text, item: hits(text, item.gold)),
}
Said = Mapping[str, Sequence[Mapping[str, Sequence[str]]]]  # row -> seeds -> test -> answers
Values = dict[str, dict[str, np.ndarray]]  # measure -> row -> [seeds, questions]


def measure(said: Said, tests: Tests) -> Values:
    """Measure -> row -> 1 or 0 per seed and question; a row is left out where it was not asked."""
    out: Values = {}
    for name, (test, right) in MEASURES.items():
        for row, seeds in said.items():
            if all(test in answers for answers in seeds):
                found = [
                    [float(right(text, item)) for text, item in zip(answers[test], tests[test], strict=True)]
                    for answers in seeds
                ]
                out.setdefault(name, {})[row] = np.array(found)
    return out


def summarise(values: Values, tests: Tests, seed: int) -> dict[str, Any]:
    """Per measure: means with intervals over countries and seeds, differences to the base, routed minus the others.

    Differences are paired by question and seed: a row of three seeds beside the first three of the routed one, a row
    for which nothing is drawn beside all of them. Holm's correction is over the rows of a measure.
    """
    out: dict[str, Any] = {}
    for name in (ADHERENCE, REMEMBERED, ROBUSTNESS, HARMONIC, *(m for m in MEASURES if m in tests)):
        rows = _axes(values) if name == HARMONIC else values.get(name, {})
        if not rows:
            continue
        where = (CONFLICT, NOISE) if name == HARMONIC else (MEASURES[name][0],)
        groups = tuple([item.group for item in tests[test]] for test in where)
        table: dict[str, Any] = {"rows": {row: _mean(found, groups, seed) for row, found in rows.items()}}
        table["minus base"] = {
            row: _gap(found, rows[BASE], groups, seed) for row, found in rows.items() if row != BASE and BASE in rows
        }
        table["routed minus"] = {}
        if ROUTED in rows and name in COMPARED:
            others = {row: found for row, found in rows.items() if row != ROUTED}
            table["routed minus"] = {row: _gap(rows[ROUTED], found, groups, seed) for row, found in others.items()}
            corrected = holm({row: gap["p"] for row, gap in table["routed minus"].items()})
            for row, p in corrected.items():
                table["routed minus"][row]["p_holm"] = p
        out[name] = table
    return out


def _axes(values: Values) -> dict[str, harmonic.Axes]:
    """Both axes of the rows that have them."""
    a, r = values.get(ADHERENCE, {}), values.get(ROBUSTNESS, {})
    return {row: harmonic.Axes(a[row], r[row]) for row in a if row in r}


def _mean(found: Any, groups: Any, seed: int) -> dict[str, float]:
    if isinstance(found, harmonic.Axes):
        return harmonic.interval(found, groups, seed)
    return mean_interval(found, groups[0], seed=seed).as_dict()


def _gap(one: Any, other: Any, groups: Any, seed: int) -> dict[str, float]:
    if isinstance(one, harmonic.Axes):
        return harmonic.difference(one, other, groups, seed)
    seeds = max(len(one), len(other)) if min(len(one), len(other)) == 1 else min(len(one), len(other))
    return paired_difference(one[:seeds], other[:seeds], groups[0], seed=seed).as_dict()
