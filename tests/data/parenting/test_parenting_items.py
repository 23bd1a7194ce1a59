"""Items on disk, the match rule, and what a probe says about a question."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data.abstain import abstains
from headwater.data.parenting.items import (
    KINDS,
    ROLES,
    ItemDocument,
    ParentingItem,
    extraction_target,
    items_fingerprint,
    load_items,
    save_items,
)
from headwater.data.parenting.match import hits, same, stated_in, verdict
from headwater.data.parenting.questions import ProbeQuestion, answer_type
from headwater.data.parenting.records import ProbeRecord, label
from headwater.errors import FormatError, InputError

WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
DOCUMENTS = st.builds(ItemDocument, WORD, st.sampled_from(sorted(ROLES)), st.none() | WORD, st.none() | WORD)
ITEMS = st.builds(
    ParentingItem,
    id=WORD.map(lambda text: f"s/{text}#0/a"),
    group=WORD.map(lambda text: f"g{text}"),
    kind=st.sampled_from(KINDS),
    question=WORD.map(lambda text: f"{text}?"),
    documents=st.lists(DOCUMENTS, max_size=3).map(tuple),
    target=WORD,
    gold=st.lists(WORD, max_size=2).map(tuple),
    memory=WORD,
    probe=st.fixed_dictionaries({"greedy": WORD, "samples": st.lists(WORD, max_size=2), "label": st.just("known")}),
    stated=st.lists(WORD, max_size=2).map(tuple),
)


@settings(deadline=None, max_examples=30)
@given(st.lists(ITEMS, max_size=3, unique_by=lambda item: item.id))
def test_items_come_back_from_disk(items: list[ParentingItem]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save_items(items, Path(folder) / "new" / "a.jsonl")
        assert load_items(path) == items
        assert [dict(item.probe) for item in load_items(path)] == [dict(item.probe) for item in items]
        assert items_fingerprint(load_items(path)) == items_fingerprint(items)


def item(**other) -> ParentingItem:
    given = {"id": "s/q#1/a", "group": "g", "kind": "a", "question": "Who?", "target": "Ann", "gold": ("Ann",)}
    return ParentingItem(**{**given, "documents": (ItemDocument("Ann did.", "gold"),), **other})


def test_whose_answer_is_right() -> None:
    known = {"greedy": "Ann", "label": "known"}
    assert item().source == "s/q"
    assert item().right == ("Ann",)
    edited = item(stated=("Bob",), documents=(ItemDocument("Bob did.", "edited"),), memory="Ann Lee", probe=known)
    assert edited.in_documents == edited.right == ("Bob",)
    assert edited.in_memory == ("Ann Lee", "Ann"), "a right memory may be said in every accepted way"
    noise = item(kind="r", documents=(ItemDocument("It rained.", "off_topic"),), memory="Ann", probe=known)
    assert (noise.in_documents, noise.right) == ((), ("Ann", "Ann"))
    wrong = item(memory="Eve", probe={"label": "wrong"})
    assert (wrong.right, wrong.in_memory) == (("Ann",), ("Eve",))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"kind": "b"}, "Unknown kind"),
        ({"question": " "}, "blank"),
        ({"group": ""}, "needs an id and a group"),
        ({"gold": "Ann"}, "must be a list"),
        ({"documents": ("Ann did.",)}, "ItemDocument"),
        ({"probe": 3}, "must be a mapping"),
        ({"memory": None}, "memory of an item must be a string"),
    ],
)
def test_bad_items(other, message: str) -> None:
    with pytest.raises(InputError, match=message):
        item(**other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"docs": 3}, "line 1: the field 'docs'"),
        ({"docs": [{"text": "x", "role": "odd"}]}, "line 1: Unknown role 'odd'"),
        ({"docs": [{"text": "x"}]}, "line 1: .*role"),
        ({"odd": 1}, "line 1: .*'odd'"),
        ({"kind": "b"}, "line 1: Unknown kind"),
    ],
)
def test_damaged_lines(tmp_path: Path, change, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({**item().record(), **change}) + "\n")
    with pytest.raises(FormatError, match=message):
        load_items(tmp_path / "a.jsonl")


def test_items_that_stand_twice_or_nowhere(tmp_path: Path) -> None:
    save_items([item(), item()], tmp_path / "a.jsonl")
    with pytest.raises(FormatError, match=r"line 2.*stands twice"):
        load_items(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="no file of items"):
        load_items(tmp_path / "b.jsonl")
    assert items_fingerprint([item()]) != items_fingerprint([item(target="Bob")])


def test_what_extraction_writes() -> None:
    shown = [ItemDocument("x", "off_topic"), ItemDocument(" Ann did.\n", "edited"), ItemDocument("y", "same_topic")]
    assert extraction_target(shown) == "[1] other topic\n[2] relevant\n[3] same topic\nAnn did."
    with pytest.raises(InputError, match="exactly one"):
        extraction_target(shown[:1])


@pytest.mark.parametrize(
    ("output", "answer", "hit"),
    [
        ("It was the Broncos.", "Denver Broncos", False),
        ("the DENVER  Broncos won", "Denver Broncos", True),
        ("\n\n Ｄｅｎｖｅｒ", "denver", True),  # full-width letters
        ("He said so.\nDenver", "Denver", False),  # only the first line
        ("29", "2.9", False),
        ("about 2.9 km", "2.9", True),
        ("1,500 people", "1500", True),
        ("It was 1939-1945.", "1939", True),
        ("UTC-1", "UTC+1", False),
        ("the cathedral", "the", False),
        ("O\u2019Neil", "O'Neil", True),
        ("Denver's walls", "Denver", True),
        ("DENVER\u2019S walls", "denver", True),
        ("the Broncos' win", "Broncos", True),
        ("the 1990's", "1990", True),
        ("rock 'n' roll", "rock n roll", True),
        ("Denvers", "Denver", False),
        ("首都是东京。", "东京", True),
        ("东 京", "东京", True),
        ("京东", "东京", False),
        ("word " * 32 + "Denver", "Denver", False),
        ("word " * 31 + "Denver", "Denver", True),
        ("anything", "...", False),
        ("", "Denver", False),
    ],
)
def test_the_match_rule(output: str, answer: str, hit: bool) -> None:
    assert hits(output, answer) is hit
    assert hits(output, [answer, "never"]) is hit


def test_whose_answer_an_output_gives() -> None:
    assert verdict("Bob", ["Bob"], ["Ann"]) == "document"
    assert verdict("It was Ann.", ["Bob"], ["Ann"]) == "memory"
    assert verdict("Ann, not Bob", ["Bob"], ["Ann"]) == "both"
    assert verdict("no idea", ["Bob"], []) == "neither"
    assert same("the Bob.", ["bob"])
    assert not same("It was Bob", ["bob"])
    assert not same("", [""])
    assert stated_in("one\ntwo Bob", "bob")


PLAIN = st.lists(st.sampled_from(["ann", "Bob", "1,5", "é", "-3", "eve's", "東京"]), min_size=1, max_size=4)


@settings(deadline=None, max_examples=50)
@given(PLAIN, PLAIN, PLAIN)
def test_an_answer_among_words_is_found(before: list[str], answer: list[str], after: list[str]) -> None:
    assert hits(" ".join([*before, *answer, *after]), "  the ".join(answer) + "!")
    assert not hits(" ".join(before), " ".join([*before, "more"]))


@pytest.mark.parametrize(
    ("greedy", "samples", "answers", "verdict"),
    [
        (["Ann"], ["Ann"] * 6 + ["Bob"] * 2, ["Ann"], "known"),
        (["Ann"], ["Ann"] * 5 + ["Bob"] * 3, ["Ann"], "unknown"),
        (["Ann", "Bob"], ["Ann"] * 8, ["Ann"], "unknown"),  # one wording fails
        (["Ann", "Ann Lee"], ["Ann"] * 8, ["Ann"], "known"),
        (["Bob"], ["Bob"] * 4 + ["Eve"] * 4, ["Ann"], "wrong"),
        (["Bob"], ["Bob"] * 3 + ["Eve"] * 5, ["Ann"], "unknown"),
        (["I don't know"], ["I don't know"] * 8, ["Ann"], "unknown"),
        ([""], [""] * 8, ["Ann"], "unknown"),
        (["Bob"], ["Bob"] * 8, [], "wrong"),  # believed, and nothing says what is true
        (["Ann"], [], ["Ann"], "known"),
    ],
)
def test_labels(greedy: list[str], samples: list[str], answers: list[str], verdict: str) -> None:
    assert label(greedy, samples, answers) == verdict


def test_a_probe_of_another_question_is_refused() -> None:
    question = ProbeQuestion("q", "g", ("Who?", "Which one?"), ("Ann",), "d")
    record = ProbeRecord("q", ("Who?",), ("Ann",), ("Ann",), ("Bob",), "unknown")
    assert ProbeRecord.of(question, 1, json.loads(json.dumps(record.record()))) == record
    for other in ({"answers": ["Bob"]}, {"asked": ["What?"]}):
        with pytest.raises(InputError, match="other words or answers"):
            ProbeRecord.of(question, 1, {**record.record(), **other})
    with pytest.raises(InputError, match="other words"):
        ProbeRecord.of(question, 2, record.record())
    with pytest.raises(InputError, match="not whole"):
        ProbeRecord.of(question, 1, {"asked": ["Who?"], "answers": ["Ann"]})
    cut = ProbeRecord("q", ("Who?",), ("Ann",), ("Ann and",), (), "unknown", ended=False)
    assert ProbeRecord.of(question, 1, json.loads(json.dumps(cut.record()))) == cut


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("1987", "year"),
        ("3 May 1987", "date"),
        ("45", "number"),
        ("$45 million", "number of something"),
        ("Bill Cobbs", "name"),
        ("Paris", "name of one word"),
        ("University of the Arts", "name"),
        ("in the mitochondria", "phrase"),
        ("the", "phrase"),
    ],
)
def test_types_of_answers(answer: str, kind: str) -> None:
    assert answer_type(answer) == kind


def test_declining() -> None:
    """More of it in tests/evaluate/test_answers.py."""
    assert abstains("I don\u2019t know.")
    assert not abstains("Don Quixote")
    assert label(["Not sure."], ["Not sure."] * 8, ["Ann"]) == "unknown"
