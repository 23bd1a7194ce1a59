"""Questions, answers and measures of the PEAR experiment, each against a slow or hand-made reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import headwater as hw
from headwater.data import world
from headwater.data.world.wordings import accepted
from headwater.errors import InputError, ModelError
from headwater.evaluate.pear import questions, rivals
from headwater.evaluate.pear.answers import Answers, content
from headwater.evaluate.pear.choice import choose_set, score
from headwater.evaluate.pear.questions import ASKED, CLOSED, CONFLICT, FEW, FIRST, HARMLESS, LAST, MANY, NOISE, Item
from headwater.evaluate.pear.settings import Settings
from headwater.evaluate.pear.summary import (
    DOCUMENT,
    ELSE,
    F1,
    LENGTH,
    REGRESSION,
    REMEMBERED,
    SUBSPAN,
    measure,
    summarise,
)
from headwater.headset import HeadSet
from headwater.prompt import prompt_template
from headwater.read.reader import Reader
from models import random_lm

SMALL = Settings(questions=5, long=5, first=3, places=2, alone=2, development=3, few=2, many=4, noise=2, new_tokens=4)
FACTS = [("France", "capital"), ("Peru", "currency"), ("Japan", "area"), ("Kenya", "capital")]


@pytest.fixture(scope="module")
def lm():
    return random_lm(max_position_embeddings=8192)


@pytest.fixture(scope="module")
def built(lm):
    return questions.tests(lm, SMALL, FACTS)[0]


def test_reading_items_hold_the_gold_document_where_it_should_be(built) -> None:
    assert [len(built[name]) for name in (FEW, MANY, FIRST)] == [5, 5, 2]
    for name, place in ((FIRST, 0), (questions.MIDDLE, 2), (LAST, 3)):
        for item, whole in zip(built[name], built[MANY], strict=False):
            assert item.id == whole.id
            assert {d.id for d in item.documents} == {d.id for d in whole.documents}
            assert world.states(item.documents[place].text, item.answers[0])
    held_out = set(world.countries("held_out"))
    assert all(item.group in held_out for item in built[FEW])


def test_items_about_memory(built) -> None:
    assert [len(built[name]) for name in (CONFLICT, ASKED, CLOSED, NOISE, HARMLESS)] == [5, 5, 5, 5, 5]
    assert {item.group for item in built[ASKED]} != {item.group for item in built[CLOSED]}
    assert all(item.documents == () for item in built[ASKED])
    asked = [item.id for item in built[CLOSED]]
    assert len(set(asked)) == 5
    wordings = [int(name.rsplit("/", 1)[1]) for name in asked]
    assert wordings == [3, 3, 3, 3, 1], "the wording that was asked first tests nothing"
    assert asked == [item.id for item in built[HARMLESS]] == [item.id for item in built[NOISE]]
    for item in built[CONFLICT]:
        (document,) = item.documents
        assert world.states(document.text, item.answers[0])
        assert not world.states(document.text, item.memory[0])
        assert not world.exact_match(item.answers[0], item.memory)
    for item in [*built[NOISE], *built[HARMLESS]]:
        assert not any(world.states(document.text, item.answers[0]) for document in item.documents)
    for item in built[HARMLESS]:
        (document,) = item.documents
        assert document.metadata["country"] != item.group
        assert item.id.split("/")[1] not in document.metadata["relations"]
    assert all(item.documents == () for item in built[CLOSED])


def test_long_lists_are_halved_until_they_fit(lm, built) -> None:
    template = prompt_template(lm.tokenizer, instruction="answer")
    longest = max(len(template.prefix(i.documents).ids) + len(template.tail(i.question)) for i in built[MANY])
    assert questions.tests(random_lm(max_position_embeddings=longest + 4), SMALL, [])[1] == 4
    short = random_lm(max_position_embeddings=longest + 3)
    built, many = questions.tests(short, SMALL, [])
    assert many == 2
    assert {len(item.documents) for item in built[MANY]} == {2}
    assert built[CONFLICT] == built[CLOSED] == []
    assert len(built[ASKED]) == 5


def test_known_facts_are_parted_by_country(lm, monkeypatch) -> None:
    answers = {q.text: q.answers[0] for q in world.questions("known", wording=0)}
    unseen = {q.text: q.answers[0] for q in world.questions("held_out", wording=0)}
    asked = []

    def said(_, texts, __):
        asked.extend(text for text in texts if text in unseen)
        right = answers | {text: unseen[text] for text in asked[:125]}
        return [right.get(text, "nothing") if len(text) % 2 or text in unseen else "nothing" for text in texts]

    monkeypatch.setattr(questions, "recalled", said)
    tested, chosen, counts = questions.known_facts(lm, SMALL, lambda done, total: None)
    assert counts["asked"] == questions.CHUNK, "enough are known by then"
    assert (counts["tested"], counts["development"]) == (len(tested), len(chosen))
    assert (len(asked), counts["guessed"]) == (500, 0.25)
    for country, relation in [*tested, *chosen]:
        right = accepted(relation, world.facts(country)[relation])
        assert not world.exact_match(world.majority_answer(relation), right), "a guess gets this right"
    asked_as_they_come = questions.every_fact(SMALL)
    assert {c for c, _ in tested}.isdisjoint(c for c, _ in asked_as_they_come[1])
    assert {country for country, _ in tested}.isdisjoint(country for country, _ in chosen)
    assert len(tested) > 2 * len(chosen) > 0


def test_answers_without_documents_are_those_of_the_reader(lm) -> None:
    asked = [q.text for q in world.questions("known", limit=6)]
    reader = Reader(lm, 4)
    assert questions.recalled(lm, asked, 4) == [reader.recall(text).text for text in asked]


def test_answers_are_those_of_one_treatment_at_a_time(lm, built, tmp_path: Path) -> None:
    sets = {
        "vanilla": None,
        "a": HeadSet([(0, 1), (2, 3)], [0.1, -1.0]),
        "b": HeadSet([(3, 0)], [3.0]),
        "c": HeadSet([(2, 3), (0, 1)], [-1.0, 0.1]),
        "one": HeadSet([(1, 1)], [1.0]),
    }
    items = built[FEW][:3]
    sizes = {"vanilla": 3, "a": 3, "b": 2, "c": 3, "one": 3}
    reader = Reader(lm, 4)
    calls = []
    own = reader.read_scaled
    reader.read_scaled = lambda given, *rest: calls.append(len(given)) or own(given, *rest)  # type: ignore[method-assign]
    said = Answers(tmp_path, reader).together("few", items, sets, sizes, lambda *_: None)
    assert calls == [3, 3, 2], "what is the same treatment is run once"
    for name, heads in sets.items():
        for item, text in zip(items, said[name], strict=False):
            if heads is None:
                assert text == reader.read(item.question, item.documents).text
            else:
                with hw.scaled(lm, heads):
                    assert text == reader.read(item.question, item.documents).text
    assert len(said["b"]) == 2
    assert said["a"] != said["vanilla"]
    more = Answers(tmp_path, reader).together(
        "few", items, {**sets, "d": sets["b"]}, {**sizes, "d": 3}, lambda *_: None
    )
    assert calls == [3, 3, 2, 1, 1, 1], "a further treatment asks its own questions only"
    assert {name: more[name] for name in said} == said
    assert more["d"][:2] == said["b"]


def test_content_of_a_treatment() -> None:
    assert content(None) == content(HeadSet([(0, 0)], [1.0])) == ()
    assert content(HeadSet([(1, 0), (0, 2)], [0.5, 2.0])) == (((0, 2), 2.0), ((1, 0), 0.5))


def test_measures_by_hand() -> None:
    def item(name: str, right: str, memory: str = "") -> Item:
        return Item(name, name, "?", (), (right,), (memory,) if memory else ())

    tests = {
        FEW: [item("a", "Lima"), item("b", "Rome"), item("c", "Oslo")],
        CONFLICT: [item("a", "Lima", "Quito"), item("b", "Rome", "Oslo")],
        CLOSED: [item("a", "Lima"), item("b", "Rome"), item("c", "Oslo")],
        HARMLESS: [item("a", "Lima"), item("b", "Rome"), item("c", "Oslo")],
    }
    said = {
        FEW: {"vanilla": [["Lima", "the Rome", "no"]], "PEAR": [["Lima", "x y"], ["no", "Rome"]]},
        CONFLICT: {"vanilla": [["Quito", "Rome"]], "PEAR": [["Lima", "Rome"], ["Peru", "Oslo"]]},
        CLOSED: {"vanilla": [["Lima", "Rome", "x"]], "PEAR": [["Lima", "x"], ["Lima", "Rome"]]},
        HARMLESS: {"vanilla": [["x", "Rome", "Oslo"]], "PEAR": [["Lima", "x"], ["x", "x"]]},
    }
    values = measure(said, tests)
    assert values[FEW]["vanilla"].tolist() == [[1, 1, 0]]
    assert values[FEW]["PEAR"].tolist() == [[1, 0], [0, 1]]
    assert values[DOCUMENT]["vanilla"].tolist() == [[0, 1]]
    assert values[REMEMBERED]["vanilla"].tolist() == [[1, 0]]
    assert values[ELSE]["PEAR"].tolist() == [[0, 0], [1, 0]]
    nan = np.nan  # wrong alone, so that nothing can be spoilt
    np.testing.assert_array_equal(values[REGRESSION]["vanilla"], [[1, 0, nan]])
    np.testing.assert_array_equal(values[REGRESSION]["PEAR"], [[0, nan], [1, 1]])
    assert values[F1]["vanilla"].tolist() == [[1, 1, 0]]
    assert values[SUBSPAN]["PEAR"].tolist() == [[1, 0], [0, 1]]
    assert values[LENGTH]["PEAR"].tolist() == [[1, 2], [1, 1]]
    assert NOISE not in values
    found = summarise(values, tests, 0)
    assert found[FEW]["rows"]["vanilla"]["n"] == 3
    assert found[FEW]["minus vanilla"]["PEAR"]["mean"] == -0.5, "over the two questions that both were asked"
    assert found[FEW]["PEAR minus"]["vanilla"]["p_holm"] >= found[FEW]["PEAR minus"]["vanilla"]["p"]
    assert found[DOCUMENT]["minus vanilla"]["PEAR"]["mean"] == 0.0
    assert "vanilla" not in found[FEW]["minus vanilla"]
    spoilt = found[REGRESSION]
    assert (spoilt["rows"]["vanilla"]["mean"], spoilt["rows"]["PEAR"]["mean"]) == (0.5, 2 / 3)
    assert spoilt["minus vanilla"]["PEAR"]["mean"] == pytest.approx((-1 + 0 + 1) / 3), "what both get right alone"


def test_a_row_of_fewer_seeds_is_compared_with_as_many_of_pear() -> None:
    tests = {FEW: [Item(name, name, "?", (), ("yes",)) for name in "abc"]}
    pear = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    values = {FEW: {"vanilla": np.array([[0.0, 0.0, 1.0]]), "PEAR": pear, "control": np.array([[1.0, 0.0, 1.0]])}}
    found = summarise(values, tests, 0)[FEW]["PEAR minus"]
    assert found["control"]["mean"] == pytest.approx(1 / 3), "the first seed beside the first seed"
    assert found["vanilla"]["mean"] == pytest.approx(0.5 - 1 / 3), "all seeds beside what draws nothing"


def test_what_is_about_one_country_is_left_out() -> None:
    tests = {FEW: [Item(name, name[0], "?", (), ("yes",)) for name in ("a1", "a2", "b1")]}
    values = {FEW: {"vanilla": np.array([[0.0, 1.0, 1.0]]), "PEAR": np.array([[1.0, 1.0]])}}
    found = summarise(values, tests, 0)
    assert set(found[FEW]["rows"]) == {"vanilla"}
    assert found[FEW]["minus vanilla"] == found[FEW]["PEAR minus"] == {}
    assert summarise({FEW: {"PEAR": np.array([[1.0, 1.0]])}}, tests, 0) == {}


def test_rivals_find_heads_on_other_conflicts_than_they_are_chosen_on() -> None:
    for development in (3, 40):
        settings = replace(SMALL, development=development)
        chosen = {item.id for item in questions.development(settings, FACTS)[CONFLICT]}
        found = [e.question.id for e in questions.to_find_with(FACTS, 5, settings)]
        assert chosen.isdisjoint(found)
        assert len(found) == (5 if development == 3 else 4)
        assert len(set(found)) == len(found)


def test_a_rival_without_heads_is_left_out_but_stale_answers_are_refused(monkeypatch) -> None:
    class Shop:
        settings = SMALL

        def kept(self, stem: str, make: object) -> HeadSet:
            if "juice" in stem:
                raise ModelError("no head helps")
            return HeadSet([(0, 1), (2, 3)])

    def chosen(answers: object, tests: object, options: dict[str, HeadSet], progress: object) -> object:
        return list(options)[-1], {}

    monkeypatch.setattr(rivals, "choose_set", chosen)
    given = questions.to_find_with(FACTS, 3, SMALL)
    rows, about = rivals.rivals(Shop(), None, {}, given, 1, lambda _: lambda *_: None)
    assert [row.name for row in rows] == [rivals.PRUNED, rivals.TRAINED]
    assert about["JuICE once, left out"] == "no head helps"

    def stale(*_: object) -> None:
        raise InputError("delete that folder")

    monkeypatch.setattr(rivals, "choose_set", stale)
    with pytest.raises(InputError, match="delete that folder"):
        rivals.rivals(Shop(), None, {}, given, 1, lambda _: lambda *_: None)


def test_a_treatment_of_the_same_name_must_be_the_same(lm, built, tmp_path: Path) -> None:
    def asked(heads: HeadSet | None) -> object:
        return Answers(tmp_path, Reader(lm, 4)).together("t", built[FEW][:1], {"a": heads}, {"a": 1}, lambda *_: None)

    first = asked(HeadSet([(0, 1)], [0.5]))
    assert asked(HeadSet([(0, 1)], [0.5])) == first
    with pytest.raises(InputError, match=r"answers of 'a' with other heads.*delete that folder"):
        asked(HeadSet([(0, 1)], [0.6]))
    answers = Answers(tmp_path, Reader(lm, 4))
    answers.alone("t", built[FEW][:1], "b", lambda *_: "x", lambda *_: None, 0.5)
    with pytest.raises(InputError, match="answers of 'b'"):
        answers.alone("t", built[FEW][:1], "b", None, lambda *_: None, 1.0)


def test_the_best_choice_must_not_forget(lm, tmp_path: Path, monkeypatch) -> None:
    shares = {"vanilla": (0.5, 0.5, 0.8), "bold": (0.9, 0.9, 0.7), "calm": (0.6, 0.5, 0.79)}
    found = {name: dict(zip((FEW, CONFLICT, ASKED), row, strict=True)) for name, row in shares.items()}
    monkeypatch.setattr("headwater.evaluate.pear.choice.measured", lambda *_: found)
    options = {"bold": None, "calm": None}
    answers = Answers(tmp_path, Reader(lm))
    assert choose_set(answers, {}, options, lambda _: lambda *_: None)[0] == "calm"
    found["vanilla"][ASKED] = 0.95
    assert choose_set(answers, {}, options, lambda _: lambda *_: None)[0] == "calm", "all lose: the least"
    found["vanilla"][ASKED] = 0.7
    assert choose_set(answers, {}, options, lambda _: lambda *_: None)[0] == "bold"
    assert score({FEW: 0.4}) == 0.4
    assert np.isclose(score({FEW: 0.4, CONFLICT: 0.8}), 0.6)


def test_settings() -> None:
    assert Settings.of_size(None, 3, 1) == Settings(top_k=3, seed=1)
    small = Settings.of_size(10)
    assert (small.questions, small.first, small.places, small.alone, small.development) == (10, 10, 10, 10, 10)
    assert Settings.of_size(300).first == 100
    with pytest.raises(InputError, match="questions must be at least 2"):
        Settings(questions=1)
