"""Rows and shared prefixes against eager attention maps, for every supported architecture."""

import pytest
import torch
from test_rows import eager_maps, expected

import headwater as hw
from families import FAMILIES, OWN_ATTENTION, VOCABULARY, family_model
from headwater.errors import ModelError
from headwater.instrument.prefix import SharedPrefix
from headwater.model.anatomy import FAMILIES as SUPPORTED
from models import byte_tokenizer


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def test_every_supported_family_is_tested():
    for names, interface in ((FAMILIES, True), (OWN_ATTENTION, False)):
        assert {name.split("-")[0] for name in names} == {f for f in SUPPORTED if SUPPORTED[f].interface is interface}


@pytest.mark.parametrize("name", OWN_ATTENTION)
def test_rows_outside_the_interface_are_refused_in_words(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    assert lm.anatomy.num_heads == 8
    assert lm.anatomy.num_kv_heads == {"falcon": 1, "falcon-new": 2}.get(name, 8)
    assert lm.max_length > 0
    with pytest.raises(ModelError, match="rows cannot be read"), hw.capture(lm, heads=[(0, 0)], rows=[-1]):
        lm.model(input_ids=tokens(1, 9))


# Not in float64: eager Gemma 2 and gpt-oss take float32 steps of their own, expert layers have no float64 kernel.
SINGLE = {"gemma2", "gpt_oss", "mixtral"}


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        *((name, torch.float32, 5e-6) for name in FAMILIES),
        *((name, torch.float64, 1e-10) for name in FAMILIES if name not in SINGLE),
    ],
)
def test_rows(name, dtype, tolerance):
    lm = hw.load(model=family_model(name, dtype=dtype), tokenizer=byte_tokenizer())
    heads, rows, ids = [(2, 3), (0, 0), (3, 1)], [-1, 5, 20, -7], tokens(2, 40)
    with torch.no_grad(), hw.capture(lm, heads=heads, rows=rows) as attention:
        lm.model(input_ids=ids)
    want = expected(eager_maps(lm, input_ids=ids), heads, rows)
    assert (attention.rows - want).abs().max() <= tolerance


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows(name, side):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    ids, keep, rows = tokens(2, 30), torch.ones(2, 30, dtype=torch.long), [10, 20, 23]
    keep[1, slice(0, 6) if side == "left" else slice(-6, None)] = 0
    with torch.no_grad(), hw.capture(lm, heads=[(1, 2), (3, 0)], rows=rows) as attention:
        lm.model(input_ids=ids, attention_mask=keep)
    want = expected(eager_maps(lm, input_ids=ids, attention_mask=keep), [(1, 2), (3, 0)], rows)
    assert (attention.rows - want).abs().max() <= 5e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_tails_over_a_shared_prefix(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    prefix, heads = tokens(33).tolist(), [(2, 1), (0, 3), (2, 0), (3, 2)]
    shared = SharedPrefix(lm, prefix, heads)
    for length, seed in ((9, 2), (1, 3), (14, 4)):
        tail = tokens(length, seed=seed).tolist()
        maps = eager_maps(lm, input_ids=torch.tensor([prefix + tail]))
        want = torch.stack([maps[layer, 0, head, 33:, :33].mean(0) for layer, head in heads])
        assert (shared.attention(tail) - want).abs().max() <= 5e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_outside_the_block_are_bit_equal(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    ids = tokens(1, 25)
    with torch.no_grad():
        before = lm.model(input_ids=ids).logits
        with hw.capture(lm, heads=[(1, 1)], rows=[-1], stop_early=False):
            inside = lm.model(input_ids=ids).logits
        assert torch.equal(before, inside)
        assert torch.equal(before, lm.model(input_ids=ids).logits)
