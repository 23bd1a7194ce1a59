"""Sources of questions, and how their groups are dealt to splits."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data import world
from headwater.data.documents import Document
from headwater.data.parenting.match import stated_in
from headwater.data.parenting.questions import SPLITS, Passage, ProbeQuestion, QuestionSet
from headwater.data.parenting.sources import question_set, without
from headwater.data.parenting.splits import deal, deal_sets
from headwater.errors import FormatError, InputError
from local_data import local_data


def write(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def squad(*titles: str) -> dict:
    """A file of articles with two paragraphs each; the second has a question without an answer."""

    def paragraph(title: str, number: int) -> dict:
        asked = {"id": f"{title}{number}", "question": f"Who leads {title}?", "is_impossible": bool(number)}
        asked["answers"] = [] if number else [{"text": "Ann", "answer_start": 0}, {"text": "Ann", "answer_start": 0}]
        text = f"{title} part {number}: " + ("it rained." if number else "Ann leads it.")
        return {"context": text, "qas": [asked]}

    return {"version": "v", "data": [{"title": t, "paragraphs": [paragraph(t, 0), paragraph(t, 1)]} for t in titles]}


def test_the_world_holds_what_a_guess_does_not_get_right() -> None:
    found = question_set("world")
    countries = {"known": "train", "development": "development", "held_out": "test"}
    assert {found.placed.get(c, "train") for c in world.countries("known")} == {"train"}
    for name in ("development", "held_out"):
        assert {found.placed[c] for c in world.countries(name)} == {countries[name]}
    passages = {p.document.id: p for p in found.passages}
    for question in found.questions[::97]:
        assert not world.exact_match(world.majority_answer(question.field), question.answers)
        passage = passages[question.paragraph]
        assert stated_in(passage.document.text, question.answers)
        assert question.field in passage.fields
        assert passage.group == question.group
        wordings = [text.format(c=question.group) for text in world.RELATIONS[question.field].questions]
        assert [*question.wordings, *question.tested] == wordings
        assert question.asked("train")[-1] == (0, wordings[0])
        assert wordings[-1] not in [text for _, text in question.asked("train")]
        assert question.asked("test")[0] == (3, wordings[-1])
        assert wordings[0] not in [text for _, text in question.asked("test")], "that one chose what is known"


def test_squad_files(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(squad("Lima", "Peru")))
    found = question_set(path)
    assert (found.name, found.reserved, found.groups) == ("own", None, ["Lima", "Peru"])
    first, second = found.questions[:2]
    assert (first.id, first.answers, first.paragraph, first.type) == (
        "own/Lima0",
        ("Ann",),
        "own/Lima/0",
        "name of one word",
    )
    assert (second.answers, second.wordings) == ((), ("Who leads Lima?",))
    assert first.asked("test") == first.asked("train") == [(0, "Who leads Lima?")]
    broken = squad("Lima")
    broken["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
    path.write_text(json.dumps(broken))
    with pytest.raises(FormatError, match="not marked as impossible"):
        question_set(path)


def qed(name: str, title: str, *sentences: str, answer: str = "Ann") -> dict:
    starts = [sum(len(s) + 1 for s in sentences[:i]) for i in range(len(sentences))]
    text = " ".join(sentences)
    row = {"example_id": name, "title_text": title, "question_text": f"who is {name}", "paragraph_text": text}
    return row | {"sentence_starts": starts, "answer_text": [answer]}


def test_qed_files_and_paragraphs_cut_in_two(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = "Ann is the queen of that quite distant land ."
    two = "It has rained there for four hundred years ."
    rows = [qed("1", "A", one, two), qed("2", "B", one, "So ."), qed("3", "B", two, "Ann did it .")]
    rows += [qed("4", "C", "Nothing .", answer=" "), qed("5", "D", two, one, two), qed("6", "E", one, one)]
    with caplog.at_level("INFO", "headwater"):
        found = question_set(write(tmp_path / "nq.jsonlines", *rows))
    assert "1 lines of nq hold no answer in one piece" in caplog.text
    texts = {p.document.id: p.document.text for p in found.passages}
    by_id = {question.id: question for question in found.questions}
    assert [texts["nq/1/0"], texts["nq/1/1"]] == [one, two]
    assert by_id["nq/1"].paragraph == "nq/1/0"
    assert texts[by_id["nq/2"].paragraph] == f"{one} So ."
    assert texts[by_id["nq/3"].paragraph] == f"{two} Ann did it .", "pages with two paragraphs are not cut"
    cut = [text for name, text in texts.items() if name.startswith("nq/5/")]
    assert " ".join(cut) == f"{two} {one} {two}"
    assert len(cut) == 2
    assert "Ann" in texts[by_id["nq/5"].paragraph]
    assert texts[by_id["nq/6"].paragraph] == f"{one} {one}", "where both parts answer, it stays whole"


def test_questions_about_one_page_share_its_parts(tmp_path: Path) -> None:
    one = "Ann is the queen of that quite distant land ."
    two = "It has rained there for four hundred years ."
    rows = [qed("1", "A", one, two), qed("2", "A", one, two), qed("3", "A", one, two, answer="four hundred years")]
    found = question_set(write(tmp_path / "nq.jsonlines", *rows))
    assert [p.document.text for p in found.passages] == [one, two]
    assert [q.paragraph for q in found.questions] == ["nq/1/0", "nq/1/0", "nq/1/1"]


def test_answers_in_several_pieces(tmp_path: Path) -> None:
    text = "Ann and Bob met Eve at the gate of the town ."
    spans = {"first": ["Ann", "Bob"], "second": ["Ann", "Eve"], "third": ["Eve"]}

    def row(name: str, *chosen: str) -> dict:
        answers = [[{"string": each} for each in spans[one]] for one in chosen]
        return {**qed(name, name, text), "original_nq_answers": answers}

    found = question_set(write(tmp_path / "nq.jsonlines", row("1", "first"), row("2", "second"), row("3", *spans)))
    assert {q.id: q.answers for q in found.questions} == {"nq/1": ("Ann and Bob",), "nq/3": ("Eve", "Ann and Bob")}


def test_a_cut_paragraph_is_the_whole_one(tmp_path: Path) -> None:
    one = "Ann is the queen of that quite distant land ."
    two = "It has rained there for four hundred years ."
    cut = question_set(write(tmp_path / "nq.jsonlines", qed("1", "A", one, two)))
    assert len(cut.passages) == 2
    whole = source("e", {"B": f"{one} {two}"})
    assert deal_sets([cut], [whole], (1.0, 0.0, 0.0))[1] == 1
    assert deal_sets([whole], [cut], (1.0, 0.0, 0.0))[1] == 1
    assert without(cut, [f"{one} {two}"])[1] == 1
    for seed in range(6):
        splits, _ = deal_sets([cut, whole], [], (0.4, 0.3, 0.3), seed)
        assert splits["nq", "A"] == splits["e", "B"]


def test_own_files(tmp_path: Path) -> None:
    rows = [
        {"question": ["Who?", "Which?"], "answers": ["Ann"], "document": "Ann.", "others": ["x"], "group": 7},
        {"id": "b", "question": "When?", "answers": ["1990"], "document": {"text": "1990.", "title": "T"}},
        {"question": "Who?", "answers": ["Ann"], "document": "Ann.", "group": "7"},
    ]
    found = question_set(write(tmp_path / "mine.jsonl", *rows))
    assert [q.id for q in found.questions] == ["mine/line-1", "mine/b", "mine/line-3"]
    assert [q.group for q in found.questions] == ["7", "T", "7"]
    assert len(found.passages) == 3, "one text of a group is one passage"
    assert found.questions[0].asked("train") == [(1, "Which?"), (0, "Who?")]
    assert found.passages[2].document.title == "T"


def test_groups_of_own_files_that_name_none(tmp_path: Path) -> None:
    rows = [
        {"question": "Who?", "answers": ["Ann"], "document": "Ann came."},
        {"question": "What did Ann?", "answers": ["came"], "document": "Ann came.", "id": "1"},
        {"question": "When?", "answers": ["1990"], "document": {"text": "1990.", "title": "T"}},
        {"question": "Where?", "answers": ["here"], "document": {"text": "Here.", "title": "T"}},
        {"question": "Why?", "answers": ["so"], "document": "So.", "others": ["Ann came."], "group": "1"},
    ]
    found = question_set(write(tmp_path / "mine.jsonl", *rows))
    assert [q.group for q in found.questions] == ["anncame", "anncame", "T", "T", "1"]
    for seed in range(6):
        splits, _ = deal_sets([found], [], (0.4, 0.3, 0.3), seed)
        assert splits["mine", "anncame"] == splits["mine", "1"], "one passage in common"
    assert len({deal_sets([found], [], (0.4, 0.3, 0.3), seed)[0]["mine", "T"] for seed in range(6)}) > 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Who?"}, "line 1: expected a line such as"),
        ({"question": " ", "answers": ["x"], "document": "x"}, "line 1: the field 'question'"),
        ({"question": "Who?", "answers": "x", "document": "x"}, "'answers' is missing or not a list"),
        ({"question": "Who?", "answers": ["x"], "document": ""}, "line 1: the field 'text'"),
        ({"question": "Who?", "answers": ["x"], "document": 3}, "line 1: the field 'text'"),
        ({"question": "Who?", "answers": ["x"], "document": {"text": "x", "title": 3}}, "title of a document"),
        ({"question": "Who?", "answers": ["x"], "document": "x", "group": [1]}, "the field 'group'"),
        ({"question": "Who?", "answers": ["x"], "document": "x", "others": "y"}, "'others' is missing or not a list"),
        ([1], "expected an object"),
    ],
)
def test_bad_own_files(tmp_path: Path, row, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        question_set(write(tmp_path / "mine.jsonl", row))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no question file"):
        question_set(tmp_path / "missing.json")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(FormatError, match="holds no records"):
        question_set(tmp_path / "empty.jsonl")
    (tmp_path / "none.json").write_text('{"data": []}')
    with pytest.raises(FormatError, match="holds no questions"):
        question_set(tmp_path / "none.json")
    twice = {"id": "a", "question": "Who?", "answers": ["x"], "document": "x"}
    with pytest.raises(FormatError, match="'mine/a' stands twice"):
        question_set(write(tmp_path / "mine.jsonl", twice, twice))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.text(max_size=3), max_size=30),
    st.sampled_from([(0.6, 0.1, 0.3), (0.0, 0.25, 0.75), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3)]),
    st.integers(0, 5),
)
def test_groups_are_dealt_once(names: list[str], shares: tuple[float, ...], seed: int) -> None:
    placed = dict.fromkeys(names[:3], "test")
    found = deal(names, shares, seed, placed)
    assert set(found) == set(names)
    assert found == deal([*reversed(names), *names], shares, seed, placed)
    assert all(found[name] == "test" for name in names[:3])
    free = [split for name, split in found.items() if name not in placed]
    for split, share in zip(SPLITS, shares, strict=True):
        assert abs(free.count(split) - share * len(free)) < 2
        assert share > 0 or split not in free
        if share > 0 and len(free) >= 3:
            assert split in free


def test_bad_shares() -> None:
    for shares in ((0.5, 0.5), (0.5, 0.4, 0.3), (1.5, -0.5, 0.0)):
        with pytest.raises(InputError, match="three numbers that sum to 1"):
            deal(["a"], shares)
    with pytest.raises(InputError, match="Unknown split 'odd'"):
        deal(["a"], placed={"a": "odd"})


def source(name: str, groups: dict[str, str], **more) -> QuestionSet:
    """A question about each group's one passage."""
    passages = tuple(Passage(Document(text, f"{name}/{group}"), group) for group, text in groups.items())
    questions = tuple(
        ProbeQuestion(f"{name}/{group}?", group, ("Who?",), ("Ann",), f"{name}/{group}") for group in groups
    )
    return QuestionSet(name, questions, passages, **more)


def test_what_evaluates_never_trains() -> None:
    train = source("t", {f"g{i}": f"text {i}" for i in range(10)})
    evaluate = source("e", {"G_3": "else", "other": "Text 5!", "third": "more"})
    found, left_out = deal_sets([train], [evaluate], (1.0, 0.0, 0.0))
    assert left_out == 2, "one by its name, one by its passage"
    assert {group for name, group in found if name == "t"} == {f"g{i}" for i in range(10)} - {"g3", "g5"}
    assert {split for (name, _), split in found.items() if name == "e"} == {"development", "test"}
    again, _ = deal_sets([train, source("u", {f"g{i}": f"other {i}" for i in range(10)})], [])
    assert all(again["t", f"g{i}"] == again["u", f"g{i}"] for i in range(10)), "one name, one split"
    spelled = source("v", {f"G_{i}": f"third {i}" for i in range(10)})
    apart, _ = deal_sets([train, spelled], [])
    assert all(apart["t", f"g{i}"] == apart["v", f"G_{i}"] for i in range(10)), "one name in other letters"
    assert len(set(apart.values())) == 3
    linked = source("w", {f"h{i}": f"TEXT {i}." for i in range(10)})
    apart, _ = deal_sets([train, linked], [])
    assert all(apart["t", f"g{i}"] == apart["w", f"h{i}"] for i in range(10)), "one passage in common"
    with pytest.raises(InputError, match="given twice"):
        deal_sets([train], [train])
    less, taken = without(train, ["TEXT 4 ", ""])
    assert (taken, len(less.questions), len(less.passages)) == (1, 9, 9)
    world_only, _ = deal_sets([], [source("w", {c: c for c in "abcd"}, placed={"a": "train", "b": "test"})])
    assert "train" not in world_only.values()
    assert world_only["w", "b"] == "test"


def test_question_sets_are_checked() -> None:
    good = source("s", {"a": "x"})
    with pytest.raises(InputError, match="stands twice"):
        QuestionSet("s", good.questions * 2, good.passages)
    with pytest.raises(InputError, match="passages need ids"):
        QuestionSet("s", (), (*good.passages, *good.passages))
    with pytest.raises(InputError, match="about no passage"):
        QuestionSet("s", good.questions, ())
    with pytest.raises(InputError, match="needs an id"):
        ProbeQuestion("", "g", ("Who?",), (), "p")
    assert source("s", {"a": "x"}).fingerprint == good.fingerprint != source("s", {"a": "y"}).fingerprint


@pytest.mark.parametrize("name", ["qa/squad/squad-dev-v1.1.rebuilt.json", "qa/squad/squad-dev-v2.0.rebuilt.json"])
def test_the_development_set_of_squad_never_trains(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "train-v2.0.json"
    copy.write_bytes(local_data(name).read_bytes())
    found = question_set(copy)
    assert found.reserved == "SQuAD"
    with pytest.raises(InputError, match="development set of SQuAD, which measures and never trains"):
        deal_sets([found], [])
    splits, _ = deal_sets([], [found])
    assert set(splits.values()) == {"development", "test"}


def test_qed_trains_and_its_development_set_does_not() -> None:
    train = question_set(local_data("qa/qed/nq-train-05-qed.jsonlines"))
    development = question_set(local_data("qa/qed/qed-dev.jsonlines"))
    assert (train.reserved, development.reserved) == (None, "QED")
    splits, left_out = deal_sets([train], [development])
    assert left_out > 0
    trained = {group for (name, group), split in splits.items() if name == train.name}
    assert not trained & set(development.groups)
