"""Head sets beside each other: what they share, at which sizes, and what cannot be compared."""

import json

import numpy as np
import pytest

from headwater.errors import HeadSetError, InputError
from headwater.headset import HeadScores, HeadSet
from headwater.headset.agreement import chance_overlap
from headwater.headset.compare import compare

BARE = HeadSet([(0, 1), (1, 2), (2, 3), (3, 0), (1, 1)])
OTHER = HeadSet([(1, 2), (0, 1), (9, 9)])
GRID = np.arange(64.0).reshape(8, 8)


def test_lists_without_scores() -> None:
    found = compare({"a": BARE, "b": OTHER}, ks=[1, 2])
    assert [(row.k, row.shared, row.overlap) for row in found.overlaps] == [
        (1, [], 0.0),
        (2, [(0, 1), (1, 2)], 1.0),
        (None, [(0, 1), (1, 2)], 2 / 3),
    ]
    assert found.shared == [(0, 1), (1, 2)]
    assert found.shape is None
    assert all(row.chance is None for row in found.overlaps)
    assert found.correlations == []
    assert found.layers["a"] == [1, 2, 1, 1, 0, 0, 0, 0, 0, 0]
    assert found.layers["b"] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_chance_stands_beside() -> None:
    found = compare({"a": BARE, "b": HeadSet(OTHER.heads[:2])}, ks=[2], shape=(8, 8))
    assert found.overlaps[0].chance == chance_overlap(2, 2, 64)
    assert found.overlaps[1].chance == chance_overlap(5, 2, 64)


def test_scores_go_on_where_a_list_ends() -> None:
    a = HeadScores(GRID).top(3)
    b = HeadScores(GRID + np.where(GRID > 59, -100, 0)).top(3)
    found = compare({"a": a, "b": b})
    assert [row.k for row in found.overlaps] == [4, 8, 16, 32, None]
    assert [len(row.shared) for row in found.overlaps] == [0, 4, 12, 28, 0]
    assert found.correlations[0].spearman == pytest.approx(1 - 6 * (60 * 4**2 + 4 * 60**2) / (64 * (64**2 - 1)))
    trimmed = HeadSet([(0, 0), (7, 7)], scores=GRID)
    own = compare({"a": trimmed, "b": HeadScores(GRID).top(2)}, ks=[2, 3])
    assert own.overlaps[0].shared == [(7, 7)], "the listed order comes before that of the scores"
    assert own.overlaps[1].shared == [(7, 7), (7, 6)]


def test_unscored_heads_do_not_go_on() -> None:
    holes = GRID.copy()
    holes[:6] = np.nan
    with pytest.raises(HeadSetError, match="a lists 16 heads and has no scores of others, so its best 17"):
        compare({"a": HeadScores(holes).top(3), "b": HeadScores(GRID).top(3)}, ks=[17])
    assert compare({"a": HeadScores(holes).top(3), "b": HeadScores(GRID).top(3)}).overlaps[-2].k == 16


def test_three_sets_make_three_pairs() -> None:
    sets = {"a": BARE, "b": OTHER, "c": HeadSet([(1, 2), (4, 4)])}
    found = compare(sets)
    assert [(row.first, row.second, row.k) for row in found.overlaps] == [
        ("a", "b", None), ("a", "c", None), ("b", "c", None)
    ]  # fmt: skip
    assert found.shared == [(1, 2)]
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert record["overlaps"][0]["shared"] == [[0, 1], [1, 2]]
    assert record["sizes"] == {"a": 5, "b": 3, "c": 2}


def test_published_lists_share_what_the_paper_repositories_share() -> None:
    names = ("qr-lme", "qr-nq", "core")
    sets = {name: HeadSet.load(f"llama-3.1-8b-instruct/{name}") for name in names}
    found = {(row.first, row.second): len(row.shared) for row in compare(sets, ks=[16]).overlaps if row.k == 16}
    assert found == {("qr-lme", "qr-nq"): 3, ("qr-lme", "core"): 13, ("qr-nq", "core"): 3}


@pytest.mark.parametrize(
    ("sets", "arguments", "match"),
    [
        ({"a": BARE}, {}, "at least two"),
        ({"a": BARE, "b": OTHER}, {"ks": [0]}, "at least 1"),
        ({"a": BARE, "b": OTHER}, {"ks": [4]}, "b lists 3 heads"),
        ({"a": BARE, "b": OTHER}, {"shape": (8, 8)}, "b holds the head 9-9, which a model of 8 layers x 8"),
        ({"a": HeadScores(GRID).top(2), "b": HeadScores(GRID[:4]).top(2)}, {}, "b of one of 4 x 8"),
        ({"a": HeadScores(GRID).top(2), "b": HeadSet([(0, 0)], provenance={"shape": [8, 4, 4]})}, {}, "8 x 4"),
    ],
)
def test_what_cannot_be_compared(sets: dict, arguments: dict, match: str) -> None:
    with pytest.raises((InputError, HeadSetError), match=match):
        compare(sets, **arguments)
