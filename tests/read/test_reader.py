"""Greedy reading against a written-out loop, where it stops, and bad input."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import headwater as hw
from headwater.data.documents import as_documents
from headwater.errors import ContextOverflowError, InputError
from headwater.read.context_aware import ContextAwareReader
from headwater.read.reader import Reader
from models import byte_tokenizer, random_lm

DOCUMENTS = ["Algiers is a city.", "Paris too."]


def random_reader(max_new_tokens: int) -> Reader:
    lm = random_lm()
    # A checkpoint that samples or punishes repetition by default must still be read greedily.
    lm.model.generation_config.do_sample, lm.model.generation_config.temperature = True, 0.3
    lm.model.generation_config.repetition_penalty = 5.0
    return Reader(lm, max_new_tokens)


def scripted_lm(text: str, ends: bool) -> Any:
    """A model that says one text whatever it is asked."""
    tokenizer = byte_tokenizer()
    said = tokenizer(text, add_special_tokens=False)["input_ids"] + ([tokenizer.eos_token_id] if ends else [])

    def generate(
        ids: torch.Tensor, generation_config: Any, stopping_criteria: list[Any], logits_processor: list[Any], **_: Any
    ) -> torch.Tensor:
        for token in said[: generation_config.max_new_tokens]:
            logits_processor[0](ids, torch.nn.functional.one_hot(torch.tensor([token]), 300) * 8.0)
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
            if token in (generation_config.eos_token_id or []) or bool(stopping_criteria[0](ids, None).all()):
                break
        return ids

    model = SimpleNamespace(generate=generate)
    return SimpleNamespace(
        model=model, tokenizer=tokenizer, name="scripted", device=torch.device("cpu"), max_length=1024
    )


def test_greedy_is_the_argmax_of_the_whole_prompt_each_time() -> None:
    reader = random_reader(max_new_tokens=8)
    lm = reader.lm
    reading = reader.read("Which city?", DOCUMENTS)
    template = reader._template
    ids = [*template.prefix(as_documents(DOCUMENTS)).ids, *template.tail("Which city?")]
    assert reading.prompt_tokens == len(ids)
    new: list[int] = []
    with torch.no_grad():
        for _ in range(8):
            new.append(int(lm.model(torch.tensor([ids + new])).logits[0, -1].argmax()))
            if new[-1] == lm.tokenizer.eos_token_id or "\n" in lm.tokenizer.decode(new).lstrip():
                break
    assert reading.text == lm.tokenizer.decode(new, skip_special_tokens=True).strip().split("\n")[0].strip()


def test_recall_is_the_argmax_of_the_question_alone() -> None:
    reader = random_reader(max_new_tokens=8)
    lm = reader.lm
    ids = reader._template.alone("  Which city? ")
    assert lm.tokenizer.decode(ids) == "<bos>Query: Which city?\nAnswer:"
    reading = reader.recall("Which city?")
    assert reading.prompt_tokens == len(ids)
    new: list[int] = []
    with torch.no_grad():
        for _ in range(8):
            new.append(int(lm.model(torch.tensor([ids + new])).logits[0, -1].argmax()))
            if new[-1] == lm.tokenizer.eos_token_id or "\n" in lm.tokenizer.decode(new).lstrip():
                break
    assert reading.text == lm.tokenizer.decode(new, skip_special_tokens=True).strip().split("\n")[0].strip()


def test_recall_streams_and_keeps_reasoning_apart() -> None:
    lm = scripted_lm("<think>Paris?</think>Algiers\nmore", ends=True)
    lm.tokenizer.chat_template = "<u>{% for m in messages %}{{ m['content'] }}{% endfor %}</u>{# <think> #}"
    heard: list[str] = []
    reader = Reader(lm, max_new_tokens=17)
    assert lm.tokenizer.decode(reader._template.alone("<eos>?")) == "<u>Query: <eos>?</u>"
    assert lm.tokenizer.eos_token_id not in reader._template.alone("<eos>?")
    reading = reader.recall("Which city?", heard.append)
    assert (reading.text, reading.reasoning) == ("Algiers", "Paris?")
    assert "".join(heard).strip() == "Algiers"


@pytest.mark.parametrize(
    ("said", "ends", "text", "finished"),
    [
        (" Algiers", True, "Algiers", True),
        ("\n\nAlgiers\nQuery: next", False, "Algiers", True),
        (" Algiers and so on without an end", False, "Algiers and so o", False),
        ("", True, "", True),
    ],
)
def test_where_an_answer_ends(said: str, ends: bool, text: str, finished: bool) -> None:
    reading = Reader(scripted_lm(said, ends), max_new_tokens=17).read("Which city?", DOCUMENTS)
    assert (reading.text, reading.finished) == (text, finished)


def test_blank_documents_are_not_in_the_prompt() -> None:
    reader = random_reader(max_new_tokens=1)
    with_blank = reader.read("q?", ["", *DOCUMENTS, " \n"])
    assert with_blank.prompt_tokens == reader.read("q?", DOCUMENTS).prompt_tokens


def test_bad_input() -> None:
    with pytest.raises(InputError, match="max_new_tokens"):
        random_reader(max_new_tokens=0)
    reader = random_reader(max_new_tokens=4)
    with pytest.raises(InputError, match="blank"):
        reader.read("  ", DOCUMENTS)
    with pytest.raises(InputError, match="nothing to read"):
        reader.read("q?", ["", " "])
    with pytest.raises(InputError, match="single one"):
        reader.read("q?", "one text")  # type: ignore[arg-type]
    with pytest.raises(ContextOverflowError, match="reads 512") as caught:
        reader.read("q?", ["long text " * 100])
    assert caught.value.tokens > caught.value.limit == 512
    with pytest.raises(InputError, match="blank"):
        reader.recall(" ")
    with pytest.raises(ContextOverflowError, match="shorten it"):
        reader.recall("long question " * 100)


@pytest.mark.parametrize(
    ("said", "text", "reasoning"),
    [
        ("<think>\nParis? No:\nAlgeria.\n</think>\n\nAlgiers\nmore", "Algiers", "Paris? No:\nAlgeria."),
        ("[THINK]Paris?[/THINK]Algiers", "Algiers", "Paris?"),
        ("<|channel|>analysis<|message|>Paris?<|end|><|channel|>final<|message|>Algiers", "Algiers", "Paris?<|end|>"),
        ("<think>Paris and so on without an end", "", "Paris and so on without an end"),
        ("<thin ice", "<thin ice", ""),
    ],
)
def test_reasoning_is_kept_apart(said: str, text: str, reasoning: str) -> None:
    lm = scripted_lm(said, ends=True)
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}{# <think> #}"
    heard: list[str] = []
    reading = Reader(lm, max_new_tokens=17).read("Which city?", DOCUMENTS, heard.append)
    assert (reading.text, reading.reasoning) == (text, reasoning)
    assert "".join(heard).strip() == text


def test_a_prompt_that_opens_the_reasoning() -> None:
    lm = scripted_lm("Paris?\n</think>\nAlgiers", ends=True)
    lm.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}\n<think>\n{% endif %}"
    )
    reading = Reader(lm, max_new_tokens=17).read("Which city?", DOCUMENTS)
    assert (reading.text, reading.reasoning) == ("Algiers", "Paris?")


def test_answers_stream_in_pieces_that_join_to_the_answer() -> None:
    heard: list[str] = []
    reading = Reader(scripted_lm(" Zürich ist groß\nnext", ends=True)).read("Which?", DOCUMENTS, heard.append)
    assert len(heard) > 5
    assert "".join(heard) == reading.text == "Zürich ist groß"


def test_confidence_is_the_mean_probability_of_the_chosen_tokens() -> None:
    lm = random_lm()
    reader = Reader(lm, max_new_tokens=6)
    reading = reader.read("Which city?", DOCUMENTS)
    ids = [*reader._template.prefix(as_documents(DOCUMENTS)).ids, *reader._template.tail("Which city?")]
    logs = []
    for _ in range(6):
        with torch.no_grad():
            best = lm.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).max(0)
        ids.append(int(best.indices))
        logs.append(float(best.values))
        if ids[-1] == lm.tokenizer.eos_token_id or "\n" in lm.tokenizer.decode(ids[-len(logs) :]).lstrip():
            break
    assert reading.confidence == pytest.approx(torch.tensor(logs).mean().exp().item(), abs=1e-5)


def test_many_head_sets_at_once_answer_as_one_by_one() -> None:
    reader = random_reader(max_new_tokens=6)
    sets = [None, hw.HeadSet([(0, 1)], [0.2]), hw.HeadSet([(3, 0), (1, 4)], [-1.0, 2.5])]
    for documents in (DOCUMENTS, []):
        want = [reader.read("Which city?", documents) if documents else reader.recall("Which city?")]
        for heads in sets[1:]:
            with hw.scaled(reader.lm, heads):
                want.append(reader.read("Which city?", documents) if documents else reader.recall("Which city?"))
        found = reader.read_scaled(sets, "Which city?", documents)
        assert [(r.text, r.prompt_tokens, r.finished) for r in found] == [
            (r.text, r.prompt_tokens, r.finished) for r in want
        ]
        assert [r.confidence for r in found] == pytest.approx([r.confidence for r in want], abs=1e-4)
    with pytest.raises(InputError, match="one at a time"):
        ContextAwareReader(reader.lm).read_scaled(sets, "Which city?", DOCUMENTS)
