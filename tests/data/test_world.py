"""The fact world: splits, documents, questions and candidate lists are what their docstrings say, and deterministic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.data import world
from headwater.errors import InputError


def test_splits_are_disjoint_and_of_the_stated_size():
    parts = [set(world.countries(split)) for split in world.SPLITS]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert set.union(*parts) == set(world.countries())
    assert len(world.countries("held_out")) == 40
    assert len(world.countries("development")) == 24
    assert len(world.countries("known")) > 140


def test_relations():
    kinds = [r.kind for r in world.RELATIONS.values()]
    assert len(kinds) >= 25
    assert kinds.count("number") <= len(kinds) / 2
    for relation in world.RELATIONS.values():
        assert len(relation.questions) >= 3
        assert len(set(relation.questions)) == len(relation.questions)
        assert all("{c}" in wording for wording in relation.questions)


def test_answers_are_short_and_clean():
    for country in world.countries():
        for relation, answer in world.facts(country).items():
            assert 0 < len(answer) <= 60, (country, relation, answer)
            assert not set(answer) & set('()&;\n"') or "&" in answer, (country, relation, answer)
            assert "est." not in answer
            assert answer == answer.strip()
            assert world.normalise(answer), (country, relation, answer)
    assert world.facts("Algeria")["capital"] == "Algiers"
    assert world.facts("Peru")["highest_point"] == "Nevado Huascaran"


@pytest.mark.parametrize("split", world.SPLITS)
def test_every_fact_stands_in_exactly_one_document(split):
    seen = {}
    for doc in world.documents(split):
        assert doc.title in world.countries(split)
        assert 1 <= len(doc.metadata["relations"]) <= 4
        assert len(doc.text) <= 2 * world.LONGEST_DOCUMENT
        for relation in doc.metadata["relations"]:
            seen[doc.title, relation] = doc
            assert world.states(doc.text, world.facts(doc.title)[relation])
    assert len(seen) == sum(len(world.facts(c)) for c in world.countries(split))
    assert sum(len(d.metadata["relations"]) for d in world.documents(split)) == len(seen)


def test_document_ids_are_unique():
    ids = [doc.id for doc in world.documents()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("split", ["development", "held_out"])
@pytest.mark.parametrize("hard", [False, True])
def test_only_the_gold_document_states_the_answer(split, hard):
    answers = {q.id: q for q in world.questions(split, seed=3)}
    examples = world.ranking_examples(split, 500, candidates=20, seed=3, hard=hard)
    assert len({e.id for e in examples}) == 500
    for example in examples:
        question = answers[example.id]
        assert example.query == question.text
        assert example.group == question.country
        assert len(example.documents) == 20
        assert len({d.id for d in example.documents}) == 20
        grades = example.grades()
        assert sum(grades) == 1
        for doc, grade in zip(example.documents, grades, strict=True):
            values = [world.facts(doc.title)[relation] for relation in doc.metadata["relations"]]
            assert any(world.states(value, question.answers[0]) for value in values) == bool(grade)
            about = doc.metadata["country"] == question.country, question.relation in doc.metadata["relations"]
            assert about == ((True, True) if grade else (True, False)) or (not grade and about == (False, True))
            allowed = (*world.countries(split), *(world.countries("known") if hard else ()))
            assert doc.metadata["country"] in allowed
        own = sum(d.metadata["country"] == question.country for d in example.documents)
        assert own == 10  # gold and nine of the nineteen distractors


def test_hard_distractors_look_more_alike():
    easy = world.ranking_examples("held_out", 200, seed=1)
    hard = world.ranking_examples("held_out", 200, seed=1, hard=True)

    def same_region(examples):
        pairs = [(e.group, d.title) for e in examples for d in e.documents if d.title != e.group]
        return sum(world.facts(a).get("region") == world.facts(b).get("region") for a, b in pairs) / len(pairs)

    assert same_region(hard) > 2 * same_region(easy)


@pytest.mark.parametrize("split", ["development", "held_out"])
def test_long_lists_go_on_with_known_countries(split):
    own, short = {}, {e.id: e for e in world.ranking_examples(split, 12, candidates=20)}
    for example in world.ranking_examples(split, 12, candidates=112):
        assert len({d.id for d in example.documents}) == 112
        assert sum(example.grades()) == 1
        own[example.id] = {d.title for d in example.documents} - {example.group}
        stray = own[example.id] - set(world.countries(split))
        assert stray <= set(world.countries("known"))
        assert {d.title for d in short[example.id].documents} <= set(world.countries(split))
    assert any(names - set(world.countries(split)) for names in own.values())


def test_gold_positions_are_spread():
    golds = [e.gold[0] for e in world.reading_examples("held_out", 500, documents=5)]
    assert all(60 < golds.count(place) < 140 for place in range(5))


def test_same_seed_same_examples_and_another_seed_others():
    assert world.questions("held_out", seed=1) == world.questions("held_out", seed=1)
    assert world.questions("held_out", seed=1) != world.questions("held_out", seed=2)
    assert world.ranking_examples("development", 20, seed=1) == world.ranking_examples("development", 20, seed=1)
    assert world.reading_examples("held_out", 20, seed=1) != world.reading_examples("held_out", 20, seed=2)
    assert [d.id for d in world.documents("held_out")] == [d.id for d in world.documents("held_out")]


def test_wordings():
    assert all(q.id.endswith("/3") for q in world.questions("held_out", wording=-1))
    drawn = {q.id.rsplit("/", 1)[1] for q in world.questions("held_out")}
    assert drawn == {"0", "1", "2"}
    fixed = world.questions("known", wording=0, limit=5)
    assert len(fixed) == 5
    assert fixed[0].text == world.RELATIONS[fixed[0].relation].questions[0].format(c=fixed[0].country)


def test_edited_documents():
    doc = world.document("Peru", ["capital", "currency"], edits={"capital": "Quito"})
    assert doc.text.startswith("The capital of Peru is Quito. The currency of Peru is ")
    assert doc.id != world.document("Peru", ["capital", "currency"]).id


@pytest.mark.parametrize(
    ("prediction", "answer", "same"),
    [
        ("the Atlantic Ocean.", "Atlantic Ocean", True),
        (" 2,381,740 sq km", "2,381,740 sq km", True),
        ("2381740 sq km", "2,381,740 sq km", True),
        ("UTC+1", "UTC-1", False),
        ("2.9", "29", False),
        ("N'Djamena", "NDjamena", True),
        ("Paris", "Algiers", False),
    ],
)
def test_exact_match(prediction, answer, same):
    assert world.exact_match(prediction, answer) is same
    assert world.exact_match(prediction, (answer, "something else")) is same


@given(st.text(max_size=60))
def test_normalise_is_idempotent(text):
    once = world.normalise(text)
    assert world.normalise(once) == once
    assert world.exact_match(text, text)


def test_numbers_are_accepted_without_their_unit():
    area = next(q for q in world.questions("known") if q.relation == "area" and q.country == "Albania")
    assert area.answers == ("28,748 sq km", "28,748")


def test_majority_answer():
    assert world.majority_answer("government_type") == "presidential republic"
    assert world.majority_answer("lowest_point", "held_out") == "Atlantic Ocean"


@pytest.mark.parametrize(
    "call",
    [
        lambda: world.countries("unknown"),
        lambda: world.facts("Atlantis"),
        lambda: world.documents("test"),
        lambda: world.questions("known", wording=4),
        lambda: world.questions("known", limit=-1),
        lambda: world.majority_answer("shoe_size"),
        lambda: world.document("Peru", []),
        lambda: world.document("Peru", "capital"),
        lambda: world.document("Peru", ["shoe_size"]),
        lambda: world.ranking_examples("development", 5, candidates=1),
        lambda: world.ranking_examples("development", 5, candidates=500),
        lambda: world.ranking_examples("development", 10**6),
        lambda: world.reading_examples("development", 5, documents=0),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(InputError):
        call()


def test_a_near_miss_gets_a_suggestion():
    with pytest.raises(InputError, match="Algeria"):
        world.facts("Algeriaa")
