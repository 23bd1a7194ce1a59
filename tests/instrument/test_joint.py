"""The joint pass gives each tail what it gets alone behind its text: all families, switches, windows, packing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import headwater as hw
from families import FAMILIES, HYBRID, OWN_ATTENTION, VOCABULARY, family_model
from headwater.errors import InputError, ModelError
from headwater.instrument.checkpointing import checkpointed
from headwater.instrument.joint import JointStates, joint_states
from headwater.instrument.joint_layout import lay_out, pack
from headwater.model.anatomy import decoder
from models import byte_tokenizer, random_lm

PREFIX, SLOTS = 2, 2


def ids(n: int, seed: int) -> list[int]:
    return torch.randint(2, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


TEXTS = [ids(23, 1), ids(20, 2), ids(9, 3)]  # 3 pads in the second row; windows of 16 are shorter than the text
TAILS = [ids(5, 4), ids(4, 5)]


def load(name: str, **more):
    return hw.load(model=family_model(name, **more), tokenizer=byte_tokenizer())


def alone(lm, texts=TEXTS, tails=TAILS) -> JointStates:
    """One plain pass for each text and tail, no padding."""

    def run(row: list[int]) -> Tensor:
        return decoder(lm.model)(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]

    slots = torch.stack([torch.stack([run([*text, *tail])[-SLOTS:] for tail in tails]) for text in texts])
    before = torch.cat([run(text)[PREFIX - 1 : -1] for text in texts])
    return JointStates(slots, before, torch.tensor([token for text in texts for token in text[PREFIX:]]))


def joint(lm, how: str, texts=TEXTS, tails=TAILS, **more) -> JointStates:
    return joint_states(lm, texts, tails, SLOTS, how, prefix=PREFIX, keep_text=True, **more)


def same(found: JointStates, want: JointStates, atol: float) -> None:
    assert found.slots.shape == want.slots.shape
    torch.testing.assert_close(found.slots, want.slots, atol=atol, rtol=0)
    torch.testing.assert_close(found.text, want.text, atol=atol, rtol=0)
    assert found.said.tolist() == want.said.tolist()


def limit(name: str) -> float:
    return 2e-5 if name in ("gemma2", "gemma3_text", "gpt_oss") else 1e-5


@pytest.mark.parametrize("name", [*FAMILIES, "falcon", "falcon-new"])
@torch.no_grad()
def test_a_mask_of_four_dimensions(name):
    lm = load(name)
    want = alone(lm)
    same(joint(lm, "mask4d"), want, limit(name))
    same(joint(lm, "mask4d", width=70), want, limit(name))
    if name in ("llama", "mistral", "gemma2", "gpt2"):
        same(joint(load(name, attn_implementation="eager"), "mask4d"), want, limit(name))


@pytest.mark.parametrize("name", [*FAMILIES, *OWN_ATTENTION])
@torch.no_grad()
def test_branches(name):
    lm = load(name)
    same(joint(lm, "branch"), alone(lm), limit(name))


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom", *HYBRID])
@torch.no_grad()
def test_separate_passes(name):
    lm = load(name)
    same(joint(lm, "separate"), alone(lm), limit(name))


@pytest.mark.parametrize("how", ["mask4d", "branch"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_gradients(name, how):
    lm = load(name)
    weights = list(decoder(lm.model).parameters())

    def slopes(states: JointStates) -> list[Tensor]:
        draw = torch.Generator().manual_seed(0)
        parts = (states.slots, states.text)
        return torch.autograd.grad(sum((p * torch.randn(p.shape, generator=draw)).sum() for p in parts), weights)

    for found, want in zip(slopes(joint(lm, how)), slopes(alone(lm)), strict=True):
        assert (found - want).norm() <= 1e-5 * want.norm().clamp_min(1e-6)


@torch.no_grad()
def test_a_tail_does_not_see_the_other():
    lm = random_lm()
    for how in ("mask4d", "branch", "separate"):
        first = joint(lm, how).slots
        other = joint(lm, how, tails=[ids(5, 9), TAILS[1]]).slots
        assert torch.equal(first[:, 1], other[:, 1])
        assert (first[:, 0] - other[:, 0]).abs().max() > 1e-3


@torch.no_grad()
def test_flex_attention():
    with torch.compiler.set_stance("force_eager"):  # the same rule and arithmetic, no minute of compiling
        for name in ("llama", "gemma2"):
            lm = load(name)
            before = decoder(lm.model).config._attn_implementation
            same(joint(lm, "flex"), alone(lm), 1e-4)
            assert decoder(lm.model).config._attn_implementation == before


@torch.no_grad()
def test_one_tail_none_and_text_alone():
    lm = random_lm()
    want = alone(lm)
    for how in ("mask4d", "branch", "separate"):
        only = joint(lm, how, tails=TAILS[1:])
        torch.testing.assert_close(only.slots, want.slots[:, 1:], atol=1e-5, rtol=0)
        bare = joint(lm, how, tails=[])
        assert bare.slots.shape == (3, 0, SLOTS, 64)
        torch.testing.assert_close(bare.text, want.text, atol=1e-5, rtol=0)
        assert joint_states(lm, TEXTS, TAILS, SLOTS, how).text is None


def test_checkpointing_gives_the_same_gradients_and_is_refused_for_branches():
    lm = random_lm()

    def slope() -> Tensor:
        lm.model.zero_grad()
        joint(lm, "mask4d").slots.square().sum().backward()
        return decoder(lm.model).layers[0].self_attn.k_proj.weight.grad.clone()

    plain = slope()
    with checkpointed(lm):
        torch.testing.assert_close(slope(), plain, atol=0, rtol=1e-5)
        with pytest.raises(ModelError, match="activation checkpointing"):
            joint(lm, "branch")


def test_what_does_not_go_together_is_said():
    lm = random_lm()
    lm.model.config._attn_implementation = "flash_attention_2"
    try:
        with pytest.raises(ModelError, match="set_attn_implementation"):
            joint(lm, "mask4d")
    finally:
        lm.model.config._attn_implementation = "sdpa"
    with pytest.raises(ModelError, match="use joint='branch'"):
        joint(load("bloom"), "mask4d")
    with pytest.raises(ModelError, match="use joint='branch'"):
        joint(load("falcon-alibi"), "mask4d")
    with pytest.raises(ModelError, match="use joint='separate'"):
        joint(load("lfm2"), "mask4d")
    with pytest.raises(InputError, match="Unknown joint"):
        joint(lm, "odd")
    with pytest.raises(InputError, match="leave packing off"):
        joint(lm, "branch", width=64)
    with pytest.raises(InputError, match="at least one token"):
        joint(lm, "mask4d", texts=[[1, 2]])
    with pytest.raises(InputError, match="its 2 slots"):
        joint(lm, "mask4d", tails=[[1]])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(8, 40))
def test_packing_loses_nothing(sizes, width):
    rows = pack(sizes, width)
    assert sorted(number for row in rows for number in row) == list(range(len(sizes)))
    assert all(len(row) == 1 or sum(sizes[number] for number in row) <= width for row in rows)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(3, 20), min_size=1, max_size=6), st.one_of(st.none(), st.integers(8, 60)))
def test_a_layout_places_every_token_once(sizes, width):
    texts = [ids(size, seed) for seed, size in enumerate(sizes)]
    rows = lay_out(texts, TAILS, SLOTS, PREFIX, width, multiple=4)
    assert rows.ids.shape[1] % 4 == 0
    flat, owners, segments = rows.ids.flatten(), rows.owners.flatten(), rows.segments.flatten()
    for number, text in enumerate(texts):
        assert flat[(owners == number) & (segments == 0)].tolist() == text
        for segment, tail in enumerate(TAILS, 1):
            own = (owners == number) & (segments == segment)
            assert flat[own].tolist() == tail
            assert rows.positions.flatten()[own].tolist() == list(range(len(text), len(text) + len(tail)))
            assert flat[rows.slots[number, segment - 1]].tolist() == tail[-SLOTS:]
    assert flat[rows.before + 1].tolist() == rows.said.tolist()
