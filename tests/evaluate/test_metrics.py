"""Metrics against their definitions written out."""

import math
import random

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.evaluate.metrics import order, per_query


def slow_ndcg(grades: dict[str, int], ranking: list[str]) -> float:
    def gain(ids: list[str]) -> float:
        return sum(grades.get(d, 0) / math.log2(i + 2) for i, d in enumerate(ids[:10]))

    best = gain(sorted(grades, key=lambda d: -grades[d]))
    return gain(ranking) / best if best else 0.0


def test_against_the_definition() -> None:
    rng = random.Random(0)
    documents = [f"d{i}" for i in range(30)]
    qrels = {f"q{q}": {d: rng.choice([0, 1, 2, 3]) for d in rng.sample(documents, 12)} for q in range(20)}
    rankings = {q: rng.sample(documents, 25) for q in qrels}
    out = per_query(qrels, rankings, ["nDCG@10", "R@5", "RR"])
    for q, grades in qrels.items():
        relevant = {d for d, g in grades.items() if g > 0}
        assert out["nDCG@10"][q] == pytest.approx(slow_ndcg(grades, rankings[q]))
        assert out["R@5"][q] == pytest.approx(len(relevant & set(rankings[q][:5])) / len(relevant))
        first = next((i for i, d in enumerate(rankings[q]) if d in relevant), None)
        assert out["RR"][q] == pytest.approx(0 if first is None else 1 / (first + 1))


def test_a_query_without_a_ranking_counts_zero() -> None:
    out = per_query({"q": {"d": 1}, "r": {"d": 1}}, {"q": ["d"]}, ["R@1"])
    assert out == {"R@1": {"q": 1.0, "r": 0.0}}
    assert per_query({"q": {"d": 1}}, {}, ["R@1"]) == {"R@1": {"q": 0.0}}


@pytest.mark.parametrize(
    ("qrels", "rankings", "measures", "message"),
    [
        ({"q": {"d": 1}}, {"r": ["d"]}, ["R@1"], "without judgements"),
        ({"q": {"d": 1}}, {"q": ["d", "d"]}, ["R@1"], "twice"),
        ({"q": {"d": 1}}, {"q": ["d"]}, ["excellence"], "Unknown measure"),
    ],
)
def test_bad_input(qrels: dict, rankings: dict, measures: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        per_query(qrels, rankings, measures)


def test_order() -> None:
    assert order(np.array([1.0, 3.0, -np.inf, 3.0])) == [1, 3, 0, 2]
    with pytest.raises(InputError, match="document 1 is NaN"):
        order(np.array([1.0, np.nan]))
