"""Tokens added to a model and taken off again."""

from types import SimpleNamespace

import pytest
import torch

import headwater as hw
from families import family_model
from headwater.model import slots
from headwater.model.anatomy import decoder
from headwater.model.slots import add_tokens, added_tokens
from models import byte_tokenizer, random_lm

NAMES = ["<s1>", "<s2>", "<s3>"]
IDS = torch.tensor([[5, 9, 77]])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi", "gpt_neox"])
def test_rows_are_added_and_taken_away(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    before, state, config = lm.fingerprint, {k: v.clone() for k, v in lm.model.state_dict().items()}, lm.model.config
    with torch.no_grad():
        plain = lm.model(input_ids=IDS).logits
        with added_tokens(lm, NAMES) as more:
            assert len(more.tokenizer) == len(lm.tokenizer) + 3
            assert config.vocab_size == len(more.tokenizer)
            logits = more.model(input_ids=IDS).logits
            assert logits.shape[-1] == len(more.tokenizer)
            torch.testing.assert_close(logits[..., :-3], plain, atol=1e-5, rtol=0)
            new = torch.tensor([[more.tokenizer.convert_tokens_to_ids("<s2>")]])
            assert decoder(more.model)(input_ids=new).last_hidden_state.isfinite().all()
            tied = more.model.get_input_embeddings().weight is more.model.get_output_embeddings().weight
            assert tied == bool(getattr(config, "tie_word_embeddings", False))
    assert lm.fingerprint == before
    assert "<s1>" not in lm.tokenizer.get_vocab()
    after = lm.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in state.items())


def test_a_seed_repeats_and_known_tokens_add_nothing():
    rows = []
    for seed in (0, 0, 1):
        with added_tokens(random_lm(), NAMES, seed) as lm:
            rows.append(lm.model.get_input_embeddings().weight[-3:].clone())
            assert add_tokens(lm, NAMES) is lm
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert len({tuple(row.tolist()) for row in rows[0]}) == 3


def test_a_padded_vocabulary_is_not_shrunk():
    tokenizer = byte_tokenizer()
    lm = hw.load(model=family_model("llama", vocab_size=300), tokenizer=tokenizer)
    old = lm.model.get_input_embeddings().weight
    with added_tokens(lm, NAMES) as more:
        assert more.model.get_input_embeddings().weight is old
        assert len(more.tokenizer) == len(tokenizer) + 3


def test_a_configuration_without_a_size_gets_none(monkeypatch):
    lm = random_lm()
    inner, size = lm.model.config, lm.model.config.vocab_size
    monkeypatch.setattr(slots, "text_config", lambda _: inner)
    monkeypatch.setattr(lm.model, "config", SimpleNamespace())
    with added_tokens(lm, NAMES):
        assert inner.vocab_size == size + 3
        assert not vars(lm.model.config)
    assert inner.vocab_size == size
    assert not vars(lm.model.config)


def test_an_exception_leaves_the_model_as_it_was():
    lm = random_lm()
    before = lm.fingerprint
    with pytest.raises(RuntimeError, match="no"), added_tokens(lm, NAMES):
        raise RuntimeError("no")
    assert lm.fingerprint == before
