"""A shared prefix with tails against separate full runs through eager attention."""

import pytest
import torch
from test_rows import eager_maps

import headwater as hw
from families import family_model
from headwater.errors import ContextOverflowError, HeadSetError, InputError, NonFiniteAttentionError
from headwater.instrument.prefix import SharedPrefix
from models import VOCABULARY, byte_tokenizer, random_lm

BYTES = byte_tokenizer()


def ids(n: int, seed: int) -> list[int]:
    return torch.randint(2, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("family", ["llama", "llama-mha", "llama-mqa", "gpt2"])
@pytest.mark.parametrize(
    ("stock", "dtype", "tolerance"),
    [("sdpa", torch.float32, 5e-6), ("eager", torch.float32, 5e-6), ("sdpa", torch.float64, 1e-10)],
)
def test_tails_equal_separate_runs(family, stock, dtype, tolerance):
    lm = random_lm(family, dtype=dtype)
    lm.model.set_attn_implementation(stock)
    prefix, heads = ids(33, 1), [(2, 1), (0, 3), (2, 0), (3, 2)]
    shared = SharedPrefix(lm, prefix, heads)
    for tail in (ids(9, 2), ids(1, 3), ids(14, 4)):
        maps = eager_maps(lm, input_ids=torch.tensor([prefix + tail]))
        want = torch.stack([maps[layer, 0, head, 33:, :33].mean(0) for layer, head in heads])
        got = shared.attention(tail)
        assert got.shape == (4, 33)
        assert (got - want).abs().max() <= tolerance
    assert lm.model.config._attn_implementation == stock


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "qwen2"])
def test_means_over_a_part_of_the_tail(family):
    lm = random_lm(family) if family in ("llama", "gpt2") else hw.load(model=family_model(family), tokenizer=BYTES)
    prefix, heads = ids(33, 1), [(2, 1), (0, 3), (3, 2)]
    shared = SharedPrefix(lm, prefix, heads)
    tails = [ids(9, 2), ids(1, 3), ids(14, 4), ids(9, 5)]
    spans = [(2, 9), (0, 1), (13, 14), (0, 9)]
    got = list(shared.attentions(tails, spans))
    for tail, (start, stop), rows in zip(tails, spans, got, strict=True):
        maps = eager_maps(lm, input_ids=torch.tensor([prefix + tail]))
        want = torch.stack([maps[layer, 0, head, 33 + start : 33 + stop, :33].mean(0) for layer, head in heads])
        assert (rows - want).abs().max() <= 5e-6
        assert (shared.attention(tail, (start, stop)) - want).abs().max() <= 5e-6


@pytest.mark.parametrize("span", [(0, 0), (3, 2), (0, 6), (-1, 2)])
def test_a_part_of_the_tail_that_is_not_there(span):
    with pytest.raises(InputError, match="holds no tokens of a tail of 5"):
        SharedPrefix(random_lm(), ids(20, 1), [(1, 0)]).attention(ids(5, 2), span)


def test_tails_do_not_see_each_other():
    lm = random_lm()
    shared = SharedPrefix(lm, ids(20, 1), [(3, 0)])
    first = shared.attention(ids(5, 2))
    shared.attention(ids(7, 3))
    assert torch.equal(first, shared.attention(ids(5, 2)))


def test_only_the_needed_layers_are_prefilled():
    lm = random_lm()
    ran: list[int] = []
    for i, layer in enumerate(lm.model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
    SharedPrefix(lm, ids(20, 1), [(1, 0), (2, 5)]).attention(ids(4, 2))
    assert ran == [0, 1, 0, 1]


def test_nan_names_layer_and_head():
    lm = random_lm()
    with torch.no_grad():
        lm.model.model.layers[2].self_attn.q_proj.weight[5 * 16 : 6 * 16] = torch.nan
    with pytest.raises(NonFiniteAttentionError, match="layer 2, head 5"):
        SharedPrefix(lm, ids(20, 1), [(1, 0), (2, 4), (2, 5)]).attention(ids(4, 2))


def test_bad_input():
    lm = random_lm()
    with pytest.raises(HeadSetError, match="empty"):
        SharedPrefix(lm, [2], [])
    with pytest.raises(InputError, match="prefix is empty"):
        SharedPrefix(lm, [], [(0, 0)])
    with pytest.raises(InputError, match="tail is empty"):
        SharedPrefix(lm, [2], [(0, 0)]).attention([])
    with pytest.raises(ContextOverflowError, match="513 tokens") as error:
        SharedPrefix(lm, ids(500, 1), [(0, 0)]).attention(ids(13, 2))
    assert (error.value.tokens, error.value.limit) == (513, 512)


ROPES = {
    "dynamic": {"factor": 4.0},
    "longrope": {"factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]},
}


@pytest.mark.parametrize("length", [40, 60, 70])
@pytest.mark.parametrize("kind", ROPES)
def test_a_length_dependent_rotary_embedding_is_not_shared_across_its_border(kind, length):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "original_max_position_embeddings": 64, **ROPES[kind]}
    prefix, tail = ids(length, 1), ids(13, 2)
    got = SharedPrefix(random_lm(rope_parameters=rope), prefix, [(2, 1), (0, 3)]).attention(tail)
    maps = eager_maps(random_lm(rope_parameters=rope), input_ids=torch.tensor([prefix + tail]))
    want = torch.stack([maps[layer, 0, head, length:, :length].mean(0) for layer, head in ((2, 1), (0, 3))])
    assert (got - want).abs().max() <= 5e-6


def test_many_tails_take_few_passes(monkeypatch):
    lm = random_lm()
    shared = SharedPrefix(lm, ids(20, 1), [(1, 0), (2, 5)])
    passes: list[int] = []
    lm.model.model.embed_tokens.register_forward_hook(lambda _, args, __: passes.append(args[0].shape[1]))
    tails = [ids(5, seed) for seed in range(6)]
    want = [shared.attention(tail) for tail in tails]
    passes.clear()
    monkeypatch.setattr("headwater.instrument.prefix.PACKED_TOKENS", 16)
    got = list(shared.attentions(tails))
    assert passes == [15, 15]
    assert all((g - w).abs().max() <= 1e-6 for g, w in zip(got, want, strict=True))
    passes.clear()
    monkeypatch.setattr("headwater.instrument.prefix.PACKED_VALUES", 80)
    list(shared.attentions(tails))
    assert passes == [10, 10, 10]
    assert list(shared.attentions([])) == []
