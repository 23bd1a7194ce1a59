"""Greedy reading against a written-out loop, where it stops, and bad input."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from headwater.errors import ContextOverflowError, InputError
from headwater.read.reader import Reader

DOCUMENTS = ["Algiers is a city.", "Paris too."]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<bos>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")


def random_lm(max_length: int = 1024) -> Any:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=max_length,
    )
    model = LlamaForCausalLM(config).eval()
    # A checkpoint that samples by default must still be read greedily.
    model.generation_config.do_sample, model.generation_config.temperature = True, 0.3
    return SimpleNamespace(
        model=model, tokenizer=tokenizer, name="random", device=torch.device("cpu"), max_length=max_length
    )


def scripted_lm(text: str, ends: bool) -> Any:
    """A model that says one text whatever it is asked."""
    lm = random_lm()
    said = lm.tokenizer(text, add_special_tokens=False)["input_ids"] + ([lm.tokenizer.eos_token_id] if ends else [])

    def generate(ids: torch.Tensor, generation_config: Any, stopping_criteria: list[Any], **_: Any) -> torch.Tensor:
        for token in said[: generation_config.max_new_tokens]:
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
            if token in (generation_config.eos_token_id or []) or bool(stopping_criteria[0](ids, None).all()):
                break
        return ids

    lm.model = SimpleNamespace(generate=generate, generation_config=lm.model.generation_config)
    return lm


def test_greedy_is_the_argmax_of_the_whole_prompt_each_time() -> None:
    lm = random_lm()
    reader = Reader(lm, max_new_tokens=8)
    reading = reader.read("Which city?", DOCUMENTS)
    template = reader._template
    from headwater.data.documents import as_documents

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
    reader = Reader(random_lm(), max_new_tokens=1)
    with_blank = reader.read("q?", ["", *DOCUMENTS, " \n"])
    assert with_blank.prompt_tokens == reader.read("q?", DOCUMENTS).prompt_tokens


def test_bad_input() -> None:
    with pytest.raises(InputError, match="max_new_tokens"):
        Reader(random_lm(), max_new_tokens=0)
    reader = Reader(random_lm(max_length=400), max_new_tokens=4)
    with pytest.raises(InputError, match="blank"):
        reader.read("  ", DOCUMENTS)
    with pytest.raises(InputError, match="nothing to read"):
        reader.read("q?", ["", " "])
    with pytest.raises(InputError, match="single one"):
        reader.read("q?", "one text")  # type: ignore[arg-type]
    with pytest.raises(ContextOverflowError, match="reads 400") as caught:
        reader.read("q?", ["long text " * 100])
    assert caught.value.tokens > caught.value.limit == 400
