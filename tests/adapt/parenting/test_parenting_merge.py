"""Merging: exact products, averaged factors, weights that sum to 1, and a stock checkpoint (parenting.md 11, 6)."""

from __future__ import annotations

import pytest
import torch

import headwater as hw
from headwater.adapt.parenting.merge import CODE, PARTS, THIRDS, merge_adapter, merge_weights, merged
from headwater.adapt.parenting.units import unit_modules
from headwater.errors import InputError, ModelError
from headwater.model.adapter import adapted, save_adapter
from headwater.model.anatomy import unwrapped
from models import random_lm
from parenting_items import made_map

RANK = 3


@pytest.fixture(scope="module")
def lm():
    return random_lm(layers=1)


def three(lm, units):
    """Three made-up adapters and what they began with."""
    with adapted(lm, unit_modules(units.units), RANK, 6, 0, values=True) as tuned:
        shapes = {n: p.detach().clone() for n, p in unwrapped(tuned.model).named_parameters() if "lora_" in n}
    draw = torch.Generator().manual_seed(3)
    return {part: {n: torch.randn(p.shape, generator=draw) for n, p in shapes.items()} for part in PARTS}, shapes


def factors(tuned, module):
    own = dict(unwrapped(tuned.model).named_parameters())
    return own[f"{module}.lora_A.default.weight"], own[f"{module}.lora_B.default.weight"]


@pytest.mark.parametrize("other", ["mix", "zero"])
def test_concat_is_the_weighted_sum_of_products(lm, other):
    units = made_map(lm, rank=RANK)
    parts, initial = three(lm, units)
    weights = merge_weights("code", other)
    with merged(lm, units, parts, initial, weights, "concat", RANK, 6, 0) as tuned:
        adapters = {
            name.rpartition(".lora_A")[0] for name, _ in unwrapped(tuned.model).named_parameters() if "_A" in name
        }
        assert adapters == {u.module for u in (units.units if other == "mix" else units.of("E", "A", "R"))}
        for unit, name in zip(units.units, units.classes, strict=True):
            if name == "O" and other == "zero":
                continue
            a, b = factors(tuned, unit.module)
            assert a.shape[0] == 3 * RANK
            expected = sum(
                w
                * parts[part][f"{unit.module}.lora_B.default.weight"]
                @ parts[part][f"{unit.module}.lora_A.default.weight"]
                for w, part in zip(weights[name], PARTS, strict=True)
            )
            torch.testing.assert_close(b @ a, expected, rtol=1e-5, atol=1e-5)
            assert unwrapped(tuned.model).get_submodule(unit.module).scaling["default"] == 2.0
    assert not hasattr(lm.model, "peft_config")


def test_factors_are_averaged_apart(lm):
    units = made_map(lm, "ARE", kind="factor", rank=RANK)
    parts, initial = three(lm, units)
    weights = merge_weights({**CODE, "A": (1.0, 0.0, 0.0)}, "zero")
    with merged(lm, units, parts, initial, weights, "factors", RANK, 6, 0) as tuned:
        own = dict(unwrapped(tuned.model).named_parameters())
        for unit, name in zip(units.units, units.classes, strict=True):
            tensor = f"{unit.module}.lora_{unit.part}.default.weight"
            hand = sum(w * parts[part][tensor] for w, part in zip(weights[name], PARTS, strict=True))
            torch.testing.assert_close(own[tensor], hand, rtol=1e-6, atol=1e-6)
    with (
        pytest.raises(InputError, match="merge_space='factors'"),
        merged(lm, units, parts, initial, weights, "concat", RANK, 6, 0),
    ):
        pass


def test_a_factor_without_weight_stays_as_it_began(lm):
    units = made_map(lm, "AO", kind="factor", rank=RANK)
    parts, initial = three(lm, units)
    with merged(lm, units, parts, initial, merge_weights("code", "zero"), "factors", RANK, 6, 0) as tuned:
        own = dict(unwrapped(tuned.model).named_parameters())
        for unit in units.of("O"):
            name = f"{unit.module}.lora_{unit.part}.default.weight"
            assert torch.equal(own[name], initial[name])


def test_weights_sum_to_one():
    for weights in (CODE, THIRDS, merge_weights("code")):
        assert all(sum(row) == pytest.approx(1) for row in weights.values())
    assert merge_weights("thirds", "zero")["O"] == (0.0, 0.0, 0.0)
    with pytest.raises(InputError, match="three numbers that sum to 1"):
        merge_weights({**CODE, "A": (0.5, 0.0, 0.2)})
    with pytest.raises(InputError, match="name the classes E, A, R, O"):
        merge_weights({"E": (1.0, 0.0, 0.0)})
    with pytest.raises(InputError, match="Unknown merge weights"):
        merge_weights("halves")


def test_units_that_cannot_be_merged_are_refused(lm):
    units = made_map(lm, kind="rank", rank=RANK)
    with pytest.raises(InputError, match="kind 'pair'"), merged(lm, units, {}, {}, CODE, "concat", RANK, 6, 0):
        pass


def test_an_adapter_merges_into_a_stock_checkpoint(lm, tmp_path):
    from transformers import AutoModelForCausalLM

    lm.save(tmp_path / "base")
    base = hw.load(tmp_path / "base")
    modules = ["model.layers.0.self_attn.v_proj", "model.layers.0.mlp.down_proj"]
    with adapted(base, modules, RANK, 6, 0, values=True) as tuned:
        with torch.no_grad():
            for name, parameter in tuned.model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.1)
        (tmp_path / "adapter").mkdir()
        save_adapter(tuned, tmp_path / "adapter", {})
        ids = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = tuned.model(input_ids=ids).logits
    folder = merge_adapter(hw.load(tmp_path / "adapter"), tmp_path / "merged")
    stock = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(stock(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    before, after = base.model.state_dict(), stock.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {f"{module}.weight" for module in modules}
    assert hw.load(folder).tokenizer("ab")["input_ids"] == base.tokenizer("ab")["input_ids"]
    with pytest.raises(InputError, match="not empty"):
        merge_adapter(hw.load(tmp_path / "adapter"), folder)
    with pytest.raises(ModelError, match="no adapter"):
        merge_adapter(base, tmp_path / "other")
