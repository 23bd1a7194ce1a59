"""Open gates against what the activation function is given; padding, order, families without such maps."""

import numpy as np
import pytest
import torch

import headwater as hw
from families import FAMILIES, OWN_ATTENTION, family_model
from headwater.errors import InputError, InsufficientMemoryError, ModelError
from headwater.instrument.gates import gate_counts, gate_modules
from headwater.model.anatomy import decoder_layers
from models import byte_tokenizer, random_lm

EXPERTS = ("mixtral", "gpt_oss", "jamba")
PLAIN = [name for name in (*FAMILIES, *OWN_ATTENTION) if name not in EXPERTS]
ACTIVATIONS = ("act_fn", "act", "activation_fn", "gelu_impl")


def family_lm(name):
    return hw.load(model=family_model(name), tokenizer=byte_tokenizer())


def rows(*lengths, seed=0):
    """Ids, mask and counted tokens of sequences of some lengths, padded on the right; the last two are targets."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), 1)
    mask, counted = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(2, 250, (length,), generator=draw)
        mask[row, :length] = 1
        counted[row, : length - 2] = 1
    return ids, mask, counted


def seen_by_activation(lm, batch):
    """Slow and obvious: what each layer's activation module gets, one sequence at a time, without padding."""
    ids, mask, counted = batch
    found = [0] * lm.anatomy.num_layers
    for row in range(len(ids)):
        length, keep = int(mask[row].sum()), int(counted[row].sum())
        handles = []
        for layer, block in enumerate(decoder_layers(lm.model)):
            module = next(m for name, m in block.named_modules() if name.rpartition(".")[2] in ACTIVATIONS)

            def look(module, args, layer=layer, length=length, keep=keep):
                gates = args[0].reshape(length, -1)[:keep]
                found[layer] += int((gates > 0).sum())

            handles.append(module.register_forward_pre_hook(look))
        with torch.no_grad():
            lm.model(input_ids=ids[row : row + 1, :length])
        for handle in handles:
            handle.remove()
    return found


@pytest.mark.parametrize("family", PLAIN)
def test_gates_are_what_the_activation_gets(family):
    lm, batch = family_lm(family), rows(9, 5)
    found = gate_counts(lm, [batch])
    assert found.active.tolist() == seen_by_activation(lm, batch)
    assert found.tokens == 10
    assert (found.active > 0).all()
    assert (found.shares < 1).all()


def test_gates_of_a_hybrid_with_dense_layers():
    lm = family_lm("lfm2")
    found = gate_counts(lm, [rows(7)])
    maps = [layer.feed_forward.w1 for layer in decoder_layers(lm.model)]
    assert gate_modules(lm) == maps
    assert found.width.tolist() == [module.out_features for module in maps]


def test_padding_and_order_leave_the_shares():
    lm = random_lm(layers=2)
    first, second = rows(9, 4, 6), rows(12, seed=1)
    whole = gate_counts(lm, [first, second])
    alone = gate_counts(lm, [tuple(part[i : i + 1, :n] for part in first) for i, n in ((1, 4), (2, 6), (0, 9))])
    other = gate_counts(lm, [second])
    np.testing.assert_array_equal(whole.active, (alone + other).active)
    np.testing.assert_array_equal(whole.shares, (other + alone).shares)


def test_padding_is_counted_where_it_is_asked_for():
    lm = random_lm(layers=1)
    ids, mask, counted = rows(9, 4)
    assert gate_counts(lm, [(ids, mask, torch.ones_like(ids))]).tokens == 18
    assert gate_counts(lm, [(ids, mask, counted)]).tokens == 9


def test_looking_changes_nothing():
    lm, batch = random_lm(layers=2), rows(9)
    before = lm.model(input_ids=batch[0]).logits
    gate_counts(lm, [batch])
    assert torch.equal(before, lm.model(input_ids=batch[0]).logits)
    assert not any(module._forward_hooks for module in lm.model.modules())


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_are_refused(family):
    with pytest.raises(ModelError, match=r"gates of layer \d .*experts in one stack"):
        gate_counts(family_lm(family), [rows(5)])


def test_nothing_to_count_is_refused():
    lm = random_lm(layers=1)
    ids, mask, counted = rows(5)
    with pytest.raises(InputError, match="no token"):
        gate_counts(lm, [(ids, mask, counted * 0)])
    with pytest.raises(InputError, match="no token"):
        gate_counts(lm, [])


def test_a_batch_beyond_the_memory_is_refused_in_words(monkeypatch):
    lm = random_lm(layers=1)

    def full(*arguments, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(lm.model.model.layers[0].mlp, "forward", full)
    with pytest.raises(InsufficientMemoryError, match="reading 2 prompts at once"):
        gate_counts(lm, [rows(4, 5)])
    assert not any(module._forward_hooks for module in lm.model.modules())
