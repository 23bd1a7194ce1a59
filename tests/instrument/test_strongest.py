"""The strongest key of every head, streamed while the model decodes, against eager attention maps."""

import pytest
import torch
from test_rows import eager_maps

import headwater as hw
from families import FAMILIES, HYBRID, OWN_ATTENTION, VOCABULARY, family_model
from headwater.errors import HeadSetError, InputError, NonFiniteAttentionError
from headwater.instrument.softmax import Logits, row_blocks, strongest_keys
from headwater.instrument.strongest import strongest
from headwater.model.greedy import greedy
from models import byte_tokenizer, random_lm

WHOLE_MAPS = [name for name in OWN_ATTENTION if name != "falcon-alibi"]
STEPS = 5


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def family_lm(name: str, **more):
    return hw.load(model=family_model(name, **more), tokenizer=byte_tokenizer())


@pytest.mark.parametrize("name", [*FAMILIES, *HYBRID, *WHOLE_MAPS])
def test_every_head_and_step_equals_eager_maps(name):
    """Also behind sliding windows (16 tokens here), whose cache forgets the first keys."""
    lm, ids = family_lm(name), tokens(40).tolist()
    plain = greedy(lm, ids, STEPS)
    stock = lm.model.config._attn_implementation
    with strongest(lm) as found:
        assert greedy(lm, ids, STEPS) == plain
    assert lm.model.config._attn_implementation == stock
    assert len(found.index) == len(plain)
    eager = family_lm(name, attn_implementation="eager") if name in WHOLE_MAPS else lm
    layers = [layer for layer in range(lm.anatomy.num_layers) if layer not in lm.anatomy.headless]
    for step in range(len(plain)):
        seen = torch.tensor([ids + plain[:step]])
        maps = eager_maps(eager, input_ids=seen)
        rows = torch.stack([maps[layers.index(layer)][0, head, -1] for layer, head in lm.anatomy.all_heads])
        index, weight = found.index[step, 0, :, 0], found.weight[step, 0, :, 0]
        assert (rows.gather(1, index[:, None])[:, 0] - rows.max(1).values).abs().max() <= 1e-6
        assert (index == rows.argmax(1)).float().mean() > 0.98  # the others are ties to six digits
        assert (weight - rows.max(1).values).abs().max() <= 1e-5
        first = (rows > 0).int().argmax(1)
        assert torch.equal(found.first[step, 0, :, 0], first)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "mistral"])
def test_chosen_rows_of_one_forward(name):
    lm, ids, heads = family_lm(name), tokens(2, 40), [(3, 1), (0, 2)]
    keep = torch.ones_like(ids)
    keep[1, :7] = 0
    with torch.no_grad(), strongest(lm, heads, rows=[-1, 5, 20]) as found:
        lm.model(input_ids=ids, attention_mask=keep)
    with torch.no_grad(), hw.capture(lm, heads, rows=[-1, 5, 20]) as rows:
        lm.model(input_ids=ids, attention_mask=keep)
    assert found.index.shape == (1, 2, 2, 3)
    blind = rows.rows.sum(-1) == 0
    assert torch.equal(found.index[0] == -1, blind)
    assert torch.equal(found.index[0].masked_fill(blind, 0), rows.rows.argmax(-1))
    assert (found.weight[0] - rows.rows.max(-1).values).abs().max() <= 1e-6
    assert (found.first[0, 1, :, 0] >= 7).all()


@pytest.mark.parametrize("held", [1, 7, 64, 2**20])
@pytest.mark.parametrize("sinks", [False, True])
def test_blocks_give_what_whole_rows_give(held, sinks):
    torch.manual_seed(0)
    query, key = torch.randn(2, 6, 3, 8), torch.randn(2, 2, 50, 8)
    visible = torch.rand(2, 1, 3, 50) < 0.5
    visible[1, 0, 2] = False
    logits = Logits(0.3, softcap=5.0, sinks=torch.randn(6) if sinks else None)
    whole = {tuple(members): rows for members, rows in row_blocks(query, key, [0, 2, 5], visible, logits, 0)}
    for members, index, weight in strongest_keys(query, key, [0, 2, 5], visible, logits, 0, held):
        rows = whole[tuple(members)]
        blind = ~visible.any(-1).expand(rows.shape[:3])
        assert torch.equal(index, rows.argmax(-1).masked_fill(blind, -1))
        assert (weight - rows.max(-1).values).abs().max() <= 1e-6


@pytest.mark.parametrize("held", [1, 6, 2**20])
def test_ties_go_to_the_lowest_key(held):
    key = torch.ones(1, 1, 20, 4)
    visible = torch.ones(1, 1, 1, 20, dtype=torch.bool)
    visible[..., :3] = False
    ((_, index, weight),) = strongest_keys(torch.ones(1, 2, 1, 4), key, [0, 1], visible, Logits(1.0), 0, held)
    assert index.flatten().tolist() == [3, 3]
    assert weight.flatten().tolist() == pytest.approx([1 / 17] * 2)


def test_a_second_prompt_in_one_block_begins_anew():
    lm = family_lm("mistral")
    with strongest(lm) as found:
        greedy(lm, tokens(40).tolist(), 3)
        greedy(lm, tokens(30, seed=2).tolist(), 3)
    with strongest(lm) as alone:
        greedy(lm, tokens(30, seed=2).tolist(), 3)
    assert torch.equal(found.index[3:], alone.index)


def test_gradients_pass_through_the_block():
    lm = random_lm()
    with strongest(lm):
        lm.model(input_ids=tokens(1, 9)).logits.sum().backward()
    assert lm.model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_bad_input():
    lm = random_lm()
    with pytest.raises(InputError, match="rows is empty"), strongest(lm, rows=[]):
        pass
    with pytest.raises(HeadSetError, match="not in this model"), strongest(lm, [(9, 0)]):
        pass
    with pytest.raises(InputError, match="outside the 4 query positions"), strongest(lm, rows=[4]):
        lm.model(input_ids=tokens(1, 4))
    with strongest(lm) as found, pytest.raises(InputError, match="No attention was read"):
        _ = found.index
    lm.model.model.layers[2].self_attn.k_proj.weight.data[:] = float("nan")
    with pytest.raises(NonFiniteAttentionError, match="layer 2"), torch.no_grad(), strongest(lm):
        lm.model(input_ids=tokens(1, 4))
    assert "headwater" not in lm.model.config._attn_implementation
