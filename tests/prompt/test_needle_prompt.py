"""Needle prompts: spans by construction, at every depth and length, for several tokenizers and both templates."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from headwater.data.needle import Needle, NeedleCase, built_in_haystack, built_in_needles, needle_cases
from headwater.errors import InputError
from headwater.model.lm import load
from headwater.prompt import prompt_template
from headwater.prompt.needle import needle_prompt
from models import byte_tokenizer
from planted_copier import NEEDLES, PARAGRAPHS, copier_lm


def metaspace_tokenizer():
    """Characters behind a word mark, with a dummy space in front of every text, as SentencePiece models have."""
    letters = sorted({*"".join(built_in_haystack()), *map(chr, range(33, 127))} - {" "})
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(["<unk>", "▁", "\n", *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def chat_tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "<user>{{ messages[0]['content'] }}</user><model>"
    return tokenizer


TOKENIZERS = {
    "tiny": lambda: load("tiny").tokenizer,
    "bytes": byte_tokenizer,
    "metaspace": metaspace_tokenizer,
    "chat": chat_tokenizer,
}


@pytest.mark.parametrize("template", ["auto", "base", "book"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_spans_decode_to_needle_and_answer_everywhere(name, template):
    tokenizer = TOKENIZERS[name]()
    depths = (0.0, 0.01, 0.3, 0.5, 0.99, 1.0)
    for case in needle_cases(built_in_needles("testing")[:2], built_in_haystack("testing"), (300, 900), depths):
        prompt = needle_prompt(tokenizer, case, template)
        text = tokenizer.decode(prompt.ids)
        assert tokenizer.decode(prompt.ids[slice(*prompt.answer)]).strip() == case.answer
        assert tokenizer.decode(prompt.ids[slice(*prompt.needle)]).strip() == case.needle.statement
        assert prompt.needle[0] <= prompt.answer[0] < prompt.answer[1] <= prompt.needle[1]
        assert text.count(case.answer) == 1
        assert text.index(case.needle.statement) > 0 or template == "book"
        before, _, after = text.partition(case.needle.statement)
        assert not before or before[-1].isspace() or before.endswith(">")
        assert after[0].isspace() or after.startswith("<")
        assert prompt.after_sentence or case.depth == 1
        assert 0 <= (case.depth - prompt.depth) * (case.length - 200) <= 300  # at most 256 tokens of the text back
        assert tokenizer.decode(prompt.continuation).strip() == case.answer
        assert (prompt.depth == 1) is (case.depth == 1)


def test_the_length_is_that_of_text_needle_and_buffer():
    tokenizer = byte_tokenizer()
    for depth in (0.2, 0.9):
        case = NeedleCase(built_in_needles()[0], built_in_haystack(), 700, depth)
        prompt = needle_prompt(tokenizer, case, "book", buffer=150)
        tail = len(f"\nBased on the content of the book, Question: {case.question}\nAnswer:")
        assert len(prompt.ids) == 1 + 700 - 150 + tail


def test_the_own_prompt_is_the_answer_prompt_with_one_document():
    tokenizer = load("tiny").tokenizer
    case = NeedleCase(built_in_needles()[0], built_in_haystack(), 400, 0.5)
    text = tokenizer.decode(needle_prompt(tokenizer, case).ids)
    template = prompt_template(tokenizer, "auto", "answer")
    start, _, _ = text.partition("[1] ")
    shown = template.prefix([]).ids
    assert text.startswith(tokenizer.decode(shown))
    assert start == tokenizer.decode(shown)
    assert text.endswith(tokenizer.decode(template.tail(case.question)))


def test_the_published_prompt():
    case = NeedleCase(built_in_needles()[0], built_in_haystack(), 400, 0.5)
    end = f"Based on the content of the book, Question: {case.question}\nAnswer:"
    assert byte_tokenizer().decode(needle_prompt(byte_tokenizer(), case, "book").ids).endswith(f"\n{end}")
    chat = byte_tokenizer().decode(needle_prompt(chat_tokenizer(), case, "book").ids)
    assert chat.startswith("<user><book>")
    assert chat.endswith(f"</book>\n{end}</user><model>")


def test_a_text_without_sentences_is_flagged():
    hay = ["word " * 400]
    prompt = needle_prompt(byte_tokenizer(), NeedleCase(built_in_needles()[0], hay, 1500, 0.5))
    assert not prompt.after_sentence
    assert prompt.depth == pytest.approx(0.5, abs=0.01)
    near = needle_prompt(byte_tokenizer(), NeedleCase(built_in_needles()[0], hay, 600, 0.5))
    assert (near.after_sentence, near.depth) == (True, 0)  # the start of the text is near enough


@pytest.mark.parametrize("mark", [".", "!", "?", '."', ".)", "\u3002"])
def test_sentence_ends(mark):
    space = "" if mark == "\u3002" else " "
    hay = [space.join(["words and words" + mark] * 40)]
    case = NeedleCase(built_in_needles()[0], hay, 500, 0.5)
    prompt = needle_prompt(byte_tokenizer(), case)
    before = byte_tokenizer().decode(prompt.ids[: prompt.needle[0]])
    assert before.endswith(mark)
    assert prompt.after_sentence


def test_points_inside_numbers_end_no_sentence():
    hay = ["In 3.5 of 4.5 cases. " + "It was 6.25 of 7.75 and 8.125 of 9.375 then " * 4]
    case = NeedleCase(built_in_needles()[0], hay, 380, 0.9)
    prompt = needle_prompt(byte_tokenizer(), case, buffer=200)
    assert byte_tokenizer().decode(prompt.ids[: prompt.needle[0]]).endswith("cases.")


def test_an_answer_at_the_start_of_the_needle():
    needle = Needle("Red fox is the code.", "What is the code?", "Red fox")
    for depth in (0, 0.5, 1):
        prompt = needle_prompt(byte_tokenizer(), NeedleCase(needle, built_in_haystack(), 400, depth))
        assert byte_tokenizer().decode(prompt.ids[slice(*prompt.answer)]).strip(" ") == "Red fox"


def test_a_line_break_before_the_answer_is_not_counted_to_it():
    hay = ["The first line of it.", "And the second one.", "The third and last line, which is longer."] * 12
    needle = Needle("Red fox is the code.", "What is the code?", "Red fox")
    broken = Needle("The code is:\nRed fox.", "What is the code?", "Red fox")
    behind_breaks = 0
    for depth in (0.2, 0.4, 0.5, 0.6, 0.8):
        prompt = needle_prompt(byte_tokenizer(), NeedleCase(needle, hay, 500, depth))
        assert byte_tokenizer().decode(prompt.ids[slice(*prompt.answer)]).strip(" ") == "Red fox"
        behind_breaks += byte_tokenizer().decode(prompt.ids[slice(*prompt.needle)]).startswith("\n")
        prompt = needle_prompt(byte_tokenizer(), NeedleCase(broken, hay, 500, depth))
        assert byte_tokenizer().decode(prompt.ids[slice(*prompt.answer)]) == "Red fox"
    assert behind_breaks


def test_words_of_the_planted_model():
    lm = copier_lm()
    for case in needle_cases(NEEDLES, PARAGRAPHS, (280,)):
        prompt = needle_prompt(lm.tokenizer, case)
        assert lm.tokenizer.decode(prompt.ids[slice(*prompt.answer)]) == case.answer
        assert prompt.answer[1] - prompt.answer[0] == 4


def test_bad_input():
    tokenizer, needle = byte_tokenizer(), built_in_needles()[0]
    with pytest.raises(InputError, match="does not fit a case of 240 tokens"):
        needle_prompt(tokenizer, NeedleCase(needle, built_in_haystack(), 240, 0.5))
    with pytest.raises(InputError, match="needs 254 tokens of text, and there are 10"):
        needle_prompt(tokenizer, NeedleCase(needle, ["Too short"], 500, 0.5))
    with pytest.raises(InputError, match="Unknown template"):
        needle_prompt(tokenizer, NeedleCase(needle, built_in_haystack(), 500, 0.5), "odd")
