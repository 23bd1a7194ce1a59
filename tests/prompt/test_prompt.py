"""Prompt pieces: spans decode to their text, nothing merges, texts never yield special tokens."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import GPT2Tokenizer, PreTrainedTokenizerFast

import headwater as hw
from headwater.errors import InputError, ModelError
from headwater.prompt import ANSWER, RANK, prompt_template
from models import byte_tokenizer

CHAT = (
    "{{ bos_token }}{% for m in messages %}<user>{{ m.content | trim }}</user>{% endfor %}"
    "{% if add_generation_prompt %}{% if enable_thinking is defined and not enable_thinking %}<fast>{% endif %}"
    "<bot>{% endif %}"
)


def chat_tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


def real_tokenizers():
    """One without merges, one with many (the embedded model's), and GPT-2's own where the data folder is known."""
    found = {"bytes": byte_tokenizer(), "tiny": hw.load("tiny").tokenizer}
    folder = os.environ.get("HEADWATER_DATA")
    if folder:
        found["gpt2"] = GPT2Tokenizer.from_pretrained(Path(folder) / "tokenizers" / "gpt2")
    return [pytest.param(tokenizer, id=name) for name, tokenizer in found.items()]


def spacing_tokenizer():
    """A SentencePiece-like tokenizer: words with a leading space, which it also puts before a bare text."""
    words = ["<unk>", "<bos>", "\n", "▁"] + [
        w for c in "abcdefghijklmnopqrstuvwxyz:[].ABCDEFGHIQPHR0123456789" for w in (c, "▁" + c)
    ]
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>")


def test_the_whole_prompt_reads_as_specified():
    template = prompt_template(chat_tokenizer())
    documents = [hw.Document(" Algiers. ", title="Algeria"), hw.Document("No title.")]
    prefix, tail = template.prefix(documents), template.tail("  What is it? ")
    assert template.tokenizer.decode(prefix.ids + tail) == (
        "<bos><user> Here are some paragraphs:\n\n[1] Algeria\nAlgiers.\n\n[2] No title.\n\n"
        f"{RANK}\n\nQuery: What is it?</user><fast><bot>"
    )
    assert (prefix.ids + tail).count(template.tokenizer.bos_token_id) == 1
    assert template.tokenizer.decode(tail).startswith(RANK)


def test_base_models_get_a_begin_token_and_a_cue_only_for_answers():
    rank = prompt_template(byte_tokenizer())
    answer = prompt_template(byte_tokenizer(), instruction="answer")
    assert rank.header == (rank.tokenizer.bos_token_id,)
    assert rank.tokenizer.decode(rank.tail("q")) == f"{RANK}\n\nQuery: q"
    assert answer.tokenizer.decode(answer.tail("q")) == f"{ANSWER}\n\nQuery: q\nAnswer:"


@pytest.mark.parametrize("tokenizer", real_tokenizers())
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=5), repeat=st.booleans())
def test_spans_decode_to_their_text_and_are_disjoint(tokenizer, texts, repeat):
    template = prompt_template(tokenizer)
    documents = [hw.Document(text) for text in (texts * 2 if repeat else texts)]
    prefix = template.prefix(documents)
    end = 0
    for index, (start, stop) in enumerate(prefix.spans):
        assert end < start < stop <= len(prefix.ids)
        piece = template.piece(index, documents[index])
        decoded = tokenizer.decode(prefix.ids[start:stop], clean_up_tokenization_spaces=False)
        assert decoded == piece
        end = stop


@pytest.mark.parametrize("tokenizer", real_tokenizers())
@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=40))
def test_token_texts_join_to_the_text(tokenizer, text):
    template = prompt_template(tokenizer)
    texts = template.token_texts(text)
    assert "".join(texts) == text
    assert len(texts) == len(template.encode(text))


def test_token_texts_behind_an_anchor():
    assert prompt_template(spacing_tokenizer()).token_texts("ab c") == ["a", "b", " ", "c"]


@pytest.mark.parametrize("tokenizer", real_tokenizers())
def test_texts_never_yield_special_tokens(tokenizer):
    template = prompt_template(tokenizer)
    special = set(tokenizer.all_special_ids)
    name = tokenizer.all_special_tokens[0]
    prefix = template.prefix([hw.Document(f"before {name} after")])
    start, stop = prefix.spans[0]
    assert not special & set(prefix.ids[start:stop])
    assert not special & set(template.tail(f"who is {name}?"))
    assert tokenizer.decode(prefix.ids[start:stop]) == f"[1] before {name} after"


def test_a_tokenizer_that_puts_a_space_before_texts():
    template = prompt_template(spacing_tokenizer())
    assert template.encode("ab") == [template.tokenizer.convert_tokens_to_ids(t) for t in "ab"]
    assert template.encode(" a")[0] == template.tokenizer.convert_tokens_to_ids("▁")


def test_the_fingerprint_names_the_prompt():
    a, b = prompt_template(byte_tokenizer()), prompt_template(byte_tokenizer(), instruction="answer")
    assert a.fingerprint == prompt_template(byte_tokenizer()).fingerprint != b.fingerprint


@pytest.mark.parametrize("today", ["{{ strftime_now('%d %b %Y') }}", "{{ date_string }}"])
def test_the_date_of_a_chat_template_stands_still(today):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = today + "{{ messages[0].content }}"
    header = prompt_template(tokenizer).header
    assert tokenizer.decode(header) == "26 Jul 2024"


def test_bad_input():
    with pytest.raises(InputError, match="Unknown template"):
        prompt_template(byte_tokenizer(), template="nonsense")
    with pytest.raises(InputError, match="no chat template"):
        prompt_template(byte_tokenizer(), template="chat")
    with pytest.raises(InputError, match="query is blank"):
        prompt_template(byte_tokenizer()).tail(" \n")
    mute = byte_tokenizer()
    mute.chat_template = "{{ bos_token }}"
    with pytest.raises(ModelError, match="does not show"):
        prompt_template(mute)
