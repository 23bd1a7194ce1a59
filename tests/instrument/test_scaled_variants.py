"""Continuations of one prompt under different coefficients, as a batch that grows, against one run of `scaled` each."""

from __future__ import annotations

import pytest
import torch

import headwater as hw
from families import FAMILIES, HYBRID, OWN_ATTENTION, VOCABULARY, family_model
from headwater.errors import HeadSetError, InputError, ModelError
from headwater.headset import HeadSet
from headwater.instrument.scaled_variants import decode_scaled, factor_grid
from headwater.model.anatomy import decoder_layers, output_projections
from headwater.model.greedy import greedy
from models import byte_tokenizer, random_lm

SETS = [
    None,
    HeadSet([(0, 0)], [0.3]),
    HeadSet([(2, 1), (3, 0)], [-1.5, 2.0]),
    HeadSet([(3, 2), (1, 1)], [0.0, 1.7]),
    HeadSet([(3, head) for head in range(4)], [0.5, 0.9, 2.5, 0.0]),
    None,
]


def family_lm(name: str):
    return hw.load(model=family_model(name), tokenizer=byte_tokenizer())


def prompt(length: int, seed: int = 1) -> list[int]:
    return torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def one_by_one(lm, ids, sets, tokens, **arguments):
    out = []
    for heads in sets:
        if heads is None:
            out.append(greedy(lm, ids, tokens, **arguments))
        else:
            with hw.scaled(lm, heads):
                out.append(greedy(lm, ids, tokens, **arguments))
    return out


@pytest.mark.parametrize("name", FAMILIES + OWN_ATTENTION)
def test_a_batch_equals_one_run_each(name):
    lm, ids = family_lm(name), prompt(24)
    logs, batched = [], {}

    def note(_, scores):
        logs.append(float(scores[0].float().log_softmax(-1).max()))
        return scores

    def finished(place, new, log_probability):
        batched.setdefault(place, []).append(log_probability)
        return False

    want = one_by_one(lm, ids, SETS, 6, logits_processor=[note])
    assert decode_scaled(lm, ids, SETS, 6, finished) == want
    flat = [value for place in range(len(SETS)) for value in batched[place]]
    torch.testing.assert_close(flat, logs, atol=1e-4, rtol=1e-4)
    for place in (1, 2, 3, 4):
        assert batched[place] != pytest.approx(batched[0], abs=1e-4), "factors that change nothing show nothing"


def test_every_head_alone_in_small_batches():
    """Each row has its own factor, whatever rows share the batch."""
    lm, ids = random_lm(), prompt(15)
    sets = [HeadSet([head], [0.2]) for head in lm.anatomy.all_heads]
    assert decode_scaled(lm, ids, sets, 4, rows=5) == one_by_one(lm, ids, sets, 4)


@pytest.mark.parametrize("length", [1, 2])
def test_short_prompts(length):
    lm, ids = random_lm(), prompt(length)
    assert decode_scaled(lm, ids, SETS, 4, rows=4) == one_by_one(lm, ids, SETS, 4)


def test_a_row_begins_where_its_first_scaled_head_lies():
    lm, seen = random_lm(), []
    hooks = [
        layer.register_forward_hook(lambda module, args, out: seen.append(out.shape[0]))
        for layer in decoder_layers(lm.model)
    ]
    decode_scaled(lm, prompt(9), SETS, 1)
    for hook in hooks:
        hook.remove()
    assert seen == [2, 3, 4, 5]  # the clean row, then those of layers 0, 1, 2, 3


def test_a_continuation_that_is_finished_stops_alone():
    lm, ids = random_lm(), prompt(12)
    want = one_by_one(lm, ids, SETS, 8)
    found = decode_scaled(lm, ids, SETS, 8, lambda place, new, _: place == 2 and len(new) == 3)
    assert found == [row[:3] if place == 2 else row for place, row in enumerate(want)]


def test_the_model_is_left_as_it_was():
    lm, ids = random_lm(), prompt(12)
    before = greedy(lm, ids, 6)
    with pytest.raises(KeyboardInterrupt):
        decode_scaled(lm, ids, SETS, 6, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert greedy(lm, ids, 6) == before
    hooked = [*output_projections(lm.model).values(), *decoder_layers(lm.model)]
    assert not any(module._forward_pre_hooks for module in hooked)


def test_factors():
    lm = random_lm()
    grid = factor_grid(lm, SETS)
    assert grid.shape == (6, 4, 8)
    assert (grid[0] == 1).all()
    assert grid[2, 2, 1] == -1.5
    assert (grid != 1).sum() == 1 + 2 + 2 + 4


def test_refusals():
    lm = random_lm()
    for arguments in (([], SETS, 4), ([1, 2], [], 4), ([1, 2], SETS, 0)):
        with pytest.raises(InputError, match="needs a prompt"):
            decode_scaled(lm, *arguments)
    with pytest.raises(InputError, match="no coefficients"):
        decode_scaled(lm, [1, 2], [HeadSet([(0, 0)])], 4)
    with pytest.raises(HeadSetError):
        decode_scaled(lm, [1, 2], [HeadSet([(9, 0)], [0.5])], 4)
    with pytest.raises(ModelError, match="without attention"):
        decode_scaled(family_lm(HYBRID[0]), [1, 2], [None], 4)
