"""Log probabilities against one forward per token, and their edges."""

import math

import pytest
import torch

from headwater.errors import ContextOverflowError, InputError
from headwater.read.likelihood import continuation_log_probabilities, text_loss
from models import random_lm


def slow(lm, given: list[int], rest: list[int]) -> float:
    """One forward per token."""
    total = 0.0
    for place, token in enumerate(rest):
        ids = torch.tensor([given + rest[:place]])
        with torch.no_grad():
            total += lm.model(input_ids=ids).logits[0, -1].double().log_softmax(-1)[token].item()
    return total


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_text_against_the_slow_way(family: str) -> None:
    lm = random_lm(family)
    text = "Paris, the capital."
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    nats, tokens = text_loss(lm, text)
    assert tokens == len(ids)
    assert nats == pytest.approx(-slow(lm, [lm.tokenizer.bos_token_id], ids), abs=1e-3)


def test_a_long_text_is_read_in_parts() -> None:
    lm = random_lm(max_position_embeddings=16)
    text = "abcdefghij" * 4
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = -sum(slow(lm, [0], ids[start : start + 15]) for start in range(0, len(ids), 15))
    nats, tokens = text_loss(lm, text)
    assert (nats, tokens) == (pytest.approx(expected, abs=1e-3), 40)


def test_without_a_begin_token_the_first_token_is_given() -> None:
    lm = random_lm()
    lm.tokenizer.bos_token = None
    ids = lm.tokenizer("abc", add_special_tokens=False)["input_ids"]
    nats, tokens = text_loss(lm, "abc")
    assert (nats, tokens) == (pytest.approx(-slow(lm, ids[:1], ids[1:]), abs=1e-4), 2)
    with pytest.raises(InputError, match="no token to predict"):
        text_loss(lm, "a")
    with pytest.raises(InputError, match="Give a prompt"):
        continuation_log_probabilities(lm, "", [" a"])


def test_continuations() -> None:
    lm = random_lm()
    given = [lm.tokenizer.bos_token_id, *lm.tokenizer("The capital is", add_special_tokens=False)["input_ids"]]
    options = [" Paris", " Rome"]
    found = continuation_log_probabilities(lm, "The capital is", options)
    for option, value in zip(options, found, strict=True):
        rest = lm.tokenizer(option, add_special_tokens=False)["input_ids"]
        assert value == pytest.approx(slow(lm, given, rest), abs=1e-3)
    assert all(math.isfinite(value) for value in found)


def test_bad_continuations() -> None:
    lm = random_lm(max_position_embeddings=16)
    with pytest.raises(InputError, match="has no tokens"):
        continuation_log_probabilities(lm, "a", [""])
    with pytest.raises(InputError, match="at least one"):
        continuation_log_probabilities(lm, "a", [])
    with pytest.raises(ContextOverflowError, match="reads 16"):
        continuation_log_probabilities(lm, "a" * 20, ["b"])
