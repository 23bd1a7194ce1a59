"""Rows and shared prefixes against eager attention maps, for every supported architecture."""

import numpy as np
import pytest
import torch
from test_rows import eager_maps, expected

import headwater as hw
from families import FAMILIES, HYBRID, OWN_ATTENTION, VOCABULARY, composite_model, family_model
from headwater.errors import HeadSetError, ModelError
from headwater.instrument.prefix import SharedPrefix
from headwater.model.anatomy import FAMILIES as SUPPORTED
from headwater.model.anatomy import output_projections
from models import byte_tokenizer


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def test_every_supported_family_is_tested():
    for names, interface in (([*FAMILIES, *HYBRID], True), (OWN_ATTENTION, False)):
        assert {name.split("-")[0] for name in names} == {f for f in SUPPORTED if SUPPORTED[f].interface is interface}


# Not in float64: eager Gemma 2 and gpt-oss take float32 steps of their own, expert layers have no float64 kernel.
SINGLE = {"gemma2", "gpt_oss", "mixtral"}
ROWS_FROM_MAPS = [name for name in OWN_ATTENTION if name != "falcon-alibi"]


def test_a_falcon_with_alibi_is_refused_in_words():
    lm = hw.load(model=family_model("falcon-alibi"), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="position bias twice"), hw.capture(lm, heads=[(0, 0)], rows=[-1]):
        lm.model(input_ids=tokens(1, 9))


@pytest.mark.parametrize("name", ROWS_FROM_MAPS)
def test_rows_outside_the_interface_are_taken_from_whole_maps(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    assert lm.anatomy.num_heads == 8
    assert lm.anatomy.num_kv_heads == {"falcon": 1, "falcon-new": 2}.get(name, 8)
    assert lm.max_length > 0
    eager = hw.load(model=family_model(name, attn_implementation="eager"), tokenizer=byte_tokenizer())
    before = lm.model.config._attn_implementation
    heads, rows, ids = [(2, 3), (0, 0), (3, 1)], [-1, 5, 20], tokens(2, 30)
    keep = torch.ones(2, 30, dtype=torch.long)
    keep[1, :6] = 0
    for mask in (torch.ones_like(keep), keep):
        with torch.no_grad(), hw.capture(lm, heads=heads, rows=rows) as attention:
            lm.model(input_ids=ids, attention_mask=mask)
        want = expected(eager_maps(eager, input_ids=ids, attention_mask=mask), heads, rows)
        assert (attention.rows - want).abs().max() <= 5e-6
    assert lm.model.config._attn_implementation == before
    with torch.no_grad(), hw.capture(lm, heads=heads, rows=rows, stop_early=False):
        inside = lm.model(input_ids=ids).logits
    assert (inside - lm.model(input_ids=ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize("name", OWN_ATTENTION)
def test_uniform_heads_outside_the_interface_are_refused_in_words(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="outside transformers' attention"), hw.ablated(lm, [(0, 0)], mode="uniform"):
        lm.model(input_ids=tokens(1, 9))


@pytest.mark.parametrize(
    ("name", "dtype"), [("jamba", torch.float32), ("lfm2", torch.float32), ("lfm2", torch.float64)]
)
def test_layers_without_heads_are_named_and_skipped(name, dtype):
    lm = hw.load(model=family_model(name, dtype=dtype), tokenizer=byte_tokenizer())
    assert lm.anatomy.headless == (0, 2)
    assert lm.anatomy.all_heads == [(layer, head) for layer in (1, 3) for head in range(8)]
    assert list(output_projections(lm.model)) == [1, 3]
    ids, heads, rows = tokens(2, 30), [(1, 2), (3, 0)], [-1, 7]
    with torch.no_grad(), hw.capture(lm, heads=heads, rows=rows) as attention:
        lm.model(input_ids=ids)
    want = expected(eager_maps(lm, input_ids=ids), [(0, 2), (1, 0)], rows)  # eager gives maps of those layers only
    assert (attention.rows - want).abs().max() <= (5e-6 if dtype == torch.float32 else 1e-10)
    with pytest.raises(HeadSetError, match="layer 2 has no attention heads"), hw.capture(lm, [(2, 0)], rows=[-1]):
        pass
    scores = hw.RandomHeads().score(lm).scores
    assert np.isnan(scores[[0, 2]]).all()
    assert np.isfinite(scores[[1, 3]]).all()
    documents = ["one document", "another one"]
    assert np.isfinite(hw.QRRetriever(lm, heads="all").score("which one?", documents)).all()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in SINGLE])
def test_packed_tails_equal_separate_runs_in_double_precision(name):
    lm = hw.load(model=family_model(name, dtype=torch.float64), tokenizer=byte_tokenizer())
    shared = SharedPrefix(lm, tokens(33).tolist(), lm.anatomy.all_heads)
    tails = [tokens(length, seed=seed).tolist() for length, seed in ((9, 2), (1, 3), (14, 4))]
    for tail, together in zip(tails, shared.attentions(tails), strict=True):
        assert (shared.attention(tail) - together).abs().max() <= 1e-12


def test_the_text_part_of_a_composite_model_is_entered():
    lm = hw.load(model=composite_model(), tokenizer=byte_tokenizer())
    assert (lm.anatomy.family, lm.anatomy.num_layers, lm.anatomy.num_heads) == ("llama", 4, 8)
    ids, heads, rows = tokens(1, 30), [(1, 2), (3, 0)], [-1, 7]
    with torch.no_grad(), hw.capture(lm, heads=heads, rows=rows, stop_early=False) as attention:
        inside = lm.model(input_ids=ids).logits
    assert torch.equal(inside, lm.model(input_ids=ids).logits)
    assert (attention.rows - expected(eager_maps(lm, input_ids=ids), heads, rows)).abs().max() <= 5e-6
    heads = hw.HeadSet(heads, coefficients=[0.5, 2.0])
    with torch.no_grad(), hw.scaled(lm, heads):
        scaled = lm.model(input_ids=ids).logits
    hw.fold(lm, heads)
    with torch.no_grad():
        assert (lm.model(input_ids=ids).logits - scaled).abs().max() <= 2e-5


def test_a_composite_checkpoint_is_loaded_by_its_path(tmp_path):
    composite_model().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    lm = hw.load(tmp_path)
    assert type(lm.model).__name__ == "LlavaForConditionalGeneration"
    assert hw.QRRetriever(lm, heads="all").score("which?", ["one", "two"]).shape == (2,)


def test_a_hybrid_without_any_heads_is_refused():
    with pytest.raises(ModelError, match="No layer"):
        hw.load(model=family_model("lfm2", layer_types=["conv"] * 4), tokenizer=byte_tokenizer())


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


@pytest.mark.parametrize("name", [*FAMILIES, *ROWS_FROM_MAPS, *HYBRID])
def test_tails_over_a_shared_prefix(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    prefix, heads = tokens(33).tolist(), [(2, 1), (0, 3), (2, 0), (3, 2)]
    if name in HYBRID:
        heads = [(3, 1), (1, 3), (3, 0)]
    layers = sorted(output_projections(lm.model))
    shared = SharedPrefix(lm, prefix, heads)
    tails = [tokens(length, seed=seed).tolist() for length, seed in ((9, 2), (1, 3), (14, 4))]
    packed = list(shared.attentions(tails))
    if name in ROWS_FROM_MAPS:  # Falcon cannot be switched to eager once it is built
        lm = hw.load(model=family_model(name, attn_implementation="eager"), tokenizer=byte_tokenizer())
    for tail, together in zip(tails, packed, strict=True):
        maps = eager_maps(lm, input_ids=torch.tensor([prefix + tail]))
        want = torch.stack([maps[layers.index(layer), 0, head, 33:, :33].mean(0) for layer, head in heads])
        alone = shared.attention(tail)
        assert (alone - want).abs().max() <= 5e-6
        assert (alone - together).abs().max() <= 2e-6


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
