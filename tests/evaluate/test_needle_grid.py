"""The needle test on the planted copier, which gives every answer back, and what its grid says."""

import numpy as np
import pytest

import headwater as hw
from headwater.data.needle import built_in_haystack, built_in_needles, needle_cases
from headwater.errors import ContextOverflowError, InputError
from headwater.evaluate.needle_grid import NeedleGrid, NeedleResult, measure_needles
from models import random_lm
from planted_copier import COPIER, NEEDLES, PARAGRAPHS, copier_lm


def result(needle: str, length: int, depth: float, recall: float) -> NeedleResult:
    return NeedleResult(f"{needle}/{length}/{depth}", needle, length, depth, depth, True, 9, recall, 0.0, "x", "y")


def test_the_planted_copier_gives_every_needle_back():
    lm, seen = copier_lm(), []
    cases = needle_cases(NEEDLES[:2], PARAGRAPHS, (260, 300), (0.0, 0.5, 1.0))
    found = measure_needles(lm, cases, max_new_tokens=6, progress=lambda *at: seen.append(at))
    assert seen[-1] == (12, 12)
    assert found.cells().shape == (2, 3)
    assert (found.cells() == 1).all()
    assert (found.cells("exact") == 1).all()
    assert found.passed == 1
    record = found.as_dict()
    assert record["lengths"] == [260, 300]
    assert record["recall"]["mean"] == record["recall"]["interval"]["low"] == 1
    assert record["settings"]["fingerprint"] == lm.fingerprint
    assert [r["tokens"] < r["length"] for r in record["results"]] == [True] * 12
    with hw.ablated(lm, [COPIER]):
        assert measure_needles(lm, cases, max_new_tokens=6).cells().max() == 0
    with hw.ablated(lm, [(1, 0), (0, 3)]):
        assert measure_needles(lm, cases, max_new_tokens=6).cells().min() == 1


def test_cells_are_means_over_needles():
    found = NeedleGrid(
        [result("a", 9, 0.0, 1.0), result("b", 9, 0.0, 0.0), result("a", 9, 1.0, 0.25), result("a", 20, 0.0, 1.0)], {}
    )
    assert np.array_equal(found.cells(), [[0.5, 0.25], [1.0, np.nan]], equal_nan=True)
    assert found.passed == pytest.approx(2 / 3)
    assert found.interval().groups == 2
    alone = NeedleGrid([result("a", 9, 0.0, 1.0)], {}).as_dict()
    assert alone["recall"] == {"mean": 1.0, "interval": None, "grid": [[1.0]]}


def test_bad_input():
    lm = random_lm()
    with pytest.raises(InputError, match="no needle cases"):
        measure_needles(lm, [])
    with pytest.raises(ContextOverflowError, match="reads 512"):
        measure_needles(lm, needle_cases(built_in_needles(), built_in_haystack(), (600,)))
