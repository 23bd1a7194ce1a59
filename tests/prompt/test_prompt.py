"""Prompt pieces: spans decode to their text, nothing merges, texts never yield special tokens."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from tokenizers.processors import TemplateProcessing
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


def test_the_parts_of_a_tail():
    template = prompt_template(chat_tokenizer())
    tail = template.parted_tail(" What? ")
    parts = tail.ids[: tail.own], tail.ids[tail.own : tail.suffix], tail.ids[tail.suffix :]
    decoded = [template.tokenizer.decode(part) for part in parts]
    assert decoded == [f"{RANK}\n\nQuery:", " What?", "</user><fast><bot>"]
    assert tail.ids == template.tail("What?")
    empty = template.parted_tail(" \n")
    assert (empty.ids[: empty.own], empty.own) == (parts[0], empty.suffix)
    assert empty.ids[empty.suffix :] == parts[2]


@pytest.mark.parametrize("tokenizer", real_tokenizers())
@settings(max_examples=60, deadline=None)
@given(
    text=st.text(min_size=1, max_size=30).filter(str.strip),
    title=st.none() | st.text(max_size=10),
    index=st.integers(0, 120),
)
def test_bodies_start_behind_label_and_title(tokenizer, text, title, index):
    template, document = prompt_template(tokenizer), hw.Document(text, title=title)
    texts = template.token_texts(template.piece(index, document))
    heading = (title or "").strip()
    label = f"[{index + 1}] "
    for with_title, skipped in ((True, label), (False, f"{label}{heading}\n" if heading else label)):
        start = template.body_start(index, document, title=with_title)
        left, kept = "".join(texts[:start]), "".join(texts[start:])
        assert skipped.startswith(left)  # nothing of the body is left out
        assert kept.endswith(template.piece(index, document)[len(skipped) :])
        assert len(left) + len(next(part for part in texts[start:] if part)) > len(skipped)  # no whole token too many


def test_a_title_without_text_is_the_body():
    template = prompt_template(byte_tokenizer())
    document = hw.Document(" ", title="Alone")
    assert [template.body_start(9, document, title=title) for title in (True, False)] == [5, 5]


@pytest.mark.parametrize("tokenizer", real_tokenizers())
@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=30).filter(str.strip), tokens=st.integers(-2, 40))
def test_shortened_documents(tokenizer, text, tokens):
    template, document = prompt_template(tokenizer), hw.Document(text, title="t", id="i")
    cut = template.shortened(document, tokens)
    assert not cut.blank
    assert (cut.title, cut.id) == ("t", "i")
    if len(template.encode(text.strip())) <= max(1, tokens):
        assert cut is document
    else:
        assert text.strip().startswith(cut.text)
        kept = "".join(template.token_texts(text.strip())[: max(1, tokens)])
        assert cut.text == kept or (not kept.strip() and cut.text.strip())


def test_shortening_a_document_without_text():
    document = hw.Document("", title="t")
    assert prompt_template(byte_tokenizer()).shortened(document, 0) is document


def with_tokens(*names):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(list(names), special_tokens=True)
    return tokenizer


@pytest.mark.parametrize(
    ("names", "start", "between", "end"),
    [
        (
            ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
            "<|start_header_id|>user<|end_header_id|> Here",
            "paragraphs: \n\n[1] x \n\nPlease",
            "Query: q<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
        ),
        (
            ("<|im_start|>", "<|im_end|>"),
            "<|im_start|>user Here",
            "paragraphs:\n\n[1] x\n\nPlease",
            "Query: q<|im_end|>\n<|im_start|>assistant",
        ),
        (
            ("<|im_start|>", "<|im_end|>", "<|im_sep|>"),
            "<|im_start|>user<|im_sep|> Here",
            "paragraphs:\n\n[1] x\n\nPlease",
            "Query: q<|im_end|><|im_start|>assistant<|im_sep|>",
        ),
        (("[INST]", "[/INST]"), "[INST] Here", "paragraphs:\n\n[1] x\n\nPlease", "Query: q[/INST]"),
    ],
)
def test_the_layout_of_the_released_code(names, start, between, end):
    template = prompt_template(with_tokens(*names), template="bare")
    ids = template.prefix([hw.Document("x")]).ids + template.tail("q")
    text = template.tokenizer.decode(ids)
    assert text.startswith(start)
    assert between in text
    assert text.endswith(end)
    marks = template.tokenizer.convert_tokens_to_ids(list(names))
    assert set(marks) <= set(ids)
    assert template.name == "bare"


def test_the_begin_token_where_the_tokenizer_sets_it():
    tokenizer = with_tokens("[INST]", "[/INST]")
    begin = tokenizer.bos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", begin)])
    assert prompt_template(tokenizer, template="bare").header[0] == begin
    assert begin not in prompt_template(with_tokens("[INST]", "[/INST]"), template="bare").header


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
    with pytest.raises(InputError, match="knows none for this tokenizer"):
        prompt_template(byte_tokenizer(), template="bare")
    with pytest.raises(InputError, match="no chat template"):
        prompt_template(byte_tokenizer(), template="chat")
    with pytest.raises(InputError, match="query is blank"):
        prompt_template(byte_tokenizer()).tail(" \n")
    mute = byte_tokenizer()
    mute.chat_template = "{{ bos_token }}"
    with pytest.raises(ModelError, match="does not show"):
        prompt_template(mute)
