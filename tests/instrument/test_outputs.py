"""Scaling and ablation of head outputs against weights edited by hand; folding against scaling; undoing it."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM

import headwater as hw
from families import FAMILIES, OWN_ATTENTION, VOCABULARY, family_model
from headwater.errors import HeadSetError, InputError, ModelError
from headwater.instrument.outputs import reference_means
from headwater.model.anatomy import output_projections
from models import byte_tokenizer, random_lm

HEADS = [(2, 1), (0, 3), (2, 0)]
COEFFICIENTS = [0.5, 1.3, -0.7]


def family_lm(name, dtype=torch.float32):
    return hw.load(model=family_model(name, dtype=dtype), tokenizer=byte_tokenizer())


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def logits(lm, ids, **inputs):
    with torch.no_grad():
        return lm.model(input_ids=ids, **inputs).logits


def heads_by_hand(lm, ids):
    """Inputs of every output projection, `[layer][batch, position, head, d_v]`, of the untouched model."""
    kept = []
    hooks = [
        projection.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
        for projection in output_projections(lm.model).values()
    ]
    logits(lm, ids)
    for hook in hooks:
        hook.remove()
    return [z.unflatten(-1, (lm.anatomy.num_heads, -1)) for z in kept]


@pytest.mark.parametrize("name", FAMILIES + OWN_ATTENTION)
def test_fold_equals_scaled_and_unfold_undoes_it(name):
    lm, ids, heads = family_lm(name), tokens(2, 20), hw.HeadSet(HEADS, COEFFICIENTS)
    before = logits(lm, ids)
    with hw.scaled(lm, heads):
        want = logits(lm, ids)
    assert torch.equal(before, logits(lm, ids))
    assert (want - before).abs().max() > 1e-3
    hw.fold(lm, heads)
    scale = before.abs().max()
    assert (logits(lm, ids) - want).abs().max() / scale <= 2e-5
    hw.unfold(lm, heads)
    assert (logits(lm, ids) - before).abs().max() / scale <= 2e-5


@pytest.mark.parametrize("name", FAMILIES + OWN_ATTENTION)
def test_zero_equals_zeroed_columns(name):
    lm, ids = family_lm(name), tokens(2, 20)
    with hw.ablated(lm, HEADS):
        got = logits(lm, ids)
    size = heads_by_hand(lm, ids)[0].shape[-1]
    with torch.no_grad():
        for layer, head in HEADS:
            weight = output_projections(lm.model)[layer].weight
            part = slice(head * size, (head + 1) * size)
            (weight[part] if name.startswith("gpt2") else weight[:, part]).zero_()
    assert (got - logits(lm, ids)).abs().max() <= 1e-5 * got.abs().max()


def by_hand(lm, ids, layer, head, new):
    """Logits with one head's output put in by hand."""

    def hook(_, args):
        z = args[0].unflatten(-1, (lm.anatomy.num_heads, -1)).clone()
        z[:, :, head] = new
        return (z.flatten(-2),)

    handle = output_projections(lm.model)[layer].register_forward_pre_hook(hook)
    out = logits(lm, ids)
    handle.remove()
    return out


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_means_equal_means_by_hand(family):
    lm, ids = random_lm(family), tokens(3, 15)
    z = heads_by_hand(lm, ids)[1][:, :, 2]
    counts = torch.arange(1, 16)[None, :, None]
    for mode, new in (("batch_mean", z.mean(0)), ("sequence_mean", z.cumsum(1) / counts)):
        with hw.ablated(lm, [(1, 2)], mode=mode):
            got = logits(lm, ids)
        torch.testing.assert_close(got, by_hand(lm, ids, 1, 2, new), atol=1e-5, rtol=1e-5)


def test_the_reference_mean_is_the_mean_over_all_reference_tokens():
    lm, ids, texts = random_lm(), tokens(1, 15), ["one text", "a longer second text"]
    kept = [heads_by_hand(lm, lm.tokenizer(t, return_tensors="pt")["input_ids"])[1][0, :, 2] for t in texts]
    mean = torch.cat(kept).mean(0)
    torch.testing.assert_close(reference_means(lm, [(1, 2)], texts)[0], mean, atol=1e-6, rtol=1e-5)
    with hw.ablated(lm, [(1, 2)], mode="reference_mean", reference=texts):
        got = logits(lm, ids)
    torch.testing.assert_close(got, by_hand(lm, ids, 1, 2, mean), atol=1e-5, rtol=1e-5)


def test_given_outputs_are_put_in():
    lm, ids = random_lm(), tokens(2, 15)
    new = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    with hw.replaced(lm, [(1, 2), (3, 0)], new[[0, 0]]), hw.replaced(lm, [(3, 0)], torch.zeros(1, 16)):
        got = logits(lm, ids)
    with hw.ablated(lm, [(3, 0)]):
        torch.testing.assert_close(got, by_hand(lm, ids, 1, 2, new[0]), atol=1e-5, rtol=1e-5)
    with hw.replaced(lm, [(1, 2)], new[:1], phase="decode"):
        last = logits(lm, ids)
    torch.testing.assert_close(last[:, :-1], logits(lm, ids)[:, :-1], atol=1e-5, rtol=1e-5)
    assert (last[:, -1] - logits(lm, ids)[:, -1]).abs().max() > 1e-3
    with pytest.raises(InputError, match="1 heads"), hw.replaced(lm, [(1, 2)], new):
        pass
    with pytest.raises(InputError, match="Unknown phase"), hw.replaced(lm, [(1, 2)], new[:1], phase="prompt"):
        pass
    with pytest.raises(InputError, match=r"shape \[1, 7\] do not fit"), hw.replaced(lm, [(1, 2)], new[:1, :7]):
        logits(lm, ids)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gpt_oss"])
def test_uniform_averages_the_visible_values_only(name):
    lm, ids = family_lm(name), tokens(1, 30)
    values = {}

    def remember(kernel, module, query, key, value, mask, **kwargs):
        values[module.layer_idx] = value
        return kernel(module, query, key, value, mask, **kwargs)

    from headwater.instrument.interface import routed

    with routed(lm, remember):
        logits(lm, ids)
    value = values[0][0, 3 // (lm.anatomy.num_heads // lm.anatomy.num_kv_heads)]
    window = 16 if name in ("mistral", "gpt_oss") else 30
    sink = lm.model.model.layers[0].self_attn.sinks[3].exp() if name == "gpt_oss" else 0.0
    rows = [value[max(0, t - window + 1) : t + 1] for t in range(30)]
    new = torch.stack([row.sum(0) / (len(row) + sink) for row in rows])
    with torch.no_grad(), hw.ablated(lm, [(0, 3)], mode="uniform"):
        got = logits(lm, ids)
    torch.testing.assert_close(got, by_hand(lm, ids, 0, 3, new), atol=1e-4, rtol=1e-4)
    changed = ids.clone()
    changed[:, 20:] = tokens(1, 10, seed=5)
    with hw.ablated(lm, [(0, 3)], mode="uniform"):
        torch.testing.assert_close(logits(lm, changed)[:, :20], got[:, :20], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["zero", "sequence_mean", "uniform"])
def test_decode_phase_leaves_the_prompt_intact(mode):
    lm, ids = random_lm(), tokens(1, 20)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        clean = lm.model(input_ids=ids[:, :12], use_cache=True)
        with hw.ablated(lm, [(1, 2)], mode=mode, phase="decode"):
            masked = lm.model(input_ids=ids[:, :12], use_cache=True)
            step = lm.model(input_ids=ids[:, 12:13], past_key_values=masked.past_key_values).logits
        assert torch.equal(clean.logits[:, :-1], masked.logits[:, :-1])
        assert not torch.allclose(clean.logits[:, -1], masked.logits[:, -1])
        other = lm.model(input_ids=ids[:, 12:13], past_key_values=clean.past_key_values).logits
        assert not torch.allclose(step, other)


def test_sequence_mean_goes_on_while_decoding():
    lm, ids = random_lm(), tokens(1, 10)
    with torch.no_grad(), hw.ablated(lm, [(1, 2)], mode="sequence_mean"):
        whole = lm.model(input_ids=ids).logits[:, -1]
        past = lm.model(input_ids=ids[:, :9], use_cache=True).past_key_values
        step = lm.model(input_ids=ids[:, 9:], past_key_values=past).logits[:, -1]
    torch.testing.assert_close(whole, step, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["zero", "uniform"])
def test_an_empty_set_changes_nothing_and_an_exception_restores(mode):
    lm, ids = random_lm(), tokens(1, 10)
    before = logits(lm, ids)
    with hw.ablated(lm, [], mode=mode):
        assert torch.equal(before, logits(lm, ids))
    with pytest.raises(RuntimeError, match="own"), hw.ablated(lm, HEADS, mode=mode):
        raise RuntimeError("the user's own")
    assert torch.equal(before, logits(lm, ids))
    assert not any(p._forward_pre_hooks for p in output_projections(lm.model).values())


def test_all_heads_zeroed_leaves_the_bias_alone():
    lm, ids = random_lm("gpt2", layers=1), tokens(1, 6)
    with torch.no_grad():
        lm.model.transformer.h[0].attn.c_proj.bias.normal_()
        lm.model.transformer.h[0].mlp.c_proj.weight.zero_()
    with hw.ablated(lm, lm.anatomy.all_heads):
        got = logits(lm, ids)
    with torch.no_grad():
        lm.model.transformer.h[0].attn.c_proj.weight.zero_()
    torch.testing.assert_close(got, logits(lm, ids), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_folded_checkpoint_is_ordinary(family, tmp_path):
    lm, ids, heads = random_lm(family), tokens(1, 12), hw.HeadSet(HEADS, COEFFICIENTS)
    plain = {name: (p.shape, p.dtype) for name, p in lm.model.state_dict().items()}
    hw.fold(lm, heads)
    lm.save(tmp_path / "folded")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "folded").eval()
    assert {name: (p.shape, p.dtype) for name, p in again.state_dict().items()} == plain
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, logits(lm, ids))
    with pytest.raises(HeadSetError, match="folded already"):
        hw.fold(hw.load(tmp_path / "folded"), heads)
    loaded = hw.load(tmp_path / "folded")
    hw.unfold(loaded, heads)
    hw.fold(loaded, heads)


def test_bad_input():
    lm = random_lm()
    bare, zero, other = hw.HeadSet(HEADS), hw.HeadSet([(0, 0)], [0.0]), hw.HeadSet([(0, 0)], [2.0])
    with pytest.raises(InputError, match="no coefficients"):
        hw.fold(lm, bare)
    with pytest.raises(InputError, match="no coefficients"), hw.scaled(lm, bare):
        pass
    with pytest.raises(HeadSetError, match="coefficient of 0"):
        hw.fold(lm, zero)
    pruned = random_lm()
    hw.fold(pruned, zero, zeros=True)
    with hw.scaled(lm, zero):
        assert torch.equal(logits(pruned, tokens(1, 5)), logits(lm, tokens(1, 5)))
    with pytest.raises(HeadSetError, match="load the original"):
        hw.unfold(pruned, zero)
    with pytest.raises(HeadSetError, match="not been folded"):
        hw.unfold(lm, other)
    with pytest.raises(HeadSetError, match="9-0 is not in this model"):
        hw.fold(lm, hw.HeadSet([(9, 0)], [2.0]))
    hw.fold(lm, other)
    with pytest.raises(HeadSetError, match="another head set"):
        hw.unfold(lm, hw.HeadSet([(0, 1)], [2.0]))
    for keywords, match in (
        ({"mode": "nonsense"}, "Unknown mode"),
        ({"phase": "nonsense"}, "Unknown phase"),
        ({"mode": "reference_mean"}, "needs reference texts"),
        ({"reference": ["text"]}, "no other mode takes them"),
        ({"mode": "reference_mean", "reference": []}, "non-empty list"),
        ({"mode": "reference_mean", "reference": "text"}, "non-empty list"),
    ):
        with pytest.raises(InputError, match=match), hw.ablated(lm, HEADS, **keywords):
            pass
    with pytest.raises(InputError, match="two rows"), hw.ablated(lm, HEADS, mode="batch_mean"):
        logits(lm, tokens(1, 5))
    with pytest.raises(HeadSetError, match="listed twice"), hw.ablated(lm, [(0, 0), (0, 0)]):
        pass


def test_a_wrapped_projection_is_not_folded():
    class Wrapped(torch.nn.Linear):
        pass

    lm = random_lm(layers=1)
    lm.model.model.layers[0].self_attn.o_proj = Wrapped(128, 64)
    with pytest.raises(ModelError, match=r"folded \(Wrapped"):
        hw.fold(lm, hw.HeadSet([(0, 0)], [2.0]))
