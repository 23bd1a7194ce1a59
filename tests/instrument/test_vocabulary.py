"""Logits of chosen states and the loss in blocks: the model's own numbers."""

import pytest
import torch

import headwater as hw
from families import FAMILIES, family_model
from headwater.errors import ModelError
from headwater.instrument.vocabulary import check_projection, next_token_loss, state_logits
from headwater.model.anatomy import decoder
from models import byte_tokenizer, random_lm

IDS = torch.randint(2, 258, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*(n for n in FAMILIES if n not in ("llama-mha", "llama-mqa")), "bloom", "falcon"])
@torch.no_grad()
def test_logits_of_chosen_states(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    check_projection(lm)
    hidden = decoder(lm.model)(input_ids=IDS, use_cache=False).last_hidden_state
    places = torch.tensor([3, 8])
    kept = lm.model(input_ids=IDS, use_cache=False, logits_to_keep=places).logits.float()
    torch.testing.assert_close(state_logits(lm, hidden[:, places]), kept, atol=1e-5, rtol=0)


def test_blocks_give_the_whole_loss_and_its_gradient():
    lm = random_lm(dtype=torch.float64)
    hidden = torch.randn(11, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    said = torch.randint(0, 258, (11,), generator=torch.Generator().manual_seed(2))
    found = []
    for block in (3, 100):
        own = hidden.clone().requires_grad_()
        loss = next_token_loss(lm, own, said, block)
        found.append((loss.detach(), *torch.autograd.grad(loss, [own, lm.model.lm_head.weight])))
    want = -torch.log_softmax(lm.model.lm_head(hidden), -1)[torch.arange(11), said].sum()
    torch.testing.assert_close(found[0][0], want)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(next_token_loss(lm, hidden, said, 4), want)


def test_a_model_with_more_behind_its_projection_is_refused(monkeypatch):
    lm = random_lm()
    monkeypatch.setattr(lm.model.config, "final_logit_softcapping", 0.5, raising=False)
    with pytest.raises(ModelError, match="not its output projection"):
        check_projection(lm)
