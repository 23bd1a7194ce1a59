"""What is chosen before anything is reported: the number of heads, and rivals' settings, on development questions.

The best choice has the highest mean of two shares: right answers from a short list of documents, and answers taken from
a document that contradicts memory. It must not lose more than two points of what is known without documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headwater.data import world
from headwater.evaluate.pear.answers import Answers
from headwater.evaluate.pear.questions import CLOSED, CONFLICT, FEW, Tests
from headwater.evaluate.pear.rows import CONTRAST, PEAR, RANDOM, VANILLA, contrasting
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
    sizes = sorted({shop.default_k, *(k for k in settings.sizes if k <= total // 2)})
    sets: dict[str, HeadSet | None] = {VANILLA: None}
    for k in sizes:
        sets[f"{PEAR} {k}"] = shop.learned(shop.heads(k, settings.seed), settings.seed)
        sets[f"{RANDOM} {k}"] = shop.learned(shop.random(k, settings.seed), settings.seed)
    found = measured(answers, tests, sets, progress)
    kept = [k for k in sizes if _harmless(found[f"{PEAR} {k}"], found[VANILLA])] or [shop.default_k]
    best = max(kept, key=lambda k: (score(found[f"{PEAR} {k}"]), -k))
    return settings.top_k or best, {"sizes": sizes, "shares": found, "best": best}


def choose_weight(shop: Workshop, answers: Answers, tests: Tests, progress: Progress) -> dict[str, Shares]:
    """The weight of context-aware decoding, put into the workshop; the shares of each."""
    found = {}
    for weight in shop.settings.weights:
        shares = {}
        for test in (FEW, CONFLICT):
            items = tests[test][: shop.settings.alone]
            ask = contrasting(shop.lm, weight, shop.settings.new_tokens)
            step = progress(f"{DEVELOPMENT} {test}: {CONTRAST} at {weight}")
            said = answers.alone(f"{DEVELOPMENT}-{test}", items, f"{CONTRAST}-{weight}", ask, step)
            pairs = zip(said, items, strict=True)
            if items:
                shares[test] = sum(world.exact_match(s, i.answers) for s, i in pairs) / len(items)
        found[str(weight)] = shares
    shop.choices[CONTRAST] = float(max(found, key=lambda weight: score(found[weight])))
    return found


def choose_set(
    answers: Answers, tests: Tests, options: Mapping[str, HeadSet | None], progress: Progress
) -> tuple[str, dict[str, Shares]]:
    """The best of several head sets with coefficients, for rivals that have settings to choose; the shares of each."""
    found = measured(answers, tests, {VANILLA: None, **options}, progress)
    kept = [name for name in options if _harmless(found[name], found[VANILLA])] or list(options)
    return max(kept, key=lambda name: score(found[name])), found


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


def _harmless(shares: Shares, before: Shares) -> bool:
    return shares.get(CLOSED, 0.0) >= before.get(CLOSED, 0.0) - MOST_LOST
