"""Routed gradients equal gradients computed one loss at a time and combined by hand (parenting.md 11, 1, 2 and 4)."""

from __future__ import annotations

import contextlib

import pytest
import torch

import headwater as hw
from families import family_model
from headwater.adapt.parenting import routed
from headwater.adapt.parenting.losses import answer_loss, batches, padded
from headwater.adapt.parenting.recipe import Recipe, mixture, unified
from headwater.adapt.parenting.recipe import routed as routed_recipe
from headwater.adapt.parenting.routed import Owned, Router, refuse_sharded
from headwater.adapt.parenting.units import unit_modules, unit_pieces
from headwater.adapt.parenting.values import lent
from headwater.errors import InputError, ModelError
from headwater.instrument.checkpointing import checkpointed
from headwater.model.adapter import adapted
from headwater.model.anatomy import decoder_layers
from models import byte_tokenizer, random_lm
from parenting_items import made_map, short_prompts

LOSSES = ("a", "r", "c")
RANK = 4


@contextlib.contextmanager
def prepared(lm, units, seed=1):
    """The model with what the units live in, B not zero."""
    modules = unit_modules(units.units)
    place = lent(lm, modules) if units.units[0].kind == "matrix" else adapted(lm, modules, RANK, 8, 0, values=True)
    with place as tuned:
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in tuned.model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(0.05 * torch.randn(parameter.shape, generator=draw))
        yield tuned


def prompts(seed=0, count=3):
    return short_prompts(count, seed, LOSSES)


def collected(tuned, recipe, given, micro=8, tokens=None):
    """What a router collects, by tensor."""
    with Router(recipe.owned(tuned, list(recipe.units)), recipe.weights) as router:
        for loss in router.losses:
            count = (tokens or {}).get(loss) or sum(prompt.targets for prompt in given[loss])
            router.collect(tuned.model, loss, batches(tuned, given[loss], micro), count)
        return {name: tensor.total.clone() for name, tensor in router.tensors.items()}


def by_hand(tuned, recipe, given):
    """The same with one `autograd.grad` per loss, and factors looked up entry by entry."""
    owned = recipe.owned(tuned, list(recipe.units))
    parameters = {each.piece.name: each.piece.parameter for each in owned}
    for parameter in tuned.model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    out = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for loss in LOSSES:
        value, count = answer_loss(tuned, padded(given[loss]))
        gradients = torch.autograd.grad(value / count, list(parameters.values()), allow_unused=True)
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            factor = torch.zeros_like(parameter)
            for each in owned:
                if each.piece.name == name:
                    each.piece.spread(recipe.weights[each.owner].get(loss, 0.0), factor)
            if gradient is not None:
                out[name] += factor * gradient
    return out


def recipe_for(lm, kind="pair", **more):
    return routed_recipe(made_map(lm, kind=kind, rank=RANK, gamma=0.3, **more), 10, 0.8, 0.0)


KIND_CASES = [
    ("llama", "pair", {}),
    ("llama", "factor", {}),
    ("llama", "rank", {}),
    ("llama", "matrix", {}),
    ("gpt2", "pair", {}),
    ("gpt2", "matrix", {"split_fused": True}),
    ("phi3", "pair", {"split_fused": True}),
    ("phi3", "matrix", {"split_fused": True}),
    ("gpt_neox", "rank", {}),
]


@pytest.mark.parametrize(("family", "kind", "more"), KIND_CASES)
def test_every_unit_gets_its_own_combination(family, kind, more):
    """In fp64, to rounding; with micro-batches of one."""
    lm = hw.load(model=family_model(family, dtype=torch.float64), tokenizer=byte_tokenizer())
    units = made_map(lm, kind=kind, rank=RANK, gamma=0.3, **more)
    recipe = routed_recipe(units, 10, 0.8, 0.0)
    with prepared(lm, units) as tuned:
        if kind != "matrix":
            tuned.model.double()
        given = prompts()
        found, expected = collected(tuned, recipe, given, micro=1), by_hand(tuned, recipe, given)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient.abs().max() > 0
            assert found[name].dtype == torch.float64
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_in_fp32_with_micro_batches_and_checkpointing(family, reentrant):
    lm = hw.load(model=family_model(family), tokenizer=byte_tokenizer())
    recipe = recipe_for(lm)
    with prepared(lm, made_map(lm, rank=RANK)) as tuned:
        given = prompts()
        expected = by_hand(tuned, recipe, given)
        runs = []
        layer = decoder_layers(tuned.model)[0]
        hook = next(m for m in layer.modules() if isinstance(m, torch.nn.LayerNorm) or "Norm" in type(m).__name__)
        handle = hook.register_forward_hook(lambda *_: runs.append(1))
        with contextlib.nullcontext() if reentrant is None else checkpointed(tuned, reentrant):
            found = collected(tuned, recipe, given, micro=2)
        handle.remove()
        assert len(runs) == 6 * (1 if reentrant is None else 2)
        assert not any(module.training for module in tuned.model.modules())
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
        assert collected(tuned, recipe, given, micro=2).keys() == found.keys()


def test_a_class_does_not_see_the_other_sides_examples():
    lm = random_lm(layers=2)
    recipe = recipe_for(lm)
    owner = {piece.name: name for name, own in recipe.units.items() for unit in own for piece in names_of(lm, unit)}
    with prepared(lm, made_map(lm, rank=RANK)) as tuned:
        given, other = prompts(), prompts(seed=7)
        for changed, untouched in (("a", "R"), ("r", "A")):
            first = collected(tuned, recipe, given)
            second = collected(tuned, recipe, {**given, changed: other[changed]})
            for name, gradient in first.items():
                assert torch.equal(gradient, second[name]) == (owner[name] == untouched), (name, owner[name])


def names_of(lm, unit):
    with adapted(lm, [unit.module], RANK, 8, 0, values=True) as tuned:
        return unit_pieces(tuned, unit)


def test_an_infinite_loss_does_not_reach_a_class_that_does_not_see_it(monkeypatch):
    """A factor of zero is left out, not multiplied: 0 times infinity is NaN."""
    lm = random_lm(layers=2)
    current = []

    def exploding(model, batch):
        loss, tokens = answer_loss(model, batch)
        return (loss * float("inf") if current[-1] == "r" else loss), tokens

    monkeypatch.setattr(routed, "answer_loss", exploding)
    for kind in ("pair", "rank"):
        units = made_map(lm, kind=kind, rank=RANK)
        recipe = routed_recipe(units, 10, 0.8, 0.0)
        with (
            prepared(lm, units) as tuned,
            Router(recipe.owned(tuned, list(recipe.units)), recipe.weights) as router,
        ):
            given = prompts()
            for loss in LOSSES:
                current.append(loss)
                router.collect(tuned.model, loss, batches(tuned, given[loss], 8), 10)
            finite = dict.fromkeys(router.owners, True)
            for tensor in router.tensors.values():
                for each in tensor.owned:
                    finite[each.owner] &= bool(each.piece.of(tensor.total).isfinite().all())
            assert finite == {"E": False, "A": True, "R": False}


def test_units_of_class_o_get_nothing():
    lm = random_lm(layers=2)
    units = made_map(lm, kind="rank", rank=RANK)
    recipe = routed_recipe(units, 10, 0.8, 0.0)
    with prepared(lm, units) as tuned:
        found = collected(tuned, recipe, prompts())
        for unit in units.of("O"):
            for piece in unit_pieces(tuned, unit):
                assert not piece.of(found[piece.name]).any()
        assert not any(parameter.requires_grad for name, parameter in lm.model.named_parameters() if "lora" not in name)


def test_no_boundary_is_training_on_the_weighted_sum():
    """A leak of a half with equal gamma gives every unit the same, whatever its class."""
    lm = random_lm(layers=2)
    units = made_map(lm, "EAR", rank=RANK)
    with prepared(lm, units) as tuned:
        given = prompts()
        found = collected(tuned, routed_recipe(units, 10, 0.8, 0.5), given)
        together = collected(tuned, unified(units, 10, 0.8, everything=True), given)
        for parameter in tuned.model.parameters():
            parameter.grad = None
            parameter.requires_grad_(False)
        for _, tensor in named(tuned, found):
            tensor.requires_grad_(True)
        total = sum(
            k * answer_loss(tuned, padded(given[loss]))[0] / sum(p.targets for p in given[loss])
            for loss, k in (("a", 0.4), ("r", 0.4), ("c", 0.2))
        )
        total.backward()
        for name, tensor in named(tuned, found):
            torch.testing.assert_close(found[name], tensor.grad, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(together[name], tensor.grad, rtol=1e-5, atol=1e-6)


def named(tuned, found):
    from headwater.model.anatomy import unwrapped

    return [(name, p) for name, p in unwrapped(tuned.model).named_parameters() if name in found]


def test_only_the_product_of_the_factors_acts():
    """<A, G_A> = <B, G_B> for every loss, so that A and B share a class."""
    lm = random_lm(layers=2)
    recipe = recipe_for(lm)
    with prepared(lm, made_map(lm, rank=RANK)) as tuned:
        found = collected(tuned, recipe, prompts())
        sums = {name: float((p.detach() * found[name]).sum()) for name, p in named(tuned, found)}
        pairs = [
            (value, sums[name.replace(".lora_A.", ".lora_B.")]) for name, value in sums.items() if "lora_A" in name
        ]
        assert len(pairs) == len(recipe.trained)
        for one, other in pairs:
            assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_the_token_mean_counts_long_targets_more():
    lm = random_lm(layers=1)
    units = made_map(lm, rank=RANK)
    with prepared(lm, units) as tuned:
        given = prompts()
        all_tokens = sum(prompt.targets for own in given.values() for prompt in own)
        recipe = mixture(units.units, 10, LOSSES, per_loss=False)
        assert recipe.together
        found = collected(tuned, recipe, given, tokens=dict.fromkeys(LOSSES, all_tokens))
        joint = [prompt for own in given.values() for prompt in own]
        expected = collected(tuned, Recipe({"all": units.units}, {"all": {"a": 1.0}}, ()), {"a": joint})
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_clipping_by_class_keeps_one_side_out_of_the_others_step():
    lm = random_lm(layers=2)
    for kind in ("pair", "rank"):
        units = made_map(lm, kind=kind, rank=RANK)
        recipe = routed_recipe(units, 10, 0.8, 0.0)
        with (
            prepared(lm, units) as tuned,
            Router(recipe.owned(tuned, list(recipe.units)), recipe.weights) as router,
        ):
            given = prompts()

            def collect(router=router, tuned=tuned, given=given):
                router.clear()
                for loss in LOSSES:
                    router.collect(tuned.model, loss, batches(tuned, given[loss], 8), 1 if loss == "a" else 100)
                return router.norms()

            norms = collect()
            small = min(norms.values())
            router.clip(1.5 * small, norms)
            clipped = router.norms()
            for owner, norm in norms.items():
                assert clipped[owner] == pytest.approx(min(norm, 1.5 * small), rel=1e-5)
            norms = collect()
            router.clip(1.5 * small, norms, together=True)
            whole = sum(value**2 for value in norms.values()) ** 0.5
            for owner, norm in router.norms().items():
                assert norm == pytest.approx(norms[owner] * 1.5 * small / whole, rel=1e-5)


def test_the_cosine_is_over_the_watched_class_alone():
    lm = random_lm(layers=2)
    units = made_map(lm, rank=RANK)
    recipe = routed_recipe(units, 10, 0.8, 0.0)
    with prepared(lm, units) as tuned:
        given = prompts()
        parts = []
        for loss in ("a", "r"):
            own = Recipe({"E": units.of("E")}, {"E": {loss: 1.0}}, ())
            parts.append(torch.cat([g.flatten() for _, g in sorted(collected(tuned, own, given).items())]))
        with Router(recipe.owned(tuned, list(recipe.units)), recipe.weights) as router:
            assert router.cosine("a", "r") is None
            router.watch("a", "r")
            for loss in LOSSES:
                router.collect(tuned.model, loss, batches(tuned, given[loss], 2), 7)
            expected = torch.nn.functional.cosine_similarity(parts[0], parts[1], dim=0).item()
            assert router.cosine("a", "r") == pytest.approx(expected, abs=1e-5)
            vector = router.flat()
            router.restore(2 * vector)
            assert torch.equal(router.flat(), 2 * vector)


def test_hooks_and_requests_go_when_the_router_does():
    lm = random_lm(layers=1)
    units = made_map(lm, rank=RANK)
    recipe = routed_recipe(units, 10, 0.8, 0.0)
    with prepared(lm, units) as tuned:
        trained = [p for p in tuned.model.parameters() if p.requires_grad]
        with Router(recipe.owned(tuned, ["A"]), recipe.weights):
            pass
        answer_loss(tuned, padded(prompts()["a"]))[0].backward()
        assert all(parameter.grad is not None for parameter in trained)


def test_bad_recipes_are_refused():
    lm = random_lm(layers=1)
    units = made_map(lm, rank=RANK)
    with prepared(lm, units) as tuned:
        piece = unit_pieces(tuned, units.units[0])[0]
        with pytest.raises(InputError, match="has no weights"):
            Router([Owned("X", piece)], {"E": {"a": 1.0}})
        with pytest.raises(InputError, match="not finite"):
            Router([Owned("E", piece)], {"E": {"a": float("nan")}})
        with pytest.raises(InputError, match="share parameters"):
            Router([Owned("E", piece), Owned("A", piece)], {"E": {"a": 1.0}, "A": {"a": 1.0}})
    weight = next(lm.model.parameters())
    weight.ds_id = 3
    with pytest.raises(ModelError, match="ZeRO"):
        refuse_sharded(lm.model)
