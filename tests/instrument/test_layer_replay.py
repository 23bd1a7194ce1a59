"""The growing batch against the one-token replay, which is tested against whole forwards."""

import pytest
import torch

import headwater as hw
from families import FAMILIES, OWN_ATTENTION, VOCABULARY, family_model
from headwater.errors import InputError, ModelError
from headwater.instrument.layer_replay import layer_replay
from headwater.instrument.replay import replay
from models import byte_tokenizer, random_lm


def ids(sequences: int = 3, tokens: int = 12) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (sequences, tokens), generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([5, 90, 200])


def test_a_family_whose_attention_counts_its_rows_is_refused():
    lm = hw.load(model=family_model("bloom"), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="engine='tokens'"):
        layer_replay(lm, ids(), TARGETS)


@pytest.mark.parametrize("name", [name for name in (*FAMILIES, *OWN_ATTENTION) if name != "bloom"])
def test_equal_to_the_one_token_replay(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    want = replay(lm, ids(), TARGETS)
    got = layer_replay(lm, ids(), TARGETS)
    assert got.heads == want.heads
    assert want.change.abs().max() > 1e-4
    scale = max(1.0, want.clean.abs().max().item())
    assert (got.change - want.change).abs().max() <= 2e-5 * scale
    assert got.noise <= 2e-5 * scale


@pytest.mark.parametrize("ablation", ["batch_mean", "sequence_mean", "zero"])
def test_walks_of_any_size_and_any_kernel_agree(ablation):
    lm = random_lm(dtype=torch.float64)
    want = replay(lm, ids(), TARGETS, ablation=ablation).change
    for rows in (1, 40, 4096):
        assert (layer_replay(lm, ids(), TARGETS, ablation=ablation, rows=rows).change - want).abs().max() < 1e-12
    lm.model.set_attn_implementation("eager")
    assert (layer_replay(lm, ids(), TARGETS, ablation=ablation).change - want).abs().max() < 1e-5


def test_nothing_is_left_behind():
    lm = random_lm()
    with torch.no_grad():
        before = lm.model(input_ids=ids()).logits
        layer_replay(lm, ids(), TARGETS)
        assert torch.equal(before, lm.model(input_ids=ids()).logits)
    assert not any(m._forward_pre_hooks for m in lm.model.modules())


def test_bad_input():
    with pytest.raises(InputError, match="Unknown ablation"):
        layer_replay(random_lm(), ids(), TARGETS, ablation="mean")
