"""JuICE: planted heads, parity with one forward per head and gain, one set used once and twice."""

import numpy as np
import pytest
import torch

import headwater as hw
from headwater.data.conflict import ConflictExample
from headwater.errors import HeadSetError, InputError, ModelError
from headwater.heads import JuiceHeads
from headwater.heads.conflict_prompts import ConflictPrompts
from headwater.heads.juice import KINDS, default_juice_heads, juiced
from headwater.model.anatomy import output_projections
from models import random_lm
from planted_conflict import CHATTING, READER, REMEMBERING, torn_examples, torn_lm

EXAMPLES = [
    ConflictExample("Which city?", ["It is Algiers. So there.", "Paris too."], "Algiers", "Lima", group="one"),
    ConflictExample("Which animal?", ["A dog. A bone."], "dog", "donkey", group="two"),
]
BOOSTS, CUTS = (1.0, 10.0), (5.0,)


@pytest.fixture(scope="module")
def juice():
    return JuiceHeads().find(torn_lm(), torn_examples(2))


@torch.no_grad()
def by_hand(lm, examples, *, toward):
    """Mean changes of the wanted probability `[examples, kinds, layers, heads]`, turned up and down.

    One forward per head and gain; gain x the head's projected output is added to the projection's output.
    """
    prompts = ConflictPrompts(lm, examples)
    found = []
    for example in prompts.examples:
        for kind in KINDS:
            built = prompts.build(example, kind)
            wanted = built.memory if kind == "clean" or toward == "memory" else built.context
            ids = torch.tensor([built.ids])

            def chance(ids=ids, wanted=wanted):
                return float(lm.model(input_ids=ids).logits[0, -1].softmax(-1)[wanted])

            clean = chance()
            for layer, head in lm.anatomy.all_heads:
                for gain in (*BOOSTS, *(-cut for cut in CUTS)):

                    def add(module, args, out, head=head, gain=gain):
                        alone = args[0].unflatten(-1, (lm.anatomy.num_heads, -1)).clone()
                        alone[:, :, [other for other in range(lm.anatomy.num_heads) if other != head]] = 0.0
                        alone = alone.flatten(-2)
                        return out + gain * (module.forward(alone) - module.forward(torch.zeros_like(alone)))

                    handle = output_projections(lm.model)[layer].register_forward_hook(add)
                    found.append(chance() - clean)
                    handle.remove()
    shape = len(prompts.examples), len(KINDS), lm.anatomy.num_layers, lm.anatomy.num_heads, len(BOOSTS) + len(CUTS)
    values = np.array(found).reshape(shape)
    return values[..., : len(BOOSTS)].mean(-1), values[..., len(BOOSTS) :].mean(-1)


def test_planted_heads_are_turned_the_right_way():
    found = JuiceHeads(boost=2.0, cut=0.5).find(torn_lm(), torn_examples(2))
    assert found.heads == [READER, CHATTING]
    assert found.coefficients == [3.0, 0.5]
    assert (found.provenance["boosted"], found.provenance["cut"]) == ([READER], [CHATTING])
    assert found.scores[READER] > 0 > found.scores[CHATTING]
    assert np.abs(found.scores[0]).max() < 1e-6
    up = np.array(found.provenance["up"])
    assert up[0][REMEMBERING] > 0, "it helps where nothing is shown"
    assert up[1:, REMEMBERING[0], REMEMBERING[1]].max() < 0, "and nowhere else"


def test_towards_memory():
    found = JuiceHeads(toward="memory").find(torn_lm(), torn_examples(2))
    assert found.heads[0] == REMEMBERING
    assert READER not in found.heads
    assert found.heads[-1] == CHATTING
    assert found.coefficients[-1] == 0.0


@pytest.mark.parametrize(("toward", "family", "layers"), [("context", "gpt2", 2), ("memory", "llama", 1)])
def test_parity_with_one_forward_per_head_and_gain(toward, family, layers):
    lm = random_lm(family, layers=layers)
    detector = JuiceHeads(boosts=BOOSTS, cuts=CUTS, toward=toward)
    up, down = by_hand(lm, EXAMPLES, toward=toward)
    found = detector.score(lm, EXAMPLES)
    assert np.abs(np.array(found.provenance["up"]) - up.mean(0)).max() < 1e-5
    assert np.abs(np.array(found.provenance["down"]) - down.mean(0)).max() < 1e-5
    assert np.abs(found.samples - (up - down).sum(1)).max() < 1e-5
    assert np.allclose(found.scores, found.samples.mean(0))
    assert up.max() > 1e-4
    try:
        chosen = detector.find(lm, EXAMPLES)
    except ModelError:
        assert not any((part.mean(0) > 0).all(0).any() for part in (up, down))
        return
    for name, part in (("boosted", up), ("cut", down)):
        sums = part.mean(0).sum(0)
        heads = chosen.provenance[name]
        assert all((part.mean(0)[:, layer, head] > 0).all() for layer, head in heads)
        assert [sums[head] for head in heads] == sorted((sums[head] for head in heads), reverse=True)
    assert not set(chosen.provenance["boosted"]) & set(chosen.provenance["cut"])


def test_once_folded_is_once_scaled(juice):
    lm, ids = torn_lm(), torch.arange(3, 15)[None]
    found = juiced(juice, boost=3.0, cut=2.0)
    assert found.coefficients == [4.0, -1.0]
    with torch.no_grad():
        plain = lm.model(input_ids=ids).logits
        with hw.scaled(lm, found):
            want = lm.model(input_ids=ids).logits
        hw.fold(lm, found)
        assert (lm.model(input_ids=ids).logits - want).abs().max() < 1e-4
        assert (want - plain).abs().max() > 0.1


def test_other_coefficients(juice, tmp_path):
    found = juice
    assert found.coefficients == [2.0, 0.0]
    assert juiced(found, 0, 0).coefficients == [1.0, 1.0]
    again = hw.HeadSet.load(found.save(tmp_path / "juice.json"))
    assert juiced(again, 5, 0.25).coefficients == [6.0, 0.75]
    assert juiced(again.top(1), 5, 0.25).coefficients == [6.0]
    with pytest.raises(InputError, match="boost is a gain"):
        juiced(found, -1, 0)
    with pytest.raises(InputError, match="cut is a gain"):
        juiced(found, 1, float("nan"))
    with pytest.raises(InputError, match="does not say which"):
        juiced(hw.HeadSet([(0, 0)], [2.0]), 1, 1)
    with pytest.raises(InputError, match="0-0 is in neither list"):
        juiced(hw.HeadSet([(0, 0)], provenance=found.provenance), 1, 1)


def test_how_many():
    anatomy = torn_lm().anatomy
    sizes = {(2, 4): 1, (8, 6): 2, (26, 8): 10, (32, 32): 10}
    assert {size: default_juice_heads(type(anatomy)("llama", *size, 2, 8, 512)) for size in sizes} == sizes


def test_bad_input():
    for switches, words in (
        ({"boost": -1.0}, "boost is a gain"),
        ({"cut": float("inf")}, "cut is a gain"),
        ({"boosts": []}, "boosts are gains above 0"),
        ({"cuts": [0.0]}, "cuts are gains above 0"),
        ({"toward": "odd"}, "Unknown toward"),
    ):
        with pytest.raises(InputError, match=words):
            JuiceHeads(**switches)
    lm = torn_lm()
    with pytest.raises(HeadSetError, match="top_k"):
        JuiceHeads(top_k=0).find(lm, torn_examples())
    with pytest.raises(InputError, match="states the answer 'v3'"):
        JuiceHeads().score(lm, [ConflictExample("w0 w1", ["w2 v4 ."], "v3", "v0")])
    lm.model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    with pytest.raises(ModelError, match="turned up or down"):
        JuiceHeads().find(lm, torn_examples())
