"""Reading with two runs per token, alone and on the bench."""

import pytest

import headwater as hw
from headwater.data.documents import as_documents
from headwater.errors import HeadSetError, InputError
from headwater.evaluate.bench.catalogue import METHODS, method_named
from headwater.evaluate.tasks.task import ReadingItem
from headwater.instrument.meter import metered
from headwater.instrument.twice import twice, twice_logits
from headwater.model.greedy import greedy
from headwater.read.juice import JuiceReader
from headwater.read.reader import Reader
from models import random_lm
from planted_conflict import MEMORY, READER, REMEMBERING, torn_examples, torn_lm

QUESTION, DOCUMENTS = "Which city?", ["Algiers is a city.", "Paris too."]
SET = hw.HeadSet([(1, 2), (2, 3), (3, 0)], [3.0, -1.0, 2.0])


def test_it_reads_and_recalls_inside_two_runs():
    lm = random_lm()
    reader, plain = JuiceReader(lm, SET, 6), Reader(lm, 6)
    with twice(lm, SET):
        recalled, want = plain.recall(QUESTION), plain.read(QUESTION, DOCUMENTS)
    assert reader.recall(QUESTION) == recalled
    assert reader.read(QUESTION, DOCUMENTS) == want
    assert want != plain.read(QUESTION, DOCUMENTS)
    ids = [*plain._template.prefix(as_documents(DOCUMENTS)).ids, *plain._template.tail(QUESTION)]
    chance = twice_logits(lm, SET, ids).softmax(-1).max().item()
    assert JuiceReader(lm, SET, 1).read(QUESTION, DOCUMENTS).confidence == pytest.approx(chance, abs=1e-5)
    best = int(twice_logits(lm, SET, ids).argmax())
    with twice(lm, SET):
        assert greedy(lm, ids, 1) == [best]


def test_gains_of_zero_are_the_plain_reader():
    lm = random_lm()
    same = hw.HeadSet(SET.heads, [1.0] * 3)
    reader, plain = JuiceReader(lm, same, 6), Reader(lm, 6)
    assert reader.read(QUESTION, DOCUMENTS) == plain.read(QUESTION, DOCUMENTS)
    assert reader.recall(QUESTION) == plain.recall(QUESTION)


def test_a_torn_model_follows_its_documents():
    lm, example = torn_lm(remembering=0.35), torn_examples()[0]
    assert Reader(lm, 2).read(example.question, example.documents).text.split()[0] == MEMORY
    heads = hw.HeadSet([READER, REMEMBERING], [3.0, 0.0])
    assert JuiceReader(lm, heads, 2).read(example.question, example.documents).text.split()[0] == example.context


def test_a_method_of_the_bench(tmp_path):
    lm, path = random_lm(), SET.save(tmp_path / "juice.json")
    chosen = method_named(f"juice:{path}")
    system = METHODS["juice"].make(lambda: lm, 0, chosen.argument)
    item = ReadingItem("1", "g", QUESTION, tuple(as_documents(DOCUMENTS)), ("x",))
    with metered(lm) as used:
        said = system.run(item)
    with metered(lm) as plain:
        Reader(lm).read(QUESTION, DOCUMENTS)
    assert said == JuiceReader(lm, SET).read(QUESTION, DOCUMENTS).text
    assert system.describe() == {"heads": str(SET), "coefficients": [3.0, -1.0, 2.0]}
    assert used.tokens > 1.5 * plain.tokens, "both runs are counted"
    assert system.run(ReadingItem("2", "g", QUESTION, (), ("x",))) == JuiceReader(lm, SET).recall(QUESTION).text


def test_bad_input():
    lm = random_lm()
    with pytest.raises(InputError, match="no coefficients"):
        JuiceReader(lm, hw.HeadSet([(0, 0)]))
    with pytest.raises(HeadSetError, match="9-0"):
        JuiceReader(lm, hw.HeadSet([(9, 0)], [2.0]))
    with pytest.raises(InputError, match="max_new_tokens"):
        JuiceReader(lm, SET, 0)
    with pytest.raises(InputError, match="one by one"):
        JuiceReader(lm, SET).read_without([[(0, 0)]], QUESTION, DOCUMENTS)
