"""Attention with gradients against whole eager runs that autograd goes through, for every architecture."""

import pytest
import torch

import headwater as hw
from families import FAMILIES, HYBRID, OWN_ATTENTION, VOCABULARY, family_model
from headwater.errors import ModelError
from headwater.instrument.prefix import SharedPrefix
from headwater.instrument.trainable import TrainablePrefix
from models import byte_tokenizer, random_lm

HEADS = [(2, 1), (0, 3), (2, 0), (1, 2)]


def ids(n: int, seed: int) -> list[int]:
    return torch.randint(2, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def eager_means(model, prefix, tail, heads):
    """Mean attention of a tail to a prefix from the maps of a whole eager run, with its graph."""
    softmax = torch.nn.functional.softmax
    with torch.enable_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim=dim))
        maps = model(input_ids=torch.tensor([prefix + tail]), output_attentions=True).attentions
    start = len(prefix)
    return torch.stack([maps[layer][0, head, start:, :start].mean(0) for layer, head in heads])


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum()}


def both(ours, twin, tolerance):
    """Compare numbers and gradients of a loss that mixes two tails unevenly."""
    prefix, tails = ids(33, 1), [ids(9, 2), ids(4, 3)]
    weights = torch.randn(2, len(HEADS), 33, generator=torch.Generator().manual_seed(5))
    lm = hw.load(model=ours, tokenizer=byte_tokenizer())
    got = torch.stack(list(TrainablePrefix(lm, prefix, HEADS).attentions(tails)))
    want = torch.stack([eager_means(twin, prefix, tail, HEADS) for tail in tails])
    assert (got - want).abs().max() <= tolerance
    assert (got.detach() - torch.stack(list(SharedPrefix(lm, prefix, HEADS).attentions(tails)))).abs().max() <= 1e-6
    weights = weights.to(got)
    fast, slow = gradients(ours, (got * weights).sum()), gradients(twin, (want * weights).sum())
    assert fast.keys() == slow.keys()
    assert len(fast) > 10
    largest = max(slope.abs().max().item() for slope in slow.values())
    for name, slope in slow.items():
        assert (fast[name] - slope).abs().max() <= 20 * tolerance * largest, name
    return fast


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_equal_those_of_eager_runs(name):
    own = both(family_model(name), family_model(name, attn_implementation="eager"), 5e-6)
    assert not [parameter for parameter in own if ".3." in parameter], "nothing above the deepest head runs"


@pytest.mark.parametrize("name", ["starcoder2", "gpt2"])  # grouped queries and not; no norm that works in float32
def test_gradients_are_exact_in_double_precision(name):
    eager = family_model(name, dtype=torch.float64, attn_implementation="eager")
    both(family_model(name, dtype=torch.float64), eager, 1e-12)


@pytest.mark.parametrize("name", [*OWN_ATTENTION, *HYBRID])
def test_models_that_cannot_be_trained_are_named(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="cannot be trained"):
        TrainablePrefix(lm, ids(20, 1), [(1, 0)])


def test_a_rotary_embedding_that_changes_with_the_length_is_refused():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 24}
    prefix = TrainablePrefix(random_lm(rope_parameters=rope), ids(20, 1), [(1, 0)])
    with pytest.raises(ModelError, match="Lists of 29 tokens"):
        prefix.attention(ids(9, 2))


def test_only_parts_of_a_tail_may_count():
    lm = random_lm()
    prefix, tail = ids(20, 1), ids(9, 2)
    got = TrainablePrefix(lm, prefix, HEADS).attention(tail, (3, 7))
    assert got.requires_grad
    assert (got - SharedPrefix(lm, prefix, HEADS).attention(tail, (3, 7))).abs().max() <= 1e-6


def test_the_instrument_leaves_no_graph_behind_without_training():
    lm = random_lm()
    assert not SharedPrefix(lm, ids(20, 1), HEADS).attention(ids(5, 2)).requires_grad
