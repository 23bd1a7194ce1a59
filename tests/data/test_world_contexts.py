"""Edited documents, noise, needles and two-hop questions hold exactly what they should, and no more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data import world
from headwater.errors import InputError

HAY = [f"Paragraph {i} speaks of the weather and of nothing else, for as long as it takes." for i in range(60)]
HAY += ["Algiers was hot.", "She had never been to Peru."]


def values(doc):
    return [world.facts(doc.title)[r] for r in doc.metadata["relations"]]


@pytest.mark.parametrize(
    ("split", "documents", "hard"), [("known", 1, False), ("held_out", 5, False), ("known", 5, True)]
)
def test_a_conflict_states_another_answer_and_nowhere_the_true_one(split, documents, hard):
    examples = world.conflict_examples(split, 300, documents, seed=2, hard=hard)
    assert len({e.question.id for e in examples}) == 300
    for e in examples:
        (place,) = e.gold
        edited = e.documents[place]
        assert len(e.documents) == documents
        assert edited.title == e.question.country
        assert edited.id.endswith("/edited")
        statement = world.RELATIONS[e.question.relation].statement.format(c=edited.title)
        assert f"{statement} {e.stated[0]}." in edited.text
        assert not set(map(world.normalise, e.stated)) & set(map(world.normalise, e.question.answers))
        for index, doc in enumerate(e.documents):
            for relation, value in zip(doc.metadata["relations"], values(doc), strict=True):
                if index == place and relation == e.question.relation:
                    continue
                assert not world.states(value, e.question.answers[0])
                assert not world.states(value, e.stated[0])


def test_an_edited_answer_is_one_of_the_relation():
    for e in world.conflict_examples("development", 100):
        assert e.stated[0] in {world.facts(c).get(e.question.relation) for c in world.countries("known")}


@pytest.mark.parametrize("hard", [False, True])
def test_noise_does_not_hold_the_answer(hard):
    for e in world.noise_examples("known", 300, documents=4, hard=hard):
        assert len(e.documents) == 4
        assert e.gold == ()
        assert e.stated == ()
        assert not any(world.states(v, e.question.answers[0]) for doc in e.documents for v in values(doc))
        about = [doc.title == e.question.country for doc in e.documents]
        assert sum(about) == 2
        for doc, own in zip(e.documents, about, strict=True):
            assert (e.question.relation in doc.metadata["relations"]) != own


def test_reading_examples_about_known_countries_agree_with_memory():
    for e in world.reading_examples("known", 50):
        assert e.stated == e.question.answers
        assert world.states(e.documents[e.gold[0]].text, e.stated[0])


@given(length=st.integers(400, 3000), depth=st.one_of(st.none(), st.floats(0, 1)), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_a_needle_stands_where_its_metadata_says(length, depth, seed):
    for e in world.needle_examples("held_out", 3, HAY, length, depth, seed=seed):
        (doc,) = e.documents
        assert length - 2 * len(HAY[10]) < len(doc.text) <= length
        needle = doc.text[doc.metadata["start"] : doc.metadata["end"]]
        assert world.states(needle, e.question.answers[0])
        assert world.states(needle, e.question.country)
        rest = doc.text[: doc.metadata["start"]] + doc.text[doc.metadata["end"] :]
        assert not world.states(rest, e.question.country)
        if depth is not None:
            assert abs(doc.metadata["depth"] - depth) < 0.35


def test_needles_at_both_ends_and_in_words():
    count = lambda text: len(text.split())  # noqa: E731
    first = world.needle_examples("held_out", 5, HAY, 200, depth=0.0, measure=count)
    last = world.needle_examples("held_out", 5, HAY, 200, depth=1.0, measure=count)
    assert all(e.documents[0].metadata["start"] == 0 for e in first)
    assert all(e.documents[0].metadata["end"] == len(e.documents[0].text) for e in last)
    assert all(150 < count(e.documents[0].text) <= 200 for e in first + last)


def test_a_size_that_does_not_add_up_is_kept_all_the_same():
    def size(text):
        return len(text) + 40 * text.count("\n") ** 2

    examples = world.needle_examples("held_out", 5, HAY, 1500, measure=size)
    assert all(1000 < size(e.documents[0].text) <= 1500 for e in examples)


def test_borders():
    assert world.neighbours("Algeria")["Libya"] == "989 km"
    assert world.neighbours("Iceland") == {}
    known = set(world.countries())
    assert all(set(world.neighbours(c)) <= known - {c} for c in known)
    doc = world.border_document("Algeria", ["Libya", "Mali"])
    assert doc.text == "The border of Algeria with Libya is 989 km. The border of Algeria with Mali is 1,359 km."


def test_two_hops_need_both_documents():
    examples = [e for seed in range(4) for e in world.hop_examples("held_out", 60, documents=6, seed=seed)]
    examples += world.hop_examples("known", 300, documents=6)
    for e in examples:
        bridge, gold = (e.documents[i] for i in e.gold)
        assert len(e.documents) == len({d.id for d in e.documents}) == 6
        assert bridge.title == e.question.country
        other = gold.title
        length = world.neighbours(e.question.country)[other]
        assert f"with {other} is {length}." in bridge.text
        assert length in e.question.text
        assert e.question.country in e.question.text
        assert other not in e.question.text.replace(e.question.country, "")
        assert world.facts(other)[e.question.relation] == e.question.answers[0]
        assert not world.states(bridge.text, e.question.answers[0])
        for doc in e.documents:
            if doc not in (bridge, gold):
                assert not any(world.states(v, e.question.answers[0]) for v in values(doc))
        assert sum(d.title == other for d in e.documents) == 3  # gold and half of the distractors
    assert all(e.question.id.endswith("/2") for e in world.hop_examples("held_out", 20, wording=-1))


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: world.conflict_examples("known", 20, 3, seed),
        lambda seed: world.noise_examples("known", 20, 3, seed),
        lambda seed: world.hop_examples("known", 20, 4, seed),
        lambda seed: world.needle_examples("known", 20, HAY, 900, seed=seed),
    ],
)
def test_same_seed_same_examples(build):
    assert build(1) == build(1)
    assert build(1) != build(2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: world.conflict_examples("test", 5),
        lambda: world.conflict_examples("known", 10**6),
        lambda: world.conflict_examples("known", 5, documents=0),
        lambda: world.noise_examples("known", -1),
        lambda: world.noise_examples("development", 5, documents=500),
        lambda: world.needle_examples("known", 5, HAY, 20),
        lambda: world.needle_examples("known", 5, HAY, 900, depth=1.5),
        lambda: world.needle_examples("known", 5, [], 900),
        lambda: world.needle_examples("known", 5, "one string", 900),
        lambda: world.hop_examples("known", 5, documents=1),
        lambda: world.hop_examples("known", 5, wording=3),
        lambda: world.hop_examples("known", 10**5),
        lambda: world.border_document("Algeria", ["Peru"]),
        lambda: world.border_document("Iceland", []),
        lambda: world.neighbours("Atlantis"),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(InputError):
        call()
