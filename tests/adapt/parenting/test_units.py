"""Units: what they are in every family, where their parameters are, that they share none, and what is refused."""

import pytest
import torch

import headwater as hw
from families import FAMILIES, HYBRID, OWN_ATTENTION, composite_model, family_model
from headwater.adapt.parenting import units as units_module
from headwater.adapt.parenting.units import Unit, candidate_units, unit_modules, unit_pieces
from headwater.errors import InputError, ModelError
from headwater.model.adapter import adapted
from models import byte_tokenizer, random_lm

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NEVER = ("router", "experts", "embed", "lm_head", "norm", "mamba", "conv")
PER_LAYER = {"phi3": 4, "gpt2": 4, "gpt2-scaled": 4, "gpt_neox": 4, "mixtral": 4, "gpt_oss": 4}
PER_LAYER |= {"opt": 6, "phi": 6, "starcoder2": 6} | dict.fromkeys(OWN_ATTENTION, 4)


def family_lm(name, **more):
    return hw.load(model=family_model(name, **more), tokenizer=byte_tokenizer())


@pytest.mark.parametrize("family", [*FAMILIES, *OWN_ATTENTION])
def test_units_of_a_family(family):
    units = candidate_units(family_lm(family))
    assert len(units) == 4 * PER_LAYER.get(family, 7)
    assert {unit.layer for unit in units} == {0, 1, 2, 3}
    assert [unit.layer for unit in units] == sorted(unit.layer for unit in units)
    assert not [unit for unit in units if any(word in unit.name for word in NEVER)]


def test_units_of_a_llama_by_name():
    units = candidate_units(random_lm(layers=2))
    assert [unit.projection.rpartition(".")[2] for unit in units] == LLAMA * 2
    assert units[0] == Unit("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", 0, "pair")


@pytest.mark.parametrize("family", HYBRID)
def test_state_layers_of_hybrids_are_no_units(family):
    units = candidate_units(family_lm(family))
    assert {unit.layer for unit in units if "self_attn" in unit.name} == {1, 3}
    assert not [unit for unit in units if any(word in unit.name for word in NEVER)]


def test_units_of_a_composite_model_are_those_of_its_text_part():
    units = candidate_units(hw.load(model=composite_model(), tokenizer=byte_tokenizer()))
    assert len(units) == 28
    assert not [unit for unit in units if "vision" in unit.name or "projector" in unit.name]


def test_targets():
    lm = random_lm(layers=2)
    assert len(candidate_units(lm, targets=["attention"])) == 8
    assert len(candidate_units(lm, targets=["mlp", "q_proj"])) == 8
    assert {unit.projection for unit in candidate_units(lm, targets=["mlp.up_proj"])} == {"mlp.up_proj"}
    two = candidate_units(family_lm("gpt2"), targets=["attn.c_proj"])
    assert [unit.layer for unit in two] == [0, 1, 2, 3]


def test_factors_are_of_attention_alone_unless_asked():
    lm = random_lm(layers=2)
    units = candidate_units(lm, "factor")
    assert len(units) == 2 * 4 * 2
    assert [unit.name.rpartition(":")[2] for unit in units[:2]] == ["A", "B"]
    assert len(candidate_units(lm, "factor", ["attention", "mlp"])) == 2 * 7 * 2


def covered(lm, units):
    """How many units hold each number of each tensor."""
    counts = {}
    for unit in units:
        for piece in unit_pieces(lm, unit):
            count = counts.setdefault(piece.name, torch.zeros(piece.parameter.shape, dtype=torch.int64))
            count += piece.spread(1, torch.zeros_like(count))
            assert torch.equal(piece.of(piece.parameter).detach().flatten().sort()[0], mine(piece))
    return counts


def mine(piece):
    """The unit's numbers, by a mask."""
    mask = piece.spread(1, torch.zeros_like(piece.parameter)).bool()
    return piece.parameter.detach()[mask].sort()[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gpt_neox"])
@pytest.mark.parametrize("kind", ["pair", "factor", "rank"])
def test_units_part_the_adapter_among_them(family, kind):
    lm = family_lm(family)
    units = candidate_units(lm, kind, rank=3)
    with adapted(lm, unit_modules(units), 3, 6.0, seed=0, values=True) as tuned:
        counts = covered(tuned, units)
        names = {n.removeprefix("base_model.model.") for n, p in tuned.model.named_parameters() if p.requires_grad}
    assert set(counts) == names
    assert all(bool((count == 1).all()) for count in counts.values())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gpt_neox"])
@pytest.mark.parametrize("split", [False, True])
def test_matrices_part_the_weights_among_them(family, split):
    lm = family_lm(family)
    units = candidate_units(lm, "matrix", split_fused=split)
    assert (len(units) > len(unit_modules(units))) is (split and family != "llama")
    counts = covered(lm, units)
    assert set(counts) == {f"{name}.weight" for name in unit_modules(units)}
    assert all(bool((count == 1).all()) for count in counts.values())
    named = dict(lm.model.named_parameters())
    assert all(piece.parameter is named[piece.name] for unit in units for piece in unit_pieces(lm, unit))


def test_slices_of_a_pair_are_rows_of_b_alone():
    lm = family_lm("phi3")
    units = [unit for unit in candidate_units(lm, split_fused=True) if unit.part]
    assert {unit.part for unit in units} == {"query", "key", "value", "gate", "up"}
    with adapted(lm, unit_modules(units), 2, 4.0, seed=0, values=True) as tuned:
        counts = covered(tuned, units)
    assert all(".lora_B." in name and bool((count == 1).all()) for name, count in counts.items())


@pytest.mark.parametrize("family", ["gpt2", "phi3", "gpt_neox"])
def test_slices_hold_what_their_names_say(family):
    """Each slice, applied alone, gives what the family's own forward takes as query, key or value."""
    lm = family_lm(family)
    fused = {unit.part: unit for unit in candidate_units(lm, "matrix", split_fused=True) if unit.layer == 1}
    width = lm.anatomy.num_heads * lm.anatomy.head_dim
    inputs = torch.randn(1, 5, 64)

    def rows(part):
        piece = unit_pieces(lm, fused[part])[0]
        return piece.of(piece.parameter).detach()

    module = lm.model.get_submodule(fused["query"].module)
    weight = module.weight.detach()
    if family == "gpt2":
        query, key, value = (inputs @ weight).split(width, dim=-1)
    elif family == "phi3":
        groups = lm.anatomy.num_kv_heads * lm.anatomy.head_dim
        query, key, value = (inputs @ weight.T).split([width, groups, groups], dim=-1)
    else:  # the layout of GPTNeoXAttention: heads, then query, key and value of each
        together = (inputs @ weight.T).view(1, 5, -1, 3 * lm.anatomy.head_dim)
        query, key, value = (part.flatten(-2) for part in together.chunk(3, dim=-1))
    for part, expected in (("query", query), ("key", key), ("value", value)):
        own = rows(part) if family == "gpt2" else rows(part).T
        torch.testing.assert_close(inputs @ own, expected)


def test_bad_requests_are_refused():
    lm = random_lm(layers=1)
    with pytest.raises(InputError, match="Unknown kind"):
        candidate_units(lm, "odd")
    with pytest.raises(InputError, match="called 'odd'; use attention, mlp, down_proj"):
        candidate_units(lm, targets=["odd"])
    with pytest.raises(InputError, match="takes a list"):
        candidate_units(lm, targets="q_proj")
    with pytest.raises(InputError, match="No targets"):
        candidate_units(lm, targets=[])
    with pytest.raises(InputError, match="at least 1"):
        candidate_units(lm, "rank", rank=0)
    with pytest.raises(InputError, match="split_fused goes with"):
        candidate_units(lm, "rank", split_fused=True)
    with pytest.raises(ModelError, match="mpt models is not known"):
        candidate_units(family_lm("mpt"), split_fused=True)


def test_a_tied_unit_is_refused():
    model = family_model("llama")
    model.model.layers[2].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    lm = hw.load(model=model, tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match=r"unit model.layers.0.mlp.up_proj is tied to model.layers.2.mlp.up_proj"):
        candidate_units(lm)
    assert candidate_units(lm, targets=["attention"])


def test_pieces_of_another_model_are_refused():
    lm = random_lm(layers=1)
    units = candidate_units(lm)
    with pytest.raises(ModelError, match="carries no adapter"):
        unit_pieces(lm, units[0])
    with pytest.raises(ModelError, match="has no module"):
        unit_pieces(lm, Unit("model.layers.7.mlp.up_proj", "model.layers.7.mlp.up_proj", 7, "pair"))
    with adapted(lm, unit_modules(units), 2, 4.0, seed=0) as tuned:
        with pytest.raises(ModelError, match="outside an adapter of rank 2"):
            unit_pieces(tuned, Unit(f"{units[0].name}:5", units[0].module, 0, "rank", "5"))
        with pytest.raises(ModelError, match="no part 'query'"):
            unit_pieces(tuned, Unit(f"{units[0].name}:query", units[0].module, 0, "pair", "query"))
        with pytest.raises(ModelError, match="carries an adapter already"):
            candidate_units(tuned)


def test_a_model_without_candidates_is_refused(monkeypatch):
    monkeypatch.setattr(units_module, "_candidates", lambda lm: iter(()))  # as where every map is quantised
    for targets in (None, ["attention"]):
        with pytest.raises(ModelError, match="hold no plain linear map"):
            candidate_units(random_lm(layers=1), targets=targets)
