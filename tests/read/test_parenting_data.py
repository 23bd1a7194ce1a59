"""The folder of `headwater parent data`: what is asked, what is written, what an interrupted call leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from headwater.data import world
from headwater.data.documents import Document
from headwater.data.parenting.build import ParentingSets, check_item
from headwater.data.parenting.folder import read_data
from headwater.data.parenting.items import ParentingItem, items_fingerprint, load_items
from headwater.data.parenting.match import LONGEST
from headwater.data.parenting.questions import Passage, ProbeQuestion, QuestionSet
from headwater.data.parenting.records import ProbeRecord
from headwater.errors import InputError
from headwater.read.parenting_data import _Fits, make_data, prepare
from headwater.read.probe import ClosedBookProbe
from models import random_lm

PROBE = ClosedBookProbe(samples=2, new_tokens=4)
SETS = ParentingSets(conflict="edited", documents=(1, 3))
NAMES = ["Ann Lee", "Bob Roy", "Eve Low", "Joe Fox", "Kim Dow", "Max Ray", "Pia Sun", "Sam Orr", "Tom Day", "Zoe Bay"]


def own_questions(name: str = "own", count: int = 10) -> QuestionSet:
    """Articles with a paragraph that says who leads, one about the weather, and a question that nothing answers."""
    passages, questions = [], []
    for number, leader in enumerate(NAMES[:count]):
        group, first = f"{name} {number}", f"{name}/{number}/0"
        passages.append(Passage(Document(f"{group} is led by {leader}.", first), group))
        passages.append(Passage(Document(f"In {group} it rains.", f"{name}/{number}/1"), group))
        asked = (f"Who leads {group}?",)
        questions.append(ProbeQuestion(f"{name}/{number}", group, asked, (leader,), first, type="name"))
        questions.append(ProbeQuestion(f"{name}/{number}no", group, asked, (), f"{name}/{number}/1"))
    return QuestionSet(name, tuple(questions), tuple(passages))


@pytest.fixture
def knows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every model knows all; what it is asked is listed."""
    asked: list[str] = []

    def run(
        self: ClosedBookProbe, lm: object, questions: Sequence[ProbeQuestion], folder: Path, progress: object
    ) -> dict[str, ProbeRecord]:
        asked.extend(q.id for q in questions)
        (Path(folder) / "probe.json").write_text("{}")
        said = {q.id: q.answers[0] if q.answers else "rain" for q in questions}
        return {
            q.id: ProbeRecord(q.id, q.wordings, q.answers, (said[q.id],), (), "known" if q.answers else "wrong")
            for q in questions
        }

    monkeypatch.setattr(ClosedBookProbe, "run", run)
    return asked


def test_the_folder(tmp_path: Path, knows: list[str]) -> None:
    lm = random_lm(max_position_embeddings=2048)
    prepared = prepare([own_questions()], sets=SETS)
    record = make_data(lm, prepared, tmp_path / "sets", PROBE, SETS)
    assert not [name for name in knows if name.endswith("no")], "what nothing answers is of no use here"
    assert record == json.loads((tmp_path / "sets" / "data.json").read_text())
    assert record["counts"]["train"] == {"a": 6, "r": 6, "c": 6, "agree": 6, "empty": 6}
    assert record["counts"]["test"]["asked"] == 3
    assert record["probe"]["labels"] == {"train": {"known": 6}, "development": {"known": 1}, "test": {"known": 3}}
    assert record["model"]["fingerprint"] == lm.fingerprint
    assert record["sources"][0]["fingerprint"] == own_questions().fingerprint
    data = read_data(tmp_path / "sets")
    assert data.model == lm.fingerprint
    groups = {
        split: {item.group for each in getattr(data, split).values() for item in each} for split in record["groups"]
    }
    for split, each in groups.items():
        assert sorted(each) == record["groups"][split]["own"]
        for kind, digest in record["fingerprints"][split].items():
            items = load_items(path) if (path := tmp_path / "sets" / split / f"{kind}.jsonl").exists() else []
            assert items_fingerprint(items) == digest
            for item in items:
                check_item(item)
    assert not groups["train"] & (groups["test"] | groups["development"])


def test_other_sets_from_the_same_probe(tmp_path: Path, knows: list[str]) -> None:
    lm = random_lm(max_position_embeddings=2048)
    make_data(lm, prepare([own_questions()], sets=SETS), tmp_path, PROBE, SETS)
    wrong = ParentingSets(conflict="wrong", robust="both")
    record = make_data(lm, prepare([own_questions()], sets=wrong), tmp_path, PROBE, wrong)
    assert record["counts"]["train"]["a"] == 0
    assert not (tmp_path / "train" / "a.jsonl").exists(), "the set of the earlier call is gone"
    assert len(load_items(tmp_path / "train" / "r.jsonl")) > 6


def test_evaluation_only(tmp_path: Path, knows: list[str]) -> None:
    lm = random_lm(max_position_embeddings=2048)
    record = make_data(lm, prepare([], [own_questions()], SETS), tmp_path / "e", PROBE, SETS)
    assert set(record["counts"]) == {"development", "test"}
    assert not (tmp_path / "e" / "train").exists()
    both = prepare([own_questions()], [own_questions("other", 4)], SETS)
    assert "other" not in both.record["groups"]["train"]
    shared = prepare([own_questions()], [own_questions("own too", 1)], SETS, avoid=["In own 3 it rains. Really."])
    assert shared.record["left_out"] == {"groups shared with an evaluation source": 0, "groups of texts to avoid": 0}
    avoided = prepare([own_questions()], sets=SETS, avoid=["in OWN 3 it rains"])
    assert avoided.record["left_out"]["groups of texts to avoid"] == 1


def test_how_many_are_asked() -> None:
    def count(**more) -> list[int]:
        return [len(each) for each in prepare([own_questions()], **more).questions.values()]

    assert count() == [6, 1, 3]
    assert count(questions=5) == [3, 1, 1]
    assert count(questions=1) == [1, 0, 0]
    assert count(questions=5, shares=(1.0, 0.0, 0.0)) == [5, 0, 0]
    asked = prepare([own_questions()], [own_questions("other", 8)], questions=8, shares=(1.0, 0.0, 0.0)).questions
    assert [len(each) for each in asked.values()] == [4, 1, 3], "development and test have questions, too"
    assert count(sets=ParentingSets(robust="both")) == [12, 2, 6]
    first = [q.id for each in prepare([own_questions()], questions=5).questions.values() for q in each]
    more = [q.id for each in prepare([own_questions()], questions=8).questions.values() for q in each]
    assert set(first) <= set(more), "more questions keep those that were asked"
    assert len(prepare([], [own_questions()], questions=4).questions["train"]) == 0
    few = prepare(["world"], questions=40).questions
    assert {len(each) for each in few.values()} == {24, 4, 12}
    assert {q.group for each in few.values() for q in each} <= set(world.countries("known")), "the others come last"
    assert {q.group for q in prepare(["world"]).questions["test"]} > set(world.countries("held_out"))
    for given, message in (
        ({"train": []}, "no questions"),
        ({"questions": 0}, "At least 1 question"),
        ({"train": ["missing.json"]}, "no question file"),
        ({"train": [own_questions()] * 2}, "given twice"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(**given)


def test_a_model_that_knows_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = random_lm(max_position_embeddings=2048)
    with caplog.at_level("WARNING", "headwater"):
        record = make_data(lm, prepare([own_questions()], sets=SETS), tmp_path, PROBE, SETS)
    assert record["counts"]["train"]["c"] == 6
    assert record["counts"]["train"]["r"] == 0
    assert "No items in a, r, agree, empty of train: the questions asked are" in caplog.text
    assert len((tmp_path / "probe.jsonl").read_text().splitlines()) == 10


def test_an_answer_that_its_paragraph_does_not_state(tmp_path: Path, knows: list[str]) -> None:
    """Such items are dropped, and do not end the run after all the probing."""
    own = own_questions()
    odd = replace(own, questions=(replace(own.questions[0], answers=("Ann, Bob",)), *own.questions[1:]))
    lm = random_lm(max_position_embeddings=2048)
    record = make_data(lm, prepare([odd], sets=SETS), tmp_path, PROBE, SETS)
    assert [n for name, n in record["dropped"].items() if "agree: the paragraph does not state" in name] == [1]
    assert sum(counts["agree"] for counts in record["counts"].values()) == 9


def test_what_is_longer_than_the_model_reads(tmp_path: Path, knows: list[str]) -> None:
    short = random_lm(max_position_embeddings=400)
    record = make_data(short, prepare([own_questions()], sets=SETS), tmp_path, PROBE, SETS)
    assert record["counts"]["train"]["c"] == 0
    assert record["dropped"]["train/c: longer than the model reads"] == 6
    assert record["counts"]["train"]["r"] > 0


def test_other_folders(tmp_path: Path, knows: list[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    lm, prepared = random_lm(), prepare([own_questions()], sets=SETS)
    with pytest.raises(InputError, match="is not empty"):
        make_data(lm, prepared, tmp_path, PROBE, SETS)
    with pytest.raises(InputError, match="Cannot use the folder"):
        make_data(lm, prepared, tmp_path / "notes.txt", PROBE, SETS)


def test_an_item_that_fits_leaves_room_for_the_longest_answer() -> None:
    """Targets of training may be short; what a model says to the item while it is looked at may not."""
    lm = random_lm(layers=1)

    def least(target: str) -> int:
        item = ParentingItem("q#0/empty", "g", "empty", "Who?", (), target, ("Ann",))
        limits = (replace(lm, anatomy=replace(lm.anatomy, max_length=n)) for n in range(16, 999))
        return next(each.max_length for each in limits if _Fits(each, "base")(item))

    assert least("y") == least("y" * LONGEST) == least("y" * (LONGEST + 1)) - 1
