"""Greedy reading against a written-out loop, where it stops, and bad input."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from headwater.data.documents import as_documents
from headwater.errors import ContextOverflowError, InputError
from headwater.read.reader import Reader
from models import byte_tokenizer, random_lm

DOCUMENTS = ["Algiers is a city.", "Paris too."]


def random_reader(max_new_tokens: int) -> Reader:
    lm = random_lm()
    # A checkpoint that samples by default must still be read greedily.
    lm.model.generation_config.do_sample, lm.model.generation_config.temperature = True, 0.3
    return Reader(lm, max_new_tokens)


def scripted_lm(text: str, ends: bool) -> Any:
    """A model that says one text whatever it is asked."""
    tokenizer = byte_tokenizer()
    said = tokenizer(text, add_special_tokens=False)["input_ids"] + ([tokenizer.eos_token_id] if ends else [])

    def generate(ids: torch.Tensor, generation_config: Any, stopping_criteria: list[Any], **_: Any) -> torch.Tensor:
        for token in said[: generation_config.max_new_tokens]:
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
