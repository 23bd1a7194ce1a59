"""When two answers are the same, and whether a text states one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=2**14)  # the same answers are compared again and again
def normalise(text: str) -> str:
    """Lower case, no articles, punctuation or doubled spaces (as SQuAD), but numbers keep their sign and point.

    SQuAD's own rule would make one string of ``2.9`` and ``29``, and of ``UTC+1`` and ``UTC-1``.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", text.lower())
    text = re.sub(r"(?!(?<=\d)\.(?=\d)|[+-](?=\d))[^\w\s]", " ", text.replace("'", ""))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, answers: str | Iterable[str]) -> bool:
    """Whether the prediction equals one of the answers after `normalise`."""
    return normalise(prediction) in {normalise(a) for a in ((answers,) if isinstance(answers, str) else answers)}


def states(text: str, answer: str) -> bool:
    """Whether the text contains the answer as whole words, after `normalise`."""
    return f" {normalise(answer)} " in f" {normalise(text)} "
