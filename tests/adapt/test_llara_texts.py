"""Chunks of texts and their target sets: against a plain loop, from every kind of source, kept and found again."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.adapt import llara_texts
from headwater.adapt.llara_texts import (
    Cutting,
    Order,
    chunk_store,
    chunks_of,
    each_text,
    split_chunks,
    strangers,
    text_fingerprint,
)
from headwater.errors import FormatError, InputError
from headwater.prompt.suffix import embedding_prompt
from models import byte_tokenizer

PROMPT = embedding_prompt(byte_tokenizer())
TEXTS = ["the sea is wide and the sky is high", "  ", "one, two; three\n\nfour five the end", "of the"]
CUTTING = Cutting(words=4, text_tokens=15, target_tokens=12, stopwords="en")


def store(folder: Path, texts=TEXTS, cutting=CUTTING):
    return chunk_store(texts, PROMPT, cutting, text_fingerprint(texts), folder / "texts")


def test_chunks_and_sets_by_hand(tmp_path):
    chunks = store(tmp_path)
    decode = PROMPT.tokenizer.decode
    read = [decode(chunks.ids(number)) for number in range(len(chunks))]
    assert read == ["the sea is wide", "and the sky is", "high", "one, two; three", "five the end", "of the"]
    targets = [sorted(decode([i]) for i in chunks.targets(number)) for number in range(len(chunks))]
    meant = ["sea wide", "sky", "high", "one two three four"[:12], "five end", ""]
    assert targets == [sorted(set(text)) for text in meant]
    assert [chunks.next(number) for number in range(6)] == [1, 2, None, 4, None, None]
    assert chunks.article.tolist() == [0, 0, 0, 1, 1, 2]
    assert [chunks.size(number) for number in range(6)] == [len(chunks.ids(number)) for number in range(6)]
    assert chunks.targets(None) == []


def test_without_stop_words_a_set_is_that_of_the_text(tmp_path):
    chunks = store(tmp_path, cutting=Cutting(4, 15, 99, None))
    assert chunks.targets(0) == sorted(set(chunks.ids(0)))
    assert Cutting(4, 15, 99, "german").stopped() >= {"und"}
    with pytest.raises(InputError, match="no stop words 'odd'"):
        Cutting(4, 15, 99, "odd").stopped()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=120), st.integers(1, 7))
def test_chunks_are_slices_that_hold_every_word(text, words):
    found = list(chunks_of(text, words))
    assert [word for chunk in found for word in chunk.split()] == text.split()
    assert all(len(chunk.split()) == words for chunk in found[:-1])
    assert all(chunk in text for chunk in found)


def test_every_kind_of_source(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("first text")
    (folder / "b.jsonl").write_text('{"text": "second"}\n{"text": " "}\n{"text": "third"}')
    (folder / "c.bin").write_bytes(b"x")
    assert list(each_text(folder)) == ["first text", "second", "third"]
    assert list(each_text(str(folder / "a.txt"))) == ["first text"]
    (folder / "corpus.jsonl").write_text('{"_id": "d", "title": "T", "text": "passage"}')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "query"}')
    assert list(each_text(folder)) == ["passage"]
    assert list(each_text([hw.Document("text", title="T"), "plain"])) == ["text", "plain"]
    with pytest.raises(InputError, match="no file or folder"):
        list(each_text(tmp_path / "missing"))
    with pytest.raises(InputError, match="Text 1 must be a string"):
        list(each_text(["x", 3]))


def test_fingerprints_tell_texts_apart():
    assert text_fingerprint(["ab", "c"]) == text_fingerprint(["ab", "c"]) != text_fingerprint(["a", "bc"])
    with pytest.raises(InputError, match="no texts"):
        text_fingerprint([" "])


def test_a_store_is_found_again_and_replaced_by_another(tmp_path, monkeypatch):
    first = store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(llara_texts, "_build", lambda *_: pytest.fail("read again"))
        assert [store(tmp_path).ids(n) for n in range(6)] == [first.ids(n) for n in range(6)]
    assert len(store(tmp_path, cutting=Cutting(400, 99, 99, "en"))) == 3
    (tmp_path / "texts" / "chunks.json").unlink()  # as an interruption leaves it
    assert len(store(tmp_path)) == 6
    (tmp_path / "texts" / "starts.npy").write_bytes(b"x")
    with pytest.raises(FormatError, match="damaged"):
        store(tmp_path)
    kept = json.loads((tmp_path / "texts" / "chunks.json").read_text())["made_of"]
    assert kept["words"] == 4


def test_only_stop_words_make_empty_sets(tmp_path):
    chunks = store(tmp_path, texts=["the of and"])
    assert (len(chunks), chunks.targets(0)) == (1, [])


def test_held_out_chunks_are_of_other_texts(tmp_path):
    texts = [f"word{n} " * 10 for n in range(30)]
    chunks = store(tmp_path, texts=texts)
    for seed in range(3):
        split = split_chunks(chunks, 5, seed)
        assert len(split.held_out) == 5
        own, other = ({int(chunks.article[n]) for n in numbers} for numbers in (split.train, split.held_out))
        assert not own & other
        assert len(own | other) == 30
    assert split_chunks(chunks, 5, 0) == split_chunks(chunks, 5, 0)
    assert split_chunks(chunks, 0, 0).held_out == []
    assert split_chunks(chunks, 10**6, 0).held_out  # a tenth of the texts at most
    assert len(split_chunks(chunks, 10**6, 0).train) == 27 * 3


def test_few_chunks_are_lost_to_held_out_texts(tmp_path):
    texts = [f"word{n} " * (4 * (50 if n % 2 else 3)) for n in range(40)]
    chunks = store(tmp_path, texts=texts)
    seen = set()
    for seed in range(8):
        split = split_chunks(chunks, 5, seed)
        assert len(split.held_out) == 5
        assert len(chunks) - len(split.train) == 6  # two short texts, no long one
        seen |= {number - int(chunks.starts[chunks.article[number]]) for number in split.held_out}
    assert seen == {0, 1, 2}
    firsts = {
        min(n - int(chunks.starts[chunks.article[n]]) for n in split_chunks(chunks, 2, s).held_out) for s in range(8)
    }
    assert firsts != {0}


def test_strangers_are_a_permutation_across_texts(tmp_path):
    chunks = store(tmp_path, texts=[f"word{n} " * (4 + 3 * n) for n in range(7)])
    for train in (list(range(len(chunks))), list(range(3, len(chunks)))):
        other = strangers(chunks, train, 0)
        assert sorted(other) == sorted(other.values()) == train
        for number, stranger in other.items():
            assert chunks.article[number] != chunks.article[stranger]
            assert (chunks.next(number) is None) == (chunks.next(stranger) is None)
    assert strangers(chunks, train, 1) != other
    with pytest.raises(InputError, match="at least two"):
        strangers(chunks, [0], 0)
    with pytest.raises(InputError, match="more than half"):
        strangers(chunks, [n for n in range(len(chunks)) if chunks.article[n] in (0, 6)], 0)


def test_a_cut_chunk_names_only_what_is_read(tmp_path):
    chunks = store(tmp_path, texts=["the zoo is far away"], cutting=Cutting(9, 9, 99, "en"))
    decode = PROMPT.tokenizer.decode
    assert decode(chunks.ids(0)) == "the zoo i"
    assert {decode([i]) for i in chunks.targets(0)} == set("zo ")
    assert len(store(tmp_path, texts=["the zoo is far away"], cutting=Cutting(9, 99, 99, "en")).targets(0)) == 8


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "texts.lock").mkdir()
    with pytest.raises(InputError, match="Cannot keep the texts"):
        store(tmp_path)


def test_an_order_goes_through_all_before_it_comes_again():
    order = Order([3, 5, 8, 9], 0)
    places = [order[place] for place in range(12)]
    assert [sorted(places[at : at + 4]) for at in (0, 4, 8)] == [[3, 5, 8, 9]] * 3
    assert [order[place] for place in reversed(range(12))] == places[::-1]
    assert [Order([3, 5, 8, 9], 1)[place] for place in range(12)] != places
