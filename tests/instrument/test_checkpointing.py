"""Activation checkpointing: the same numbers without dropout, and a model that is afterwards as it was before."""

from __future__ import annotations

import pytest
import torch

import headwater as hw
from families import family_model
from headwater.errors import ModelError
from headwater.instrument.checkpointing import checkpointed
from headwater.model.anatomy import decoder_layers
from models import byte_tokenizer, random_lm

IDS = torch.arange(5, 25)[None]
NOISY = {
    "falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "bloom": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "mpt": {},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5},
    "gpt2": {"resid_pdrop": 0.5, "attn_pdrop": 0.5},
    "phi": {"resid_pdrop": 0.5},
    "llama": {"attention_dropout": 0.5},
}


def state(lm):
    """All that checkpointing may touch."""
    model = lm.model
    names = ("training", "gradient_checkpointing", "dropout", "_gradient_checkpointing_func")
    return (
        [[vars(module).get(name) or None for name in names] for module in model.modules()],
        len(model.get_input_embeddings()._forward_hooks),
        model.config.to_dict(),
    )


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", NOISY)
def test_no_dropout_and_the_same_gradients(family, reentrant):
    lm = hw.load(model=family_model(family, **NOISY[family]), tokenizer=byte_tokenizer())
    before = state(lm)
    weight = next(p for p in decoder_layers(lm.model)[0].parameters() if p.dim() == 2)

    def slope():
        logits = lm.model(input_ids=IDS, use_cache=False).logits
        (found,) = torch.autograd.grad(logits.square().mean(), [weight]) if not reentrant else (None,)
        if reentrant:  # which knows `backward` alone
            weight.grad = None
            logits.square().mean().backward()
            found = weight.grad.clone()
        return logits.detach(), found

    plain = slope()
    with checkpointed(lm, reentrant):
        for found, expected in zip(slope(), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert state(lm) == before


def test_the_model_is_as_before_also_where_it_was_checkpointed_already():
    lm = random_lm(layers=2)
    lm.model.activation_checkpointing_enable({"use_reentrant": True}) if hasattr(
        lm.model, "activation_checkpointing_enable"
    ) else lm.model.gradient_checkpointing_enable({"use_reentrant": True})
    before = state(lm)
    for _ in range(2):
        with checkpointed(lm):
            assert state(lm) != before
    assert state(lm) == before
    with pytest.raises(KeyboardInterrupt), checkpointed(lm, reentrant=True):
        raise KeyboardInterrupt
    assert state(lm) == before


def test_an_architecture_without_it_is_said():
    lm = random_lm(layers=1)
    lm.model.supports_gradient_checkpointing = False
    with pytest.raises(ModelError, match="cannot checkpoint"), checkpointed(lm):
        pass
