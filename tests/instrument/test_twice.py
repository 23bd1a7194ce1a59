"""Two runs per token against two whole forwards per token, with hooks on the projected outputs."""

from itertools import cycle

import pytest
import torch
from transformers import DynamicCache

import headwater as hw
from families import VOCABULARY, family_model
from headwater.errors import HeadSetError, InputError, ModelError
from headwater.instrument.twice import twice, twice_logits
from headwater.model.anatomy import decoder, output_projections
from headwater.model.greedy import end_ids, greedy
from models import byte_tokenizer, random_lm

NAMES = ["llama", "gpt2", "gemma2", "mistral", "phi", "opt", "bloom", "mpt", "falcon-new", "lfm2", "jamba"]


def family_lm(name: str):
    return hw.load(model=family_model(name), tokenizer=byte_tokenizer())


def some_heads(lm) -> hw.HeadSet:
    """Heads in several layers, turned up, down, out, over and left alone."""
    heads = lm.anatomy.all_heads[1::3]
    return hw.HeadSet(heads, [c for _, c in zip(heads, cycle([2.0, 0.0, 3.5, -1.0, 1.0]), strict=False)])


def prompt(length: int = 24) -> list[int]:
    return torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(1)).tolist()


@torch.no_grad()
def two_forwards(lm, ids, heads):
    """Logits behind a prompt: run 1 stores projected outputs, run 2 adds them to the projections' outputs."""
    stored = {}

    def forward(hook):
        handles = [
            module.register_forward_hook(lambda m, a, out, layer=layer: hook(layer, m, a[0], out))
            for layer, module in output_projections(lm.model).items()
        ]
        try:
            return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        finally:
            for handle in handles:
                handle.remove()

    def store(layer, module, z, out):
        size = z.shape[-1] // lm.anatomy.num_heads
        for head, coefficient in zip(heads.heads, heads.coefficients, strict=True):
            if head[0] == layer:
                alone = torch.zeros_like(z)
                part = slice(head[1] * size, (head[1] + 1) * size)
                alone[..., part] = z[..., part]
                projected = module.forward(alone) - module.forward(torch.zeros_like(z))
                stored.setdefault(layer, []).append((coefficient - 1) * projected)

    plain = forward(store)
    return plain, forward(lambda layer, module, z, out: out + sum(stored.get(layer, [torch.zeros_like(out)])))


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_two_forwards(name):
    lm = family_lm(name)
    ids, heads = prompt(), some_heads(lm)
    plain, want = two_forwards(lm, ids, heads)
    scale = max(1.0, want.abs().max().item())
    assert (want - plain).abs().max() > 1e-3
    assert (twice_logits(lm, heads, ids) - want).abs().max() <= 2e-5 * scale
    with torch.no_grad(), hw.scaled(lm, heads):
        once = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
    assert (once - want).abs().max() > 1e-3, "later heads react, so once is not twice"


@pytest.mark.parametrize("name", ["llama", "mistral", "bloom", "lfm2", "jamba"])
def test_a_generation_is_that_of_two_whole_forwards_per_token(name):
    lm = family_lm(name)
    ids, heads, want = prompt(), some_heads(lm), []
    for _ in range(6):
        want.append(int(two_forwards(lm, [*ids, *want], heads)[1].argmax()))
        if want[-1] in end_ids(lm):
            break
    with twice(lm, heads):
        assert greedy(lm, ids, 6) == want
        assert greedy(lm, ids, 6) == want, "a second generation begins anew"


def test_steps_with_a_cache_of_the_callers():
    lm = random_lm(dtype=torch.float64)
    ids, heads = torch.tensor([prompt(12), prompt(13)[1:]]), some_heads(lm)
    with torch.no_grad(), twice(lm, heads):
        whole = lm.model(input_ids=ids).logits
        cache = DynamicCache(config=lm.model.config)
        first = lm.model(input_ids=ids[:, :7], past_key_values=cache, use_cache=True)
        second = lm.model(input_ids=ids[:, 7:], past_key_values=first.past_key_values, use_cache=True)
        own = lm.model(input_ids=ids[:, :7], use_cache=True).past_key_values  # made by the model
        third = lm.model(input_ids=ids[:, 7:], past_key_values=own, use_cache=True)
    for part in (second, third):
        assert (torch.cat([first.logits, part.logits], 1) - whole).abs().max() < 1e-12


def test_one_head_alone_is_scaled():
    lm, ids = random_lm(dtype=torch.float64), prompt(12)
    for head in [(0, 1), (3, 2)]:
        heads = hw.HeadSet([head], [2.5])
        with torch.no_grad(), hw.scaled(lm, heads):
            once = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
        assert (twice_logits(lm, heads, ids) - once).abs().max() < 1e-12


def test_coefficients_of_one_change_no_bit():
    for dtype in (torch.float32, torch.bfloat16):
        lm, ids = random_lm(dtype=dtype), prompt(12)
        with torch.no_grad():
            plain = lm.model(input_ids=torch.tensor([ids])).logits[0, -1].float()
        assert torch.equal(twice_logits(lm, hw.HeadSet(lm.anatomy.all_heads, [1.0] * 32), ids), plain)


def test_caches_from_elsewhere_are_refused():
    lm, ids = random_lm(), torch.tensor([prompt(8)])
    heads = some_heads(lm)
    with torch.no_grad():
        foreign = lm.model(input_ids=ids, use_cache=True).past_key_values
        with twice(lm, heads):
            with pytest.raises(InputError, match="began elsewhere"):
                lm.model(input_ids=ids, past_key_values=foreign, use_cache=True)
            own = lm.model(input_ids=ids, use_cache=True).past_key_values
            own.crop(-3)
            with pytest.raises(InputError, match="began elsewhere"):
                lm.model(input_ids=ids, past_key_values=own, use_cache=True)


def test_nothing_is_left_behind():
    lm, ids = random_lm(), torch.tensor([prompt(8)])
    with torch.no_grad():
        before = lm.model(input_ids=ids).logits
        with pytest.raises(IndexError), twice(lm, some_heads(lm)):
            lm.model(input_ids=ids + VOCABULARY)  # no such tokens: run 1 breaks
        assert torch.equal(before, lm.model(input_ids=ids).logits)
    hooked = [decoder(lm.model), *output_projections(lm.model).values()]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in hooked)


def test_bad_input():
    lm = random_lm()
    with pytest.raises(InputError, match="no coefficients"), twice(lm, hw.HeadSet([(0, 0)])):
        pass
    with pytest.raises(HeadSetError, match="9-0 is not in this model"), twice(lm, hw.HeadSet([(9, 0)], [2.0])):
        pass
    with pytest.raises(InputError, match="no prompt"):
        twice_logits(lm, some_heads(lm), [])
    with twice(lm, some_heads(lm)), pytest.raises(InputError, match="do not go into"):
        twice_logits(lm, some_heads(lm), prompt(4))
    twice_logits(lm, some_heads(lm), prompt(4))
    lm.model._compiled_call_impl = lm.model.forward  # what Module.compile leaves
    with pytest.raises(ModelError, match="compiled"), twice(lm, some_heads(lm)):
        pass
