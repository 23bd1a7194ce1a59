"""ROUGE-1 recall: how many of an answer's words a response holds."""

from __future__ import annotations

import re
from collections import Counter

import snowballstemmer

_UNSTEMMED = 3  # letters; ROUGE leaves words so short alone


def stems(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation, cut by Porter's algorithm from four letters on."""
    stemmer = snowballstemmer.stemmer("porter")
    words = re.findall(r"[^\W_]+", text.lower())
    return [word if len(word) <= _UNSTEMMED else stemmer.stemWord(word) for word in words]


def rouge1_recall(reference: str, response: str) -> float:
    """The share of the reference's stemmed words that stand in the response, 0 to 1; repeated words count repeatedly.

    Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries". A reference without words gives 0.
    """
    wanted = Counter(stems(reference))
    found = wanted & Counter(stems(response))
    return sum(found.values()) / max(1, sum(wanted.values()))
