"""The threshold of support: the best split of what should be kept and what should be refused."""

import json
from pathlib import Path

import pytest

import headwater as hw
from headwater.read import support
from headwater.read.support import Judged, choose, judge, known_support
from models import random_lm


def test_the_threshold_splits_best() -> None:
    judged = [
        Judged("a", True, 0.9, 0.2),
        Judged("b", True, 0.8, 0.5),
        Judged("c", False, 0.1, 0.85),
        Judged("d", True, 0.7, 0.0),
    ]
    found = choose(judged)
    best = max(
        ((sum(j.confidence >= t for j in judged if j.right) / 3 + sum(j.without < t for j in judged) / 4), t)
        for t in (0.0, 0.2, 0.5, 0.7, 0.8, 0.85, 0.9)
    )
    assert found.threshold == 0.7
    assert (found.kept + found.refused, found.threshold) == pytest.approx((best[0], 0.7))
    assert (found.kept, found.refused, found.questions) == (1.0, 0.75, 4)


def test_without_a_right_answer_nothing_is_refused() -> None:
    assert choose([Judged("a", False, 0.9, 0.2)]).threshold == 0.0


def test_calibration_is_kept_for_these_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    lm = random_lm(max_position_embeddings=4096)
    monkeypatch.setattr(support, "judge", lambda *_: [Judged("a", True, 0.9, 0.2)])
    assert known_support(lm) == 0.0
    assert support.calibrate(lm).threshold == 0.9
    assert known_support(lm) == 0.9
    assert known_support(random_lm(seed=1, max_position_embeddings=4096)) == 0.0
    (path,) = (tmp_path / "support").iterdir()
    path.write_text("{")
    assert known_support(lm) == 0.0


def test_judging_reads_with_and_without_the_gold_document(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Scripted:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def read(self, question: str, documents: list[hw.Document]) -> object:
            from headwater.read.reader import Reading

            seen.append(len(documents))
            return Reading("Algiers", 1, True, 0.5)

    monkeypatch.setattr(support, "Reader", Scripted)
    judged = judge(random_lm(), "development", 6)
    assert seen == [5, 4] * 6
    assert all(not j.right and j.confidence == 0.5 and j.without == 0.0 for j in judged)
    assert json.dumps([j.group for j in judged])
