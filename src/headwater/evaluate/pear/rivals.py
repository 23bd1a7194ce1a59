"""Rivals that look at conflicts: PH3-style pruning and JuICE, found and tuned on development questions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from headwater.data.conflict import as_conflicts, conflict_fingerprint
from headwater.data.world import ReadingExample
from headwater.errors import HeadwaterError
from headwater.evaluate.pear.answers import Answers, content
from headwater.evaluate.pear.choice import Progress, Shares, allowed, choose_set, measured, measured_alone, score
from headwater.evaluate.pear.questions import ASKED, CONFLICT, FEW, Tests
from headwater.evaluate.pear.rows import VANILLA, Ask, Row, asking, constant
from headwater.evaluate.pear.workshop import Workshop
from headwater.heads import juice, ph3
from headwater.heads.juice import JuiceHeads, juiced
from headwater.heads.ph3 import Ph3Heads
from headwater.headset import HeadSet
from headwater.read.juice import JuiceReader

logger = logging.getLogger("headwater")

PRUNED, TRAINED = "PH3-style: heads zeroed", "PEAR on PH3-style heads"
ONCE, TWICE = "JuICE once", "JuICE twice"
PRUNINGS = (1, 2, 4, 8, 15)  # of the paper's 1 to 15
GAINS = (0.0, 1.0, 3.0, 5.0)  # of the paper's 0 to 5, for boosting and for cutting
BEST = 3  # pairs of gains that were best once, tried twice as well
TRIED_TWICE = ((1.0, 1.0), (3.0, 1.0), (5.0, 1.0))  # and these


def rivals(
    shop: Workshop,
    answers: Answers,
    tests: Tests,
    conflicts: Sequence[ReadingExample],
    k: int,
    progress: Progress,
) -> tuple[list[Row], dict[str, Any]]:
    """Their rows, and what was chosen on the development questions; without conflicts there is no row.

    JuICE twice has gains of its own, chosen on the first of these questions among the best of JuICE once and a few
    more. A rival that finds no head is left out, with the reason.

    Args:
        shop: finds and learns.
        answers: what was said already.
        tests: development questions, to choose on.
        conflicts: to find heads on: none of those in `tests`.
        k: heads that PEAR's coefficients are learned for.
        progress: called with a label.
    """
    found: list[Row] = []
    chosen: dict[str, Any] = {}
    if not conflicts:
        return found, {"left out": "the model knows no fact of the development countries"}
    seen = conflict_fingerprint(as_conflicts(conflicts))
    heads = _search(shop, PRUNED, f"found-ph3-{seen}", Ph3Heads(), conflicts[: ph3.EXAMPLES], chosen)
    if heads is not None:
        sizes = sorted({min(size, len(heads)) for size in PRUNINGS})
        options: dict[str, HeadSet | None] = {f"{PRUNED} {size}": constant(heads.top(size), 0.0) for size in sizes}
        name, chosen[PRUNED] = choose_set(answers, tests, options, progress)
        pruned, trained = options[name], heads.top(min(k, len(heads)))
        found.append(Row(PRUNED, lambda shop, seed: pruned))
        found.append(Row(TRAINED, lambda shop, seed: shop.learned(trained, seed), seeds="some"))
    both = _search(shop, ONCE, f"found-juice-{seen}", JuiceHeads(), conflicts[: juice.EXAMPLES], chosen)
    if both is not None:
        pairs = {_gains(boost, cut): (boost, cut) for boost in GAINS for cut in GAINS if boost or cut}
        options = {f"{ONCE} {gains}": juiced(both, *pair) for gains, pair in pairs.items()}
        name, chosen[ONCE] = choose_set(answers, tests, options, progress)
        once = options[name]
        found.append(Row(ONCE, lambda shop, seed: once))
        best = sorted(pairs, key=lambda gains: -score(chosen[ONCE][f"{ONCE} {gains}"]))[:BEST]
        tried = {**{gains: pairs[gains] for gains in best}, **{_gains(*pair): pair for pair in TRIED_TWICE}}
        sets = {f"{TWICE} {gains}": juiced(both, *pair) for gains, pair in tried.items()}
        name, chosen[TWICE] = _choose_twice(shop, answers, tests, sets, progress)
        twice = sets[name]
        made, cost = content(twice), "two passes per token, two caches"
        found.append(Row(TWICE, alone=lambda shop, seed: _twice(shop, twice), made=made, cost=cost))
    return found, chosen


def _search(
    shop: Workshop,
    named: str,
    stem: str,
    detector: Ph3Heads | JuiceHeads,
    conflicts: Sequence[ReadingExample],
    chosen: dict[str, Any],
) -> HeadSet | None:
    """The rival's heads; None where it finds none, the reason written into `chosen`."""
    try:
        return shop.kept(stem, lambda: detector.find(shop.lm, conflicts))
    except HeadwaterError as error:
        chosen[f"{named}, left out"] = str(error)
        logger.warning("%s is left out: %s", named, error)
        return None


def _gains(boost: float, cut: float) -> str:
    return f"+{boost:g} -{cut:g}"


def _choose_twice(
    shop: Workshop, answers: Answers, tests: Tests, sets: Mapping[str, HeadSet], progress: Progress
) -> tuple[str, dict[str, Shares]]:
    """The best coefficients for two runs per token, on the first of the development questions; the shares of each."""
    asked = {test: tests[test][: shop.settings.twice] for test in (FEW, CONFLICT, ASKED)}
    found = measured(answers, asked, {VANILLA: None}, progress)
    for name, heads in sets.items():
        with _twice(shop, heads) as ask:
            found[name] = measured_alone(answers, asked, name, ask, progress, content(heads))
    return max(allowed(list(sets), found), key=lambda name: score(found[name])), found


@contextmanager
def _twice(shop: Workshop, heads: HeadSet) -> Iterator[Ask]:
    yield asking(JuiceReader(shop.lm, replace(heads, scores=None), shop.settings.new_tokens))
