"""Conflicts between documents and memory: checks, sentences, files."""

import json

import pytest

import headwater as hw
from headwater.data.conflict import (
    ConflictExample,
    as_conflicts,
    built_in_conflicts,
    conflict_fingerprint,
    read_conflicts,
)
from headwater.data.world import conflict_examples, states
from headwater.errors import FormatError, InputError


def test_built_in_conflicts_contradict_the_truth_and_are_not_those_of_the_bench():
    found = built_in_conflicts(12)
    asked = {example.question.text for example in conflict_examples("known", 20)}
    assert len(found) == 12
    for example in found:
        (document,) = example.shown
        assert states(document.text, example.context)
        assert not states(document.text, example.memory)
        assert states(example.sentence, example.context)
        assert len(example.sentence) < len(document.text)
        assert example.question not in asked
        assert example.group == document.title
    assert found[:4] == built_in_conflicts(4)


def test_examples_of_the_world_become_conflicts():
    given = conflict_examples("known", 3, documents=2, seed=1)
    for example, was in zip(as_conflicts(given), given, strict=True):
        assert (example.question, example.group) == (was.question.text, was.question.country)
        assert (example.context, example.memory) == (was.stated[0], was.question.answers[0])
        assert example.documents == was.documents
    assert as_conflicts(as_conflicts(given)) == as_conflicts(given)


def test_a_full_stop_inside_an_answer_does_not_part_it():
    text = "It is warm. The top is Mt. Foo. It is high."
    example = ConflictExample("Which top?", ["Nothing.", text], "Mt. Foo", "Bar")
    assert example.sentence == "The top is Mt. Foo."
    assert example.group == "Which top?"


def test_fingerprints_tell_examples_apart():
    one, other = (ConflictExample("Which?", [text], "a", "b") for text in ("a c", "a d"))
    assert conflict_fingerprint([one]) != conflict_fingerprint([other])
    assert conflict_fingerprint([one, other]) == conflict_fingerprint([one, other])


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((" ", ["x"], "a", "b"), "blank"),
        (("q", [], "a", "b"), "no documents"),
        (("q", [" "], "a", "b"), "no documents"),
        (("q", "x", "a", "b"), "list of documents"),
        (("q", ["x"], " ", "b"), "context to 'q' is blank"),
        (("q", ["x"], "a", 3), "must be a string"),
        (("q", ["x"], "The Hague", "hague"), "same answer"),
    ],
)
def test_bad_examples(parts, words):
    with pytest.raises(InputError, match=words):
        ConflictExample(*parts)


def test_bad_lists():
    with pytest.raises(InputError, match="no conflicts"):
        as_conflicts([])
    with pytest.raises(InputError, match="RankingExample"):
        as_conflicts([hw.RankingExample("q", ["x", "y"], [0])])
    with pytest.raises(InputError, match="same answer"):
        as_conflicts(hw.world.reading_examples("known", 1))
    with pytest.raises(InputError, match="states the answer 'a b'"):
        _ = ConflictExample("q", ["x y"], "a b", "c").sentence


def test_files(tmp_path):
    path = tmp_path / "c.jsonl"
    good = {"question": "q", "documents": ["a c", {"text": "d", "title": "t"}], "context": "a", "memory": "b"}
    path.write_text(json.dumps(good) + "\n\n" + json.dumps({**good, "group": "g"}))
    first, second = read_conflicts(path)
    assert [document.title for document in first.shown] == [None, "t"]
    assert (first.group, second.group) == ("q", "g")
    with pytest.raises(InputError, match="no file of conflicts"):
        read_conflicts(tmp_path / "missing")
    for line, words in (
        ({**good, "context": "b"}, "line 1: Documents and memory"),
        ({"question": "q"}, "line 1: the field 'documents'"),
        ({**good, "documents": "a c"}, "not a list"),
        ({**good, "documents": [3]}, "must be text or an object"),
        ({**good, "group": 3}, "The group must be a string"),
    ):
        path.write_text(json.dumps(line))
        with pytest.raises(FormatError, match=words):
            read_conflicts(path)
    path.write_text("\n")
    with pytest.raises(FormatError, match="holds no conflicts"):
        read_conflicts(path)
