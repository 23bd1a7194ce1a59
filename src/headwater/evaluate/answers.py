"""Whether an answer is right: exact match, F1 and sub-span match after SQuAD's normalisation, and abstention."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from headwater.data.abstain import abstains

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: the rule of SQuAD's own script.

    For facts with signs and decimal points use `headwater.data.world.normalise`, which keeps those.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the answers; without answers, where the prediction is empty or abstains."""
    if not answers:
        return float(abstains(prediction))
    return float(squad_normalise(prediction) in {squad_normalise(answer) for answer in answers})


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Best F1 over words; where either side is empty, 1 if both are."""
    if not answers:
        return float(abstains(prediction))
    return max(_f1(squad_normalise(prediction).split(), squad_normalise(answer).split()) for answer in answers)


def contains(prediction: str, answers: Sequence[str]) -> float:
    """Sub-span match: 1 where one of the answers stands in the prediction as whole words.

    A long prediction matches more easily, so `words` belongs beside it.
    """
    said = f" {squad_normalise(prediction)} "
    return float(any(f" {squad_normalise(answer)} " in said for answer in answers if squad_normalise(answer)))


def words(prediction: str) -> float:
    """Length of an answer in words."""
    return float(len(prediction.split()))


ANSWER_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "EM": exact_match,
    "F1": f1,
    "sub-EM": contains,
    "words": lambda prediction, answers: words(prediction),
    "abstained": lambda prediction, answers: float(abstains(prediction)),
}


def answer_scores(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """Every answer metric of one prediction: EM, F1, sub-EM, words, abstained."""
    return {name: metric(prediction, answers) for name, metric in ANSWER_METRICS.items()}


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right))
