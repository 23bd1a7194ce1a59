"""Context-aware decoding against two whole forwards per token, the weight that switches it off, and bad input."""

from typing import Any

import pytest
import torch

from headwater.data.documents import as_documents
from headwater.errors import ContextOverflowError, InputError
from headwater.model.greedy import end_ids
from headwater.read.context_aware import ContextAwareReader
from headwater.read.reader import Reader
from models import random_lm

QUESTION = "Which city?"
DOCUMENTS = ["Algiers is a city.", "Paris too."]


def tokens_of(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens that a reader generates for the question."""
    model, seen = reader.lm.model, []
    generate = model.generate

    def record(inputs: torch.Tensor, **arguments: Any) -> torch.Tensor:
        seen.append(generate(inputs, **arguments)[0, inputs.shape[1] :].tolist())
        return generate(inputs, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", record)
        reader.read(QUESTION, DOCUMENTS)
    return seen[0]


def by_hand(reader: Reader, weight: float, steps: int) -> list[int]:
    """(1 + w) * logits with documents - w * logits without, two whole forwards per token."""
    lm, template = reader.lm, reader._template
    with_documents = [*template.prefix(as_documents(DOCUMENTS)).ids, *template.tail(QUESTION)]
    without = [*template.header, *template.encode("Query:"), *template.encode(f" {QUESTION}"), *template.suffix]
    new: list[int] = []
    with torch.no_grad():
        while len(new) < steps:
            a, b = (lm.model(torch.tensor([ids + new])).logits[0, -1] for ids in (with_documents, without))
            new.append(int(((1 + weight) * a - weight * b).argmax()))
            if new[-1] in end_ids(lm) or "\n" in lm.tokenizer.decode(new).lstrip():
                break
    return new


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_tokens_are_those_of_two_forwards(
    family: str, weight: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = random_lm(family, seed=seed)
    lm.model.generation_config.repetition_penalty = 5.0  # a checkpoint's own settings stay out of it
    reader = ContextAwareReader(lm, weight, max_new_tokens=12)
    assert tokens_of(reader, monkeypatch) == by_hand(reader, weight, 12)


def test_contrast_changes_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_lm()
    plain = tokens_of(Reader(lm, 12), monkeypatch)
    assert plain == by_hand(Reader(lm), 0.0, 12)
    assert plain != tokens_of(ContextAwareReader(lm, 3.0, 12), monkeypatch)


def test_weight_zero_is_the_plain_reader() -> None:
    lm = random_lm()
    assert ContextAwareReader(lm, 0.0, 12).read(QUESTION, DOCUMENTS) == Reader(lm, 12).read(QUESTION, DOCUMENTS)


def test_recall_is_not_contrasted() -> None:
    lm = random_lm()
    assert ContextAwareReader(lm, 2.0, 12).recall(QUESTION) == Reader(lm, 12).recall(QUESTION)


def test_confidence_is_that_of_the_contrast() -> None:
    lm = random_lm()
    reader = ContextAwareReader(lm, 1.0, max_new_tokens=1)
    template = reader._template
    prompts = [*template.prefix(as_documents(DOCUMENTS)).ids, *template.tail(QUESTION)], template.alone(QUESTION)
    with torch.no_grad():
        a, b = (lm.model(torch.tensor([ids])).logits[0, -1] for ids in prompts)
    confidence = reader.read(QUESTION, DOCUMENTS).confidence
    assert confidence == pytest.approx((2 * a - b).softmax(-1).max().item(), abs=1e-5)


def test_bad_input() -> None:
    lm = random_lm()
    for weight in (-0.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match="0 or more"):
            ContextAwareReader(lm, weight)
    with pytest.raises(InputError, match="max_new_tokens"):
        ContextAwareReader(lm, max_new_tokens=0)
    reader = ContextAwareReader(lm)
    with pytest.raises(InputError, match="blank"):
        reader.read(" ", DOCUMENTS)
    with pytest.raises(InputError, match="nothing to read"):
        reader.read(QUESTION, [" "])
    with pytest.raises(ContextOverflowError, match="reads 512"):
        reader.read(QUESTION, ["long text " * 100])
