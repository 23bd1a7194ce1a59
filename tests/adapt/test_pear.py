"""The planted suppressor is turned down, gradients are right, the folded checkpoint is an ordinary one."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import headwater as hw
from headwater.adapt.pear_check import check_fold
from headwater.adapt.text_kl import text_kl, windows
from headwater.errors import HeadSetError, InputError, ModelError
from headwater.headset.card import fold_card
from headwater.instrument.fold import effective_coefficients
from headwater.instrument.outputs import scaled_by
from models import random_lm
from planted_suppressor import COPIER, SUPPRESSOR, copying_lm

TEXTS = ["w1 w2 w3 w4 w5 w6 w7 w8"] * 4
SHORT = {"length": 25, "texts": TEXTS}


def test_the_suppressor_is_turned_down():
    found = hw.Pear([SUPPRESSOR], **SHORT).fit(copying_lm())
    assert found.coefficients[0] < 0.85
    held = found.provenance["heldout"]
    assert held["after"] < 0.7 * held["before"]
    assert found.provenance["below_one"] == 1.0
    assert [row["step"] for row in found.provenance["curve"]] == [0, 10, 20, 30, 40, 50, 60]


def test_heads_are_found_where_none_are_given():
    found = hw.Pear(top_k=1, steps=5, **SHORT)
    assert found.fit(copying_lm()).heads == [SUPPRESSOR]


def test_all_heads():
    lm = copying_lm()
    found = hw.Pear("all", steps=10, **SHORT).fit(lm)
    values = dict(zip(found.heads, found.coefficients, strict=True))
    assert len(found) == 12
    assert values[SUPPRESSOR] < 1 < values[COPIER]


def test_the_same_seed_gives_the_same_coefficients():
    lm = copying_lm()
    one, again, other = (hw.Pear([SUPPRESSOR], steps=5, seed=s, **SHORT).fit(lm).coefficients for s in (0, 0, 1))
    assert one == again
    assert one != other


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_equal_finite_differences(family):
    lm = random_lm(family, dtype=torch.float64)
    heads = [(0, 1), (2, 3), (3, 0)]
    ids = torch.randint(2, 200, (2, 14), generator=torch.Generator().manual_seed(0))

    def loss(alpha):
        with scaled_by(lm, heads, alpha):
            logits = lm.model(input_ids=ids).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    alpha = torch.tensor([1.0, 0.8, 1.2], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(alpha), alpha)
    with torch.no_grad():
        for place in range(3):
            step = torch.zeros(3, dtype=torch.float64)
            step[place] = 1e-3  # RMSNorm takes float32 steps
            slope = (loss(alpha + step) - loss(alpha - step)) / 2e-3
            assert abs(slope - gradient[place]) < 1e-3 * max(1.0, abs(slope))


def test_only_the_coefficients_are_learned_and_the_model_is_left_as_it_was():
    lm = copying_lm()
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    asked = [parameter.requires_grad for parameter in lm.model.parameters()]
    hw.Pear([SUPPRESSOR], steps=3, **SHORT).fit(lm)
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.model.state_dict().items())
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    assert asked == [parameter.requires_grad for parameter in lm.model.parameters()]


def test_micro_batches_change_nothing():
    lm = copying_lm()
    whole = hw.Pear([SUPPRESSOR], steps=4, **SHORT).fit(lm).coefficients[0]
    parts = hw.Pear([SUPPRESSOR], steps=4, micro_batch=7, **SHORT).fit(lm).coefficients[0]
    assert abs(whole - parts) < 1e-6


def test_bounds_rounding_and_selection():
    lm = copying_lm()
    bounded = hw.Pear([SUPPRESSOR], steps=30, bounds=(0.95, 1.0), **SHORT).fit(lm)
    assert abs(bounded.coefficients[0] - 0.95) < 1e-6
    rounded = hw.Pear([SUPPRESSOR], steps=6, rounded=True, **SHORT).fit(lm).coefficients
    assert torch.tensor(rounded).bfloat16().tolist() == rounded
    strict = hw.Pear([SUPPRESSOR], steps=30, select="heldout", max_text_kl=0.0, **SHORT).fit(lm)
    assert strict.coefficients == [1.0]
    assert strict.provenance["step"] == 0
    free = hw.Pear([SUPPRESSOR], steps=30, select="heldout", max_text_kl=100.0, **SHORT).fit(lm)
    assert free.provenance["step"] == 30


def test_text_kl_is_zero_for_no_change_and_equals_a_slow_sum():
    lm = random_lm()
    given = windows(lm, ["some plain text, long enough"])
    heads = hw.HeadSet([(1, 2)], [0.5])
    assert text_kl(lm, lambda: hw.scaled(lm, hw.HeadSet([(1, 2)], [1.0])), given) < 1e-9
    with torch.no_grad():
        before = lm.model(input_ids=given[0]).logits[0].log_softmax(-1)
        with hw.scaled(lm, heads):
            after = lm.model(input_ids=given[0]).logits[0].log_softmax(-1)
    rows = zip(before, after, strict=True)
    slow = np.mean([sum(p.exp() * (p - q) for p, q in zip(a, b, strict=True)).item() for a, b in rows])
    assert abs(text_kl(lm, lambda: hw.scaled(lm, heads), given) - slow) < 1e-5
    with pytest.raises(InputError, match="two tokens"):
        windows(lm, [])


def folded(tmp_path, dtype=torch.float32):
    """A folded checkpoint, its base, and the set."""
    lm = random_lm(dtype=dtype)
    lm.save(tmp_path / "base")
    heads = hw.HeadSet([(0, 1), (2, 3)], [0.8, 1.1], provenance={"model": str(tmp_path / "base")})
    lm = hw.load(tmp_path / "base")
    hw.fold(lm, heads)
    lm.card = fold_card(heads, "base/name", "---\nlicense: mit\ntags: [x]\n---\n# Base\n")
    lm.save(tmp_path / "folded")
    return heads


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folded_checkpoint_is_an_ordinary_one(tmp_path, dtype):
    heads = folded(tmp_path, dtype)
    base, new = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "folded"))
    assert {n: (t.shape, t.dtype) for n, t in base.items()} == {n: (t.shape, t.dtype) for n, t in new.items()}
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("base", "folded")]
    assert abs(sizes[0] - sizes[1]) < 64
    changed = [name for name in base if not torch.equal(base[name], new[name])]
    assert changed == ["model.layers.0.self_attn.o_proj.weight", "model.layers.2.self_attn.o_proj.weight"]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "folded")
    assert type(plain).__name__ == "LlamaForCausalLM"
    report = check_fold(hw.load(tmp_path / "folded"), hw.load(tmp_path / "base"), heads, ["some plain text"])
    assert report["same_names"]
    assert report["same_shapes"]
    assert report["same_dtypes"]
    assert report["others_identical"]
    assert report["logits"] < (1e-5 if dtype == torch.float32 else 3e-2)
    assert report["text_kl"] > 0
    for row, wanted in zip(report["effective"], heads.coefficients, strict=True):
        assert row["coefficient"] == wanted
        assert abs(row["effective"] - wanted) < (1e-6 if dtype == torch.float32 else 2e-3)


def test_check_refuses_other_sets_and_models(tmp_path):
    heads = folded(tmp_path)
    base, new = hw.load(tmp_path / "base"), hw.load(tmp_path / "folded")
    with pytest.raises(HeadSetError, match="was not folded"):
        check_fold(base, base, heads)
    with pytest.raises(HeadSetError, match="another head set"):
        check_fold(new, base, hw.HeadSet([(0, 1)], [0.8]))
    with pytest.raises(ModelError, match="same tensors"):
        check_fold(new, random_lm("gpt2"), heads)


def test_effective_coefficients_lose_what_bfloat16_cannot_hold():
    lm = random_lm()
    heads = hw.HeadSet([(0, 0), (1, 1)], [0.9995, 0.5])
    exact = effective_coefficients(lm, heads, torch.float64)
    assert np.allclose(exact, heads.coefficients, atol=1e-6)
    lm.model.to(torch.bfloat16)
    kept = effective_coefficients(lm, heads, torch.bfloat16)
    assert kept[0] == 1.0
    assert abs(kept[1] - 0.5) < 1e-6


def test_the_card_keeps_what_the_base_card_says():
    heads = hw.HeadSet([(0, 1)], [0.8], provenance={"method": "Pear"})
    card = fold_card(heads, "org/base", "---\nlicense: mit\ntags: [x]\n---\n# Base\n\nText.\n")
    assert card.startswith("---\n")
    for part in ("license: mit", "base_model: org/base", "base_model_relation: finetune", "| 0-1 | 0.8000 |", "Text."):
        assert part in card
    assert fold_card(heads, "b", None).startswith("---\nbase_model: b\n")
    assert "not: [yaml" in fold_card(heads, "b", "---\nnot: [yaml\n---\n")
    with pytest.raises(InputError, match="no coefficients"):
        fold_card(hw.HeadSet([(0, 1)]), "b")


def test_bad_input():
    for switches, words in (
        ({"heads": "some"}, "heads is a head set"),
        ({"select": "odd"}, "Unknown select"),
        ({"preset": "odd"}, "Unknown preset"),
        ({"steps": 0}, "steps must be"),
        ({"steps": 3000}, "schedule"),
        ({"bounds": (0.0, 0.5)}, "bounds must hold 1"),
    ):
        with pytest.raises(InputError, match=words):
            hw.Pear(**switches)
    with pytest.raises(HeadSetError):
        hw.Pear([(9, 9)], **SHORT).fit(copying_lm())


def test_the_official_preset():
    method = hw.Pear([SUPPRESSOR], steps=5, preset="official", **SHORT)
    assert (method.skip_first, method.rounded, method.task.ids, method.task.distinct) == (
        False,
        True,
        "from-two",
        False,
    )
    assert len(method.fit(copying_lm()).coefficients) == 1


def test_the_result_is_saved_whole(tmp_path):
    found = hw.Pear([SUPPRESSOR], steps=5, **SHORT).fit(copying_lm())
    found.save(tmp_path / "pear.json")
    again = hw.HeadSet.load(tmp_path / "pear.json")
    assert again.coefficients == found.coefficients
    json.dumps(dict(again.provenance))


def test_a_mark_alone_is_no_fold():
    base, never_folded = random_lm(), random_lm()
    heads = hw.HeadSet([(0, 1)], [0.5])
    never_folded.model.config.headwater_fold = {"heads": [[0, 1]], "coefficients": [0.5]}
    report = check_fold(never_folded, base, heads, ["some plain text"])
    assert not report["folded"]
    assert report["text_kl"] < 1e-9


def test_coefficients_of_other_weights_are_not_folded():
    lm = copying_lm()
    found = hw.Pear([SUPPRESSOR], steps=2, **SHORT).fit(lm)
    with pytest.raises(HeadSetError, match="other weights"):
        hw.fold(copying_lm(suppressing=0.5), found)
    with pytest.raises(HeadSetError, match="layers x"):
        hw.fold(random_lm(), found)
    hw.fold(lm, found)


def test_options_that_contradict_each_other():
    with pytest.raises(InputError, match="leave top_k out"):
        hw.Pear("all", top_k=4)
    with pytest.raises(InputError, match="official"):
        hw.Pear(preset="official", select="heldout")
