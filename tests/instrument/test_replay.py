"""The one-token replay against one forward per head."""

import pytest
import torch

import headwater as hw
from families import FAMILIES, OWN_ATTENTION, VOCABULARY, family_model
from headwater.errors import ContextOverflowError, HeadSetError, InputError, ModelError, NonFiniteAttentionError
from headwater.instrument.replay import replay
from headwater.model.anatomy import output_projections
from models import byte_tokenizer, random_lm

HEADS = [(0, 1), (1, 3), (2, 0), (3, 2)]


def ids(sequences: int = 3, tokens: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (sequences, tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def one_forward_per_head(lm, tokens, targets, heads, mode, ablation, against=None):
    """Changes `[heads, sequences]` from whole forwards, the slow obvious way (pear.md 3.3-3.5)."""
    projections = output_projections(lm.model)
    inputs: dict[int, torch.Tensor] = {}

    def forward(edit):
        hooks = [p.register_forward_pre_hook(lambda _, a, i=i: (edit(i, a[0]),)) for i, p in projections.items()]
        try:
            logits = lm.model(input_ids=tokens, use_cache=False).logits[:, -1].double()
        finally:
            for hook in hooks:
                hook.remove()
        base = logits.mean(-1) if against is None else logits.gather(1, against[:, None])[:, 0]
        return logits.gather(1, targets[:, None])[:, 0] - base

    clean = forward(lambda layer, z: inputs.setdefault(layer, z))
    changes = []
    for layer, head in heads:

        def edit(at, z, layer=layer, head=head):
            z = inputs[at] if mode == "path" and at != layer else z
            if at != layer:
                return z
            split = z.unflatten(-1, (lm.anatomy.num_heads, -1)).clone()
            own = inputs[layer].unflatten(-1, (lm.anatomy.num_heads, -1))[:, :, head]
            means = {"batch_mean": own[:, -1].mean(0), "sequence_mean": own.mean(1), "zero": 0.0}
            split[:, -1, head] = means[ablation]
            return split.flatten(-2)

        changes.append(forward(edit) - clean)
    return clean, torch.stack(changes)


# Not in float64: expert layers have no float64 kernel; others cast inside attention or norms.
CASES = [(name, torch.float32, 2e-5) for name in [*FAMILIES, *OWN_ATTENTION]] + [
    (name, torch.float64, 1e-9) for name in ("llama", "gpt2", "gpt_neox", "phi", "olmo2", "granite", "opt", "cohere")
]


@pytest.mark.parametrize("mode", ["path", "total"])
@pytest.mark.parametrize(("name", "dtype", "tolerance"), CASES)
def test_equal_to_one_forward_per_head(name, dtype, tolerance, mode):
    lm = hw.load(model=family_model(name, dtype=dtype), tokenizer=byte_tokenizer())
    tokens, targets = ids(), torch.tensor([5, 90, 200])
    for ablation in ("batch_mean", "sequence_mean", "zero") if name in ("llama", "gpt2") else ("batch_mean",):
        clean, want = one_forward_per_head(lm, tokens, targets, HEADS, mode, ablation)
        got = replay(lm, tokens, targets, heads=HEADS, mode=mode, ablation=ablation)
        scale = max(1.0, clean.abs().max().item())
        assert want.abs().max() > 1e-3
        assert (got.clean - clean).abs().max() <= tolerance * scale
        assert (got.change - want).abs().max() <= tolerance * scale
        assert got.noise <= tolerance * scale


@pytest.mark.parametrize("mode", ["path", "total"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "phi"])
def test_against_another_token(name, mode):
    """Soft-capped, multiplied and biased logits too; one sequence is enough where its own mean or zero is put in."""
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    tokens, targets, others = ids(), torch.tensor([5, 90, 200]), torch.tensor([6, 3, 257])
    clean, want = one_forward_per_head(lm, tokens, targets, HEADS, mode, "zero", others)
    got = replay(lm, tokens, targets, against=others, heads=HEADS, mode=mode, ablation="zero")
    alone = replay(lm, tokens[:1], targets[:1], against=others[:1], heads=HEADS, mode=mode, ablation="zero")
    scale = max(1.0, clean.abs().max().item())
    assert want.abs().max() > 1e-3
    assert (got.clean - clean).abs().max() <= 2e-5 * scale
    assert (got.change - want).abs().max() <= 2e-5 * scale
    assert (alone.change - want[:, :1]).abs().max() <= 2e-5 * scale


@pytest.mark.parametrize("mode", ["path", "total"])
def test_passes_of_any_size_and_any_order_agree(mode):
    lm = random_lm(dtype=torch.float64)
    tokens, targets = ids(), torch.tensor([5, 90, 200])
    whole = replay(lm, tokens, targets, mode=mode)
    assert whole.heads == lm.anatomy.all_heads
    few = replay(lm, tokens, targets, mode=mode, rows=9)
    assert (whole.change - few.change).abs().max() < 1e-12
    backwards = replay(lm, tokens, targets, mode=mode, heads=whole.heads[::-1])
    assert (whole.change - backwards.change.flip(0)).abs().max() < 1e-12
    lm.model.set_attn_implementation("eager")
    eager = replay(lm, tokens, targets, mode=mode).change  # its softmax is float32
    assert (whole.change - eager).abs().max() < 1e-5


def test_both_modes_agree_in_the_last_layer_only():
    lm = random_lm(dtype=torch.float64)
    tokens, targets = ids(), torch.tensor([5, 90, 200])
    path, total = (replay(lm, tokens, targets, mode=mode).change for mode in ("path", "total"))
    last = [layer == lm.anatomy.num_layers - 1 for layer, _ in lm.anatomy.all_heads]
    assert (path - total)[last].abs().max() < 1e-12
    assert (path - total)[[not inside for inside in last]].abs().max() > 1e-3


def test_correct_is_the_models_own_top_token():
    lm = random_lm()
    tokens = ids()
    with torch.no_grad():
        best = lm.model(input_ids=tokens).logits[:, -1].argmax(-1)
    assert replay(lm, tokens, best, heads=HEADS).correct.tolist() == [True] * 3
    assert replay(lm, tokens, (best + 1) % VOCABULARY, heads=HEADS).correct.tolist() == [False] * 3


def test_nothing_is_left_behind():
    lm = random_lm()
    tokens = ids()
    with torch.no_grad():
        before = lm.model(input_ids=tokens).logits
        replay(lm, tokens, tokens[:, 0], heads=HEADS, mode="total")
        assert torch.equal(before, lm.model(input_ids=tokens).logits)
    assert not any(m._forward_pre_hooks for m in lm.model.modules())


def test_bad_input():
    lm, tokens, targets = random_lm(), ids(), torch.tensor([5, 90, 200])
    with pytest.raises(InputError, match="Unknown mode"):
        replay(lm, tokens, targets, mode="everywhere")
    with pytest.raises(InputError, match="Unknown ablation"):
        replay(lm, tokens, targets, ablation="noise")
    with pytest.raises(InputError, match="two sequences"):
        replay(lm, tokens[:1], targets[:1])
    with pytest.raises(InputError, match=r"got \[3, 1\]"):
        replay(lm, tokens[:, :1], targets)
    with pytest.raises(InputError, match=r"and \[2\]"):
        replay(lm, tokens, targets[:2])
    with pytest.raises(InputError, match=r"got \[0, 12\]"):
        replay(lm, tokens[:0], targets[:0])
    with pytest.raises(InputError, match="token ids from 0 to 257"):
        replay(lm, tokens, targets + 100)
    with pytest.raises(InputError, match="one token per sequence"):
        replay(lm, tokens, targets, against=targets[:2])
    with pytest.raises(InputError, match="token ids from 0 to 257"):
        replay(lm, tokens, targets, against=targets + 100)
    with pytest.raises(ContextOverflowError, match="513 tokens"):
        replay(lm, ids(tokens=513), targets)
    with pytest.raises(HeadSetError, match="empty"):
        replay(lm, tokens, targets, heads=[])
    adapted = random_lm()
    adapted.model.lm_head = torch.nn.Sequential(adapted.model.lm_head)
    with pytest.raises(ModelError, match="output layer"):
        replay(adapted, tokens, targets)
    with pytest.raises(HeadSetError, match="not in this model"):
        replay(lm, tokens, targets, heads=[(9, 0)])
    hybrid = hw.load(model=family_model("lfm2"), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="without attention"):
        replay(hybrid, tokens, targets)
    windowed = hw.load(model=family_model("mistral"), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="sliding window of 16"):
        replay(windowed, ids(tokens=17), targets, mode="total")


def test_numbers_that_are_none_are_an_error():
    lm = random_lm()
    with torch.no_grad():
        lm.model.model.layers[1].self_attn.o_proj.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteAttentionError, match="head 0-0"):
        replay(lm, ids(), torch.tensor([5, 90, 200]))
