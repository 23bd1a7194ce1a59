"""Embedding prompts: ids, truncation, storage, and what is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from headwater.data.documents import Document
from headwater.errors import FormatError, InputError
from headwater.prompt.suffix import (
    FILE,
    embedding_prompt,
    passage_text,
    prompt_from_dict,
    read_prompt,
    slot_names,
)
from models import byte_tokenizer

TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id


def with_slots() -> PreTrainedTokenizerFast:
    """The slot tokens in a scrambled order, as in the published vocabulary."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(sorted(slot_names(), reverse=True), special_tokens=True)
    return tokenizer


def llama_like() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a blank in front of every text, and a begin token in front of that."""
    words = ["<s>", "</s>", "<unk>", "▁", *'abcdefghijklmnopqrstuvwxyzTP:.,"']
    words += [f"<0x{byte:02X}>" for byte in range(256)]
    bare = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>"))
    bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bare.decoder = decoders.ByteFallback()
    bare.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def text_of(ids: tuple[int, ...]) -> str:
    return TOKENIZER.decode(list(ids))


def test_a_single_slot_is_the_end_token():
    prompt = embedding_prompt(TOKENIZER)
    assert prompt.prefix == ()  # this tokenizer adds no begin token
    assert text_of(prompt.tail("document")[:-1]) == " The input sentence is:"
    assert text_of(prompt.tail("query")[:-1]) == " The next sentence is:"
    assert prompt.slot_ids("query") == (END,)
    assert text_of(embedding_prompt(TOKENIZER, wording="v1").tail("summarize")[:-1]) == " The original sentence:"
    (ids,) = prompt.encode([" Lima. \n"], "document")
    assert text_of(ids[:-1]) == "Lima. The input sentence is:"
    assert list(prompt.pooled(len(ids), "document")) == [len(ids) - 1]


def test_eight_slots_are_found_by_name():
    tokenizer = with_slots()
    prompt = embedding_prompt(tokenizer, "eight", max_length=200)
    for role, names in (("summarize", slot_names()[:8]), ("predict", slot_names()[8:])):
        assert prompt.slot_ids(role) == tuple(tokenizer.convert_tokens_to_ids(names))
    (ids,) = prompt.encode(["Lima"], "query")
    said = tokenizer.decode(ids)
    assert said == '"Lima", predict the following passage within eight words: ' + "".join(slot_names()[8:])
    assert list(prompt.pooled(len(ids), "query")) == list(range(len(ids) - 8, len(ids)))
    with pytest.raises(InputError, match="does not know the slot tokens <s1>"):
        embedding_prompt(TOKENIZER, "eight")


def test_the_begin_token_and_a_blank_of_the_tokenizers_own():
    tokenizer = llama_like()
    prompt = embedding_prompt(tokenizer)
    assert prompt.prefix == (0,)
    first, second = tokenizer.convert_ids_to_tokens(list(prompt.tail("query")[:2]))
    assert (first, second) == ("▁", "T")  # one blank, not two


def test_roles_of_a_pair():
    for pair, query, document in (("n2s", "predict", "summarize"), ("s2s", "summarize", "summarize")):
        prompt = embedding_prompt(TOKENIZER, pair=pair)
        assert (prompt.role("query"), prompt.role("document")) == (query, document)
    mean = embedding_prompt(TOKENIZER, pair="m2m")
    assert mean.encode(["ab"], "query") == [TOKENIZER("ab")["input_ids"]]
    assert list(mean.pooled(2, "query")) == [0, 1]
    begun = embedding_prompt(llama_like(), pair="m2n")
    assert list(begun.pooled(4, "query")) == [1, 2, 3]  # not the begin token


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.integers(25, 60), st.sampled_from(["query", "document"]))
def test_a_prompt_never_grows_too_long_and_ends_with_its_tail(text, length, kind):
    prompt = embedding_prompt(TOKENIZER, max_length=length)
    (ids,) = prompt.encode([text], kind)
    tail = prompt.tail(kind)
    assert len(ids) <= length
    assert tuple(ids[-len(tail) :]) == tail
    (whole,) = prompt.text_ids([text])
    assert ids[: len(ids) - len(tail)] == whole[: length - len(tail)]


@pytest.mark.parametrize("kind", ["query", "document"])
def test_room_of_one_exact_fit_and_far_over(kind):
    used = len(embedding_prompt(TOKENIZER).tail(kind))
    longest = max(len(tail) for tail in embedding_prompt(TOKENIZER).tails.values())
    assert embedding_prompt(TOKENIZER, max_length=longest + 1).room("document") == 1
    prompt = embedding_prompt(TOKENIZER, max_length=used + 30)
    for size in (30, 31, 3000):
        (ids,) = prompt.encode(["a" * size], kind)
        assert len(ids) == used + 30
        assert tuple(ids[-used:]) == prompt.tail(kind)
    with pytest.raises(InputError, match="leaves no room for a text"):
        embedding_prompt(TOKENIZER, max_length=longest)
    with pytest.raises(InputError, match="leaves no room"):
        embedding_prompt(TOKENIZER, max_length=longest + 1).room("summarize", "predict")


def test_a_text_never_yields_special_tokens():
    tokenizer = with_slots()
    prompt = embedding_prompt(tokenizer, "eight")
    (ids,) = prompt.text_ids(["a <eos> <s1> b"])
    assert not set(ids) & {END, *prompt.slot_ids("summarize"), *prompt.slot_ids("predict")}
    assert tokenizer.decode(ids) == "a <eos> <s1> b"


def test_it_is_stored_as_ids(tmp_path: Path):
    for tokenizer, slots in ((TOKENIZER, "single"), (with_slots(), "eight"), (llama_like(), "single")):
        prompt = embedding_prompt(tokenizer, slots, pair="s2s", max_length=99)
        (tmp_path / FILE).write_text(json.dumps({"prompt": prompt.as_dict()}))
        again = read_prompt(tmp_path, tokenizer)
        assert again == prompt
        assert again.fingerprint == prompt.fingerprint
    assert read_prompt(tmp_path / "nothing", TOKENIZER) is None
    assert embedding_prompt(TOKENIZER, max_length=98).fingerprint != embedding_prompt(TOKENIZER).fingerprint


def test_building_one_prompt_leaves_the_next_alone():
    first = embedding_prompt(TOKENIZER).as_dict()
    embedding_prompt(llama_like())
    assert embedding_prompt(TOKENIZER).as_dict() == first


def test_what_is_damaged_or_for_another_tokenizer_is_refused(tmp_path: Path):
    stored = embedding_prompt(TOKENIZER).as_dict()
    for broken in (
        {},
        {**stored, "pair": "x2y"},
        {**stored, "slots": "nine"},
        {**stored, "tails": {}},
        {**stored, "prefix": ["a"]},
        {**stored, "max_length": None},
    ):
        with pytest.raises(FormatError, match="no embedding prompt"):
            prompt_from_dict(TOKENIZER, broken)
    with pytest.raises(FormatError, match="outside this tokenizer"):
        prompt_from_dict(TOKENIZER, {**stored, "prefix": [len(TOKENIZER)]})
    eight = embedding_prompt(with_slots(), "eight").as_dict()
    other = byte_tokenizer()
    other.add_tokens(slot_names(), special_tokens=True)
    with pytest.raises(FormatError, match="other ids"):
        prompt_from_dict(other, eight)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(FormatError, match="cannot be read"):
        read_prompt(tmp_path, TOKENIZER)


def test_bad_switches_are_named():
    for more, sentence in (
        ({"slots": "nine"}, "no prompt with slots='nine'"),
        ({"slots": "eight", "wording": "v1"}, "wording='v1'"),
        ({"pair": "n2x"}, "pair names the roles"),
        ({"pair": 3}, "pair names the roles"),
    ):
        with pytest.raises(InputError, match=sentence):
            embedding_prompt(TOKENIZER, **more)
    prompt = embedding_prompt(TOKENIZER)
    with pytest.raises(InputError, match="Unknown kind 'answer'"):
        prompt.encode(["x"], "answer")
    with pytest.raises(InputError, match="must be a string"):
        prompt.encode([3], "query")
    endless = byte_tokenizer()
    endless.eos_token = None
    with pytest.raises(InputError, match="no end token"):
        embedding_prompt(endless)


def test_the_text_of_a_document():
    assert passage_text(Document(" Lima. ", title=" Peru ")) == "Peru\nLima."
    assert passage_text(Document("Lima.")) == "Lima."
