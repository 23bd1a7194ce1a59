"""The packed n-gram model against a slow one written from the formulas."""

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from recipes.tiny.kneser_ney import KneserNey


def text(n: int, vocabulary: int, seed: int) -> list[int]:
    """Tokens with some structure: the next one is often a function of the last two."""
    draw, out = random.Random(seed), [0, 1]
    while len(out) < n:
        out.append((3 * out[-1] + out[-2]) % vocabulary if draw.random() < 0.7 else draw.randrange(vocabulary))
    return out


def slow(tokens: list[int], vocabulary: int, order: int):
    """Probability of a token after a context, with dictionaries, one order at a time."""
    counts = {order: Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))}
    for length in range(order - 1, 0, -1):
        counts[length] = Counter(gram[1:] for gram in counts[length + 1])
    steps = {}
    for length, table in counts.items():
        n = [sum(1 for c in table.values() if c == k) for k in range(5)]
        steps[length] = [0, 0.5, 0.75, 0.9]
        if all(n[1:]):
            y = n[1] / (n[1] + 2 * n[2])
            found = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
            steps[length] = [0, *(min(k, max(0.1, d)) for k, d in enumerate(found, 1))]
    followed = {length: defaultdict(list) for length in counts}
    for length, table in counts.items():
        for gram, count in table.items():
            followed[length][gram[:-1]].append(count)

    def probability(context: tuple[int, ...], token: int, length: int) -> float:
        if length == 0:
            return 1 / vocabulary
        lower = probability(context[1:], token, length - 1)
        after = followed[length].get(context, [])
        if not after:
            return lower
        count = counts[length].get((*context, token), 0)
        discounted = max(0, count - steps[length][min(count, 3)])
        back = sum(steps[length][min(c, 3)] for c in after)
        return (discounted + back * lower) / sum(after)

    return probability


def test_against_the_formulas() -> None:
    train, held = text(4000, 9, 0), text(300, 9, 1)
    fast = KneserNey(np.array(train), 9, order=3).log_probabilities(np.array(held))
    probability = slow(train, 9, 3)
    for place in range(2, 300):
        expected = probability(tuple(held[place - 2 : place]), held[place], 3)
        assert fast[place - 2] == pytest.approx(math.log(expected), abs=1e-9)


def test_probabilities_sum_to_one_in_every_context() -> None:
    model = KneserNey(np.array(text(3000, 7, 2)), 7, order=4)
    draw = random.Random(3)
    for _ in range(50):
        context = [draw.randrange(7) for _ in range(3)]
        total = sum(math.exp(model.log_probabilities(np.array([*context, token]))[0]) for token in range(7))
        assert total == pytest.approx(1, abs=1e-9)


def test_structure_is_learned() -> None:
    model = KneserNey(np.array(text(20000, 50, 4)), 50, order=3)
    bits = -model.log_probabilities(np.array(text(2000, 50, 5))).mean() / math.log(2)
    assert bits < 0.6 * math.log2(50)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="At most 4096"):
        KneserNey(np.zeros(10), 5000)
