"""Rivals that look at conflicts: PH3-style pruning and JuICE, found and tuned on development questions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from headwater.data.documents import Document
from headwater.data.world import ReadingExample
from headwater.errors import HeadwaterError
from headwater.evaluate.pear.answers import Answers
from headwater.evaluate.pear.choice import Progress, choose_set
from headwater.evaluate.pear.questions import Tests
from headwater.evaluate.pear.rows import Ask, Row, constant
from headwater.evaluate.pear.workshop import Workshop
from headwater.heads.juice import JuiceHeads, juiced
from headwater.heads.ph3 import Ph3Heads
from headwater.headset import HeadSet
from headwater.read.juice import JuiceReader

logger = logging.getLogger("headwater")

PRUNED, TRAINED = "PH3-style: heads zeroed", "PEAR on PH3-style heads"
ONCE, TWICE = "JuICE once", "JuICE twice"
PRUNINGS = (1, 2, 4, 8, 15)  # of the paper's 1 to 15
GAINS = (0.0, 1.0, 3.0, 5.0)  # of the paper's 0 to 5, for boosting and for cutting
FEW_EXAMPLES = 4  # that JuICE finds its heads on
EXAMPLES = 32  # that PH3-style heads are found on


def rivals(
    shop: Workshop,
    answers: Answers,
    tests: Tests,
    conflicts: Sequence[ReadingExample],
    k: int,
    progress: Progress,
) -> tuple[list[Row], dict[str, Any]]:
    """Their rows, and what was chosen on the development questions; without conflicts there is no row.

    JuICE twice takes the coefficients chosen for JuICE once. A rival that finds no head is left out, with the reason.
    """
    found: list[Row] = []
    chosen: dict[str, Any] = {}
    if not conflicts:
        return found, {"left out": "the model knows no fact of the development countries"}
    try:
        heads = shop.kept("found-ph3", lambda: Ph3Heads().find(shop.lm, conflicts[:EXAMPLES]))
        sizes = sorted({min(size, len(heads)) for size in PRUNINGS})
        options: dict[str, HeadSet | None] = {f"{PRUNED} {size}": constant(heads.top(size), 0.0) for size in sizes}
        name, chosen[PRUNED] = choose_set(answers, tests, options, progress)
        pruned, trained = options[name], heads.top(min(k, len(heads)))
        found.append(Row(PRUNED, lambda shop, seed: pruned))
        found.append(Row(TRAINED, lambda shop, seed: shop.learned(trained, seed)))
    except HeadwaterError as error:
        chosen[f"{PRUNED}, left out"] = str(error)
        logger.warning("%s is left out: %s", PRUNED, error)
    try:
        both = shop.kept("found-juice", lambda: JuiceHeads().find(shop.lm, conflicts[:FEW_EXAMPLES]))
        pairs = [(boost, cut) for boost in GAINS for cut in GAINS if boost or cut]
        options = {f"{ONCE} +{boost:g} -{cut:g}": juiced(both, boost, cut) for boost, cut in pairs}
        name, chosen[ONCE] = choose_set(answers, tests, options, progress)
        once = options[name]
        assert once is not None
        found.append(Row(ONCE, lambda shop, seed: once))
        found.append(Row(TWICE, alone=lambda shop, seed: _twice(shop, once), cost="two passes per token, two caches"))
    except HeadwaterError as error:
        chosen[f"{ONCE}, left out"] = str(error)
        logger.warning("%s is left out: %s", ONCE, error)
    return found, chosen


@contextmanager
def _twice(shop: Workshop, heads: HeadSet) -> Iterator[Ask]:
    reader = JuiceReader(shop.lm, replace(heads, scores=None), shop.settings.new_tokens)

    def ask(question: str, documents: Sequence[Document]) -> str:
        return (reader.read(question, documents) if documents else reader.recall(question)).text

    yield ask
