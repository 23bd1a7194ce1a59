"""BM25 against its formula written out, and its edges."""

import math
import re

import numpy as np
import pytest

from headwater.data.documents import Document
from headwater.errors import InputError
from headwater.search.bm25 import BM25

DOCUMENTS = [
    "Algiers is the capital of Algeria",
    "Paris, capital of France; Paris, Paris",
    "The river Nile flows through Egypt and Sudan",
    "",
]


def written_out(query: str, documents: list[str], k1: float, b: float) -> list[float]:
    """Lucene's BM25, term by term."""
    stop = {"is", "the", "of", "and"}
    bags = [[w for w in re.findall(r"\w\w+", d.lower()) if w not in stop] for d in documents]
    mean = sum(map(len, bags)) / len(bags)
    out = []
    for bag in bags:
        score = 0.0
        for word in (w for w in re.findall(r"\w\w+", query.lower()) if w not in stop):
            holds = sum(word in other for other in bags)
            idf = math.log(1 + (len(bags) - holds + 0.5) / (holds + 0.5))
            count = bag.count(word)
            score += idf * count / (count + k1 * (1 - b + b * len(bag) / mean))
        out.append(score)
    return out


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75)])
def test_scores_are_the_formula(k1: float, b: float) -> None:
    query = "the capital of Egypt, Paris"
    np.testing.assert_allclose(BM25(DOCUMENTS, k1, b).scores(query), written_out(query, DOCUMENTS, k1, b), rtol=1e-5)


def test_search_is_best_first_with_ties_by_position() -> None:
    hits = BM25(DOCUMENTS).search("capital of France", k=4)
    assert [hit.index for hit in hits] == [1, 0, 2, 3]
    assert hits[0].document.text == DOCUMENTS[1]
    assert hits[2].score == 0


def test_titles_count() -> None:
    assert BM25([Document("x y z"), Document("x y z", title="Norway")]).search("norway", 1)[0].index == 1


def test_nothing_to_match() -> None:
    assert BM25(["", "the of"]).scores("anything else").tolist() == [0, 0]
    assert BM25(["some words"]).scores("? !").tolist() == [0]


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no documents"):
        BM25([])
    with pytest.raises(InputError, match="k1"):
        BM25(["x"], k1=-1)
    with pytest.raises(InputError, match="b <= 1"):
        BM25(["x"], b=2)
    with pytest.raises(InputError, match="blank"):
        BM25(["x"]).search(" ")
    with pytest.raises(InputError, match="k must"):
        BM25(["x"]).search("x", k=0)
