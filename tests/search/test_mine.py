"""Mining: planted false negatives never return, counts add up, the same seed gives the same, torn runs go on."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.data.formats import read_examples
from headwater.errors import InputError
from headwater.search.bm25 import Hit
from headwater.search.mine import Mining, bm25_source, document_keys, text_key

CORPUS = [
    hw.Document("Lima is the capital of Peru.", id="gold"),
    hw.Document("lima is  the capital\nof peru.", id="copy"),
    hw.Document("The capital of Peru, Lima, lies by the sea.", id="near"),
    hw.Document("What is the capital of Peru?", id="question"),
    hw.Document("The capital of Chile is Santiago.", id="hard"),
    hw.Document("the capital of CHILE is santiago.", id="again"),
    hw.Document("A capital of secrets, for the examination.", id="test"),
    hw.Document("Bees make honey.", id="bees"),
    hw.Document("Cows eat grass.", id="cows"),
    hw.Document("  ", id="blank"),
]
EXAMPLE = hw.RankingExample("What is the capital of Peru?", [CORPUS[0], "other"], ["gold"], id="q1", group="peru")
SCORES = {"gold": 0.8, "near": 0.78, "hard": 0.5, "test": 0.4}


def judge(query, documents):
    assert documents[0].id == "gold", "the positives come along"
    return [SCORES[document.id] for document in documents]


def negatives(example):
    return [document for document, grade in zip(example.documents, example.grades(), strict=True) if not grade]


def mine(mining=None, judges=None, **more):
    found, counts = (mining or Mining(keep=5)).mine(
        EXAMPLE, CORPUS, {"bm25": bm25_source(CORPUS)}, {"dense": judge} if judges is None else judges, ["test"], **more
    )
    parts = ["positive", "query", "evaluation", "duplicate", "surplus", "mined"]
    assert counts["candidates"] == sum(counts[part] for part in parts) + sum(
        count for name, count in counts.items() if name.startswith("above ")
    )
    return found, counts


def test_only_true_negatives_are_kept():
    found, counts = mine()
    own = negatives(found)
    assert [document.id for document in found.documents[:1]] == ["gold"]
    assert {document.id for document in own} <= {"hard", "again", "bees", "cows"}
    hard = [document for document in own if document.metadata["source"] == "bm25"]
    assert len(hard) == 1
    assert hard[0].id in ("hard", "again")
    assert hard[0].metadata["rank"] > 1
    assert hard[0].metadata["score"] > 0
    assert {document.id for document in own if document.metadata["source"] == "random"} == {"bees", "cows"}
    assert len({text_key(document.text) for document in own}) == len(own)
    assert (counts["positive"], counts["query"], counts["evaluation"], counts["duplicate"]) == (2, 1, 1, 1)
    assert (counts["above dense"], counts["mined"], counts["random"], counts["short lists"]) == (1, 1, 2, 1)
    assert (found.id, found.group) == ("q1", "peru")


def test_the_margin_is_a_share_of_the_lowest_positive():
    loose, _ = mine(Mining(keep=5, relative_margin=0.0))
    assert "near" in {document.id for document in negatives(loose)}
    strict, _ = mine(Mining(keep=5, relative_margin=0.5))
    assert "hard" not in {document.id for document in negatives(strict)}

    def below_zero(query, documents):
        return [{"gold": -1.0, "near": -1.02}.get(document.id, -1.2) for document in documents]

    found, counts = mine(judges={"x": below_zero})
    assert counts["above x"] == 1
    assert "near" not in {document.id for document in negatives(found)}


def test_two_judges_one_after_the_other():
    seen = []

    def second(query, documents):
        seen.append([document.id for document in documents])
        return [1.0] + [0.99] * (len(documents) - 1)

    found, counts = mine(judges={"dense": judge, "qr": second})
    assert counts["above dense"] == 1
    assert counts["above qr"] == 1
    assert len(seen) == 1
    assert seen[0][0] == "gold"
    assert "near" not in seen[0]
    assert {document.metadata["source"] for document in negatives(found)} == {"random"}


def test_enough_is_enough_and_seeds_draw():
    corpus = [hw.Document(f"capital number {n}", id=str(n)) for n in range(60)]
    example = hw.RankingExample("capital", [hw.Document("capital number 0", id="0")], ["0"])
    sizes = []

    def judge(query, documents):
        sizes.append(len(documents) - 1)
        return [1.0, *[0.5] * (len(documents) - 1)]

    def drawn(seed):
        mining = Mining(keep=8, group=5, depth=50, seed=seed)
        found, counts = mining.mine(example, corpus, {"bm25": bm25_source(corpus)}, {"x": judge})
        assert counts["mined"] == 8
        assert counts["surplus"] == 50 - 1 - 8
        return [document.id for document in negatives(found)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert sizes == [5, 5] * 3, "no more is judged than needed"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("pqrs ")), min_size=1, max_size=12),
    st.integers(1, 6),
    st.booleans(),
)
def test_nothing_barred_ever_returns(rows, keep, fill):
    corpus = [hw.Document(text, id=name) for name, text in rows]
    gold = hw.Document("P", id="zz")
    example = hw.RankingExample("q", [gold], ["zz"])
    hits = [Hit(place, 1.0, document) for place, document in enumerate(corpus)]
    found, counts = Mining(keep=keep, fill=fill).mine(
        example, corpus, {"all": lambda query, depth: hits[:depth]}, None, ["a"]
    )
    own = negatives(found)
    assert all(document.id != "a" and text_key(document.text) not in (text_key("p"), text_key("q")) for document in own)
    assert len({text_key(document.text) for document in own}) == len(own) <= keep
    parts = ("positive", "query", "evaluation", "duplicate", "surplus", "mined")
    assert counts["candidates"] == len(corpus) == sum(counts[part] for part in parts)


def test_a_run_goes_on_and_is_read_again(tmp_path):
    examples = [
        EXAMPLE,
        hw.RankingExample("honey?", [CORPUS[7]], ["bees"], id="q2"),
        hw.RankingExample("nothing known", ["x"], [], id="q3"),
    ]
    sources, asked = {"bm25": bm25_source(CORPUS)}, []

    def source(query, depth):
        asked.append(query)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return sources["bm25"](query, depth)

    mining = Mining(keep=3)
    with pytest.raises(KeyboardInterrupt):
        mining.run(examples, CORPUS, {"bm25": source}, tmp_path / "torn")
    mining.run(examples, CORPUS, {"bm25": source}, tmp_path / "torn")
    assert len(asked) == 3
    counts = mining.run(examples, CORPUS, sources, tmp_path / "whole")
    assert counts["queries"] == 2
    assert counts["without a positive"] == 1
    whole, torn = ((tmp_path / name / "examples.jsonl").read_text() for name in ("whole", "torn"))
    assert whole == torn
    assert json.loads((tmp_path / "whole" / "mining.json").read_text())["counts"] == dict(counts)
    again = read_examples(tmp_path / "whole" / "examples.jsonl")
    assert [example.id for example in again] == ["q1", "q2"]
    assert [example.grades()[0] for example in again] == [1.0, 1.0]
    assert all(sum(example.grades()) == 1.0 for example in again)
    assert all(document_keys(document) for document in again[0].documents)
    with pytest.raises(InputError, match="holds a run with keep=3"):
        Mining(keep=4).run(examples, CORPUS, sources, tmp_path / "whole")
    with pytest.raises(InputError, match="nothing to mine for"):
        mining.run(examples[2:], CORPUS, sources, tmp_path / "none")


def test_what_makes_two_runs_differ(tmp_path):
    sources = {"bm25": bm25_source(CORPUS)}
    corpus = [hw.Document("one", id="1", title="T"), *CORPUS]
    mining, given = Mining(keep=1), [EXAMPLE]
    mining.run(given, corpus, sources, tmp_path, exclude=["test"])
    mining.run(given, corpus, sources, tmp_path, exclude=["test", "test"])
    with pytest.raises(InputError, match="exclude"):
        mining.run(given, corpus, sources, tmp_path, exclude=["hard"])
    other = hw.RankingExample(EXAMPLE.query, [CORPUS[2], "other"], ["near"], id="q1", group="peru")
    with pytest.raises(InputError, match="data"):
        mining.run([other], corpus, sources, tmp_path, exclude=["test"])
    with pytest.raises(InputError, match="data"):
        mining.run(given, [hw.Document("one", id="1", title="U"), *CORPUS], sources, tmp_path, exclude=["test"])


def test_queries_that_cannot_be_mined_for(tmp_path):
    sources = {"bm25": bm25_source(CORPUS)}
    blank = hw.RankingExample("blank?", [" ", "x"], [0], id="b")
    counts = Mining(keep=1).run([blank, EXAMPLE], CORPUS, sources, tmp_path / "blank")
    assert (counts["without a positive"], counts["queries"]) == (1, 1)
    for twice in ([EXAMPLE, EXAMPLE], [hw.RankingExample("q", ["a"], [0]), hw.RankingExample("q", ["a"], [0], id="0")]):
        with pytest.raises(InputError, match="stands twice"):
            Mining().run(twice, CORPUS, sources, tmp_path / "twice")


@pytest.mark.parametrize("scores", [[1.0], [1.0, float("nan")]])
def test_a_judge_gives_a_score_for_each(scores):
    with pytest.raises(InputError, match="judge 'x' has to give a finite score"):
        mine(judges={"x": lambda query, documents: scores})


def test_documents_that_are_a_title():
    first, second = (hw.Document(" ", title=title) for title in ("one", "two"))
    assert document_keys(first).isdisjoint(document_keys(second))
    assert document_keys(hw.Document("ONE", title="x")) == document_keys(hw.Document("one")) == document_keys(first)


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"keep": 0}, {"group": 0}, {"relative_margin": 1.0}])
def test_bad_settings(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Mining(**wrong)


def test_a_query_without_a_positive():
    with pytest.raises(InputError, match="no known positive"):
        Mining().mine(hw.RankingExample("q", ["a"], []), CORPUS, {"bm25": bm25_source(CORPUS)})
