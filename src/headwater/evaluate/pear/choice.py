"""What is chosen before anything is reported: the number of heads, and rivals' settings, on development questions.

The best choice has the highest mean of two shares: right answers from a short list of documents, and answers taken from
a document that contradicts memory. It must not lose more than two points of what is said right without documents, over
facts as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headwater.data import world
from headwater.evaluate.pear.answers import Answers
from headwater.evaluate.pear.questions import ASKED, CONFLICT, FEW, Tests
from headwater.evaluate.pear.rows import CONTRAST, PEAR, RANDOM, VANILLA, Ask, contrasting
from headwater.evaluate.pear.workshop import Workshop
from headwater.headset import HeadSet

Progress = Callable[[str], Callable[[int, int], None]]
Shares = dict[str, float]
MOST_LOST = 0.02
DEVELOPMENT = "development"


def choose_size(shop: Workshop, answers: Answers, tests: Tests, progress: Progress) -> tuple[int, dict[str, Any]]:
    """The number of heads to report, and the sweep over numbers: shares of each, with random heads beside them."""
    settings = shop.settings
    total = len(shop.lm.anatomy.all_heads)
    given = () if settings.top_k is None else (settings.top_k,)
    sizes = sorted({shop.default_k, *(k for k in (*settings.sizes, *given) if k <= total // 2)})
    sets: dict[str, HeadSet | None] = {VANILLA: None}
    for k in sizes:
        sets[f"{PEAR} {k}"] = shop.learned(shop.heads(k, settings.seed), settings.seed)
        sets[f"{RANDOM} {k}"] = shop.learned(shop.random(k, settings.seed), settings.seed)
    found = measured(answers, tests, sets, progress)
    named = {f"{PEAR} {k}": k for k in sizes}
    kept = [named[name] for name in allowed(list(named), found)]
    best = max(kept, key=lambda k: (score(found[f"{PEAR} {k}"]), -k))
    return settings.top_k or best, {"sizes": sizes, "shares": found, "best": best}


def choose_weight(
    shop: Workshop, answers: Answers, tests: Tests, progress: Progress
) -> tuple[float, dict[str, Shares]]:
    """The weight of context-aware decoding; the shares of each."""
    asked = {test: tests[test][: shop.settings.alone] for test in (FEW, CONFLICT)}
    found = {}
    for weight in shop.settings.weights:
        ask = contrasting(shop.lm, weight, shop.settings.new_tokens)
        found[str(weight)] = measured_alone(answers, asked, f"{CONTRAST}-{weight}", ask, progress, weight)
    return float(max(found, key=lambda weight: score(found[weight]))), found


def choose_set(
    answers: Answers, tests: Tests, options: Mapping[str, HeadSet | None], progress: Progress
) -> tuple[str, dict[str, Shares]]:
    """The best of several head sets with coefficients, for rivals that have settings to choose; the shares of each."""
    found = measured(answers, tests, {VANILLA: None, **options}, progress)
    return max(allowed(list(options), found), key=lambda name: score(found[name])), found


def measured_alone(answers: Answers, tests: Tests, name: str, ask: Ask, progress: Progress, made: object) -> Shares:
    """Development test -> share of right answers, of a treatment that shares no batch; `made` is what it is."""
    out = {}
    for test, items in tests.items():
        if not items:
            continue
        step = progress(f"{DEVELOPMENT} {test}: {name}")
        said = answers.alone(f"{DEVELOPMENT}-{test}", items, name, ask, step, made)
        out[test] = sum(world.exact_match(s, i.answers) for s, i in zip(said, items, strict=True)) / len(items)
    return out


def measured(
    answers: Answers, tests: Tests, sets: Mapping[str, HeadSet | None], progress: Progress
) -> dict[str, Shares]:
    """Head set -> development test -> share of right answers."""
    out: dict[str, Shares] = {name: {} for name in sets}
    for test, items in tests.items():
        if not items:
            continue
        sizes = dict.fromkeys(sets, len(items))
        said = answers.together(f"{DEVELOPMENT}-{test}", items, sets, sizes, progress(f"{DEVELOPMENT}: {test}"))
        for name, texts in said.items():
            right = [world.exact_match(text, item.answers) for text, item in zip(texts, items, strict=True)]
            out[name][test] = sum(right) / len(right)
    return out


def score(shares: Shares) -> float:
    """What is maximised: the mean of the two shares that reading is about."""
    found = [shares[test] for test in (FEW, CONFLICT) if test in shares]
    return sum(found) / len(found)


def allowed(names: Sequence[str], found: Mapping[str, Shares]) -> list[str]:
    """Those that lose at most two points of what is said without documents; where all lose more, those that lose least.

    Measured on facts as they come (`ASKED`), not on those that the model as it is gets right.
    """
    known = {name: found[name].get(ASKED, 0.0) for name in names}
    least = found[VANILLA].get(ASKED, 0.0) - MOST_LOST
    kept = [name for name in names if known[name] >= least]
    return kept or [name for name in names if known[name] == max(known.values())]
