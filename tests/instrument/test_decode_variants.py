"""Continuations of one prompt without different heads, as a batch, against one run of `ablated` each."""

from __future__ import annotations

import pytest
import torch

import headwater as hw
from families import FAMILIES, HYBRID, OWN_ATTENTION, VOCABULARY, family_model
from headwater.errors import HeadSetError, InputError, ModelError
from headwater.instrument.variants import decode_variants
from headwater.model.anatomy import output_projections
from headwater.model.greedy import end_ids, greedy
from models import byte_tokenizer, random_lm

VARIANTS = [[], [(0, 0)], [(1, 2), (2, 1), (1, 0)], [(3, head) for head in range(4)], []]


def family_lm(name: str):
    return hw.load(model=family_model(name), tokenizer=byte_tokenizer())


def prompt(length: int, seed: int = 1) -> list[int]:
    return torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def one_by_one(lm, ids, variants, tokens, **arguments):
    out = []
    for heads in variants:
        with hw.ablated(lm, heads, "zero", "decode"):
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

    want = one_by_one(lm, ids, VARIANTS, 6, logits_processor=[note])
    assert decode_variants(lm, ids, VARIANTS, 6, finished) == want
    torch.testing.assert_close([value for place in range(5) for value in batched[place]], logs, atol=1e-4, rtol=1e-4)
    assert batched[0] == pytest.approx(batched[4], abs=1e-5)
    for place in (1, 2, 3):
        assert batched[place] != pytest.approx(batched[0], abs=1e-4), "a mask that changes nothing shows nothing"


def test_all_heads_of_a_row_and_of_the_other_rows():
    """Each row loses its own heads, not its neighbours'."""
    lm, ids = random_lm(), prompt(15)
    variants = [[head] for head in lm.anatomy.all_heads] + [lm.anatomy.all_heads]
    assert decode_variants(lm, ids, variants, 5, rows=7) == one_by_one(lm, ids, variants, 5)
    assert decode_variants(lm, ids, [hw.HeadSet([(1, 2)])], 5) == one_by_one(lm, ids, [[(1, 2)]], 5)


@pytest.mark.parametrize("length", [1, 2])
def test_short_prompts(length):
    lm, ids = random_lm(), prompt(length)
    assert decode_variants(lm, ids, VARIANTS, 4, rows=2) == one_by_one(lm, ids, VARIANTS, 4)


def test_the_prompt_is_read_once():
    lm, ids, lengths = random_lm(), prompt(20), []
    hook = lm.model.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append((args or (kwargs["hidden_states"],))[0].shape[:2]), with_kwargs=True
    )
    decode_variants(lm, ids, VARIANTS, 3, finished=lambda *_: False)
    hook.remove()
    assert lengths[0] == (1, 19)
    assert set(lengths[1:]) == {(5, 1)}


def test_a_row_ends_by_itself():
    lm, ids, seen = random_lm(), prompt(20), {}
    want = one_by_one(lm, ids, VARIANTS, 8)

    def finished(place, new, log_probability):
        assert log_probability <= 0
        seen[place] = list(new)
        return len(new) == place + 1

    found = decode_variants(lm, ids, VARIANTS, 8, finished, rows=3)
    assert found == [new[: place + 1] for place, new in enumerate(want)]
    assert found == [seen[place] for place in range(5)]
    first = want[1][0]
    lm.model.generation_config.eos_token_id = first
    assert first in end_ids(lm)
    assert decode_variants(lm, ids, VARIANTS, 8)[1] == [first]


def test_the_model_is_left_as_it_was():
    lm, ids = random_lm(), torch.tensor([prompt(12)])
    with torch.no_grad():
        before = lm.model(ids).logits
        decode_variants(lm, prompt(12), VARIANTS, 3)
        with pytest.raises(RuntimeError, match="own"):
            decode_variants(lm, prompt(12), VARIANTS, 3, finished=lambda *_: (_ for _ in ()).throw(RuntimeError("own")))
        assert torch.equal(before, lm.model(ids).logits)
    assert not any(p._forward_pre_hooks for p in output_projections(lm.model).values())


def test_bad_input():
    lm = random_lm()
    for ids, variants, tokens, rows in (
        ([], VARIANTS, 3, 2), ([5], [], 3, 2), ([5], VARIANTS, 0, 2), ([5], VARIANTS, 3, 0)
    ):  # fmt: skip
        with pytest.raises(InputError, match="at least 1"):
            decode_variants(lm, ids, variants, tokens, rows=rows)
    with pytest.raises(HeadSetError, match="9-0 is not in this model"):
        decode_variants(lm, [5, 6], [[], [(9, 0)]], 3)
    with pytest.raises(HeadSetError, match="listed twice"):
        decode_variants(lm, [5, 6], [[(0, 0), (0, 0)]], 3)
    with pytest.raises(ModelError, match="without attention"):
        decode_variants(family_lm(HYBRID[0]), [5, 6], VARIANTS, 3)
