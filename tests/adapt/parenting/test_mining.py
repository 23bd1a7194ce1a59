"""`Mining` from sets to classes: twice on disjoint halves, resumed, sorted again, refused."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater as hw
from families import family_model
from headwater.adapt.parenting import classes, mining
from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.forward import layer_weights, open_gates
from headwater.adapt.parenting.losses import PromptWriter, TrainingPrompt
from headwater.adapt.parenting.mining import Mining
from headwater.adapt.parenting.reliability import halved, judge, reliability_of
from headwater.adapt.parenting.units import candidate_units
from headwater.data.parenting.folder import ParentingData
from headwater.errors import HeadwaterError, InputError, ModelError, UnreliableUnitsError
from headwater.instrument.gates import GateCounts
from models import byte_tokenizer, random_lm
from parenting_items import made_items

SETS = {"a": made_items("a"), "r": made_items("r")}
QUICK = {"steps": 2, "batch": 2, "rank": 2, "alpha": 4.0, "learning_rate": 1e-3, "force": True}


@pytest.fixture(scope="module")
def lm():
    return random_lm(layers=2, max_position_embeddings=1024)


@pytest.fixture(scope="module")
def mined(lm, tmp_path_factory):
    """A folder with four finished runs, and the map."""
    folder = tmp_path_factory.mktemp("mined")
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes, "refuse_empty", lambda *arguments: None)
        found = Mining(**QUICK).mine(lm, SETS, folder, lambda done, total: steps.append((done, total)))
    return folder, found, steps


@pytest.fixture
def any_sizes(monkeypatch):
    """The scores of a random model need not give all classes."""
    monkeypatch.setattr(classes, "refuse_empty", lambda *arguments: None)


def test_a_map_of_every_unit_with_its_provenance(lm, mined):
    _, found, steps = mined
    assert list(found.units) == candidate_units(lm)
    assert steps == [(done, 16) for done in range(1, 17)], "8 steps, then twice 4 forwards that count gates"
    told = found.provenance
    assert told["fingerprint"] == lm.fingerprint
    assert told["settings"]["steps"] == 2
    assert told["items"] == {"a": 8, "r": 8}
    assert set(told["reliability"]) == {"a", "r", "between", "least"}
    assert set(told["losses"]) == {"a-0", "a-1", "r-0", "r-1"}
    assert set(told["sizes_at"]) == {"tau 0", "tau 1"}
    assert told["sizes_at"]["tau 0"] == found.sizes
    assert told["data"]["a"] != told["data"]["r"]
    assert found.weights_a == pytest.approx([f / np.mean(told["gates"]["a"]) for f in told["gates"]["a"]])
    found.check(lm)


def test_scores_are_means_over_the_halves(mined):
    folder, found, _ = mined
    rows = {row["id"]: row for row in map(json.loads, (folder / "runs.jsonl").read_text().splitlines())}
    by_hand = [(x + y) / 2 for x, y in zip(rows["a-0"]["scores"], rows["a-1"]["scores"], strict=True)]
    np.testing.assert_allclose(found.raw_a, by_hand)
    assert rows["a-0"]["scores"] != rows["a-1"]["scores"]


def test_the_map_goes_through_a_file(mined, tmp_path):
    _, found, _ = mined
    assert UnitMap.load(found.save(tmp_path / "units.json")) == found


def test_the_model_stays_as_it_was(lm, mined):
    assert lm.model.state_dict().keys() == random_lm(layers=2, max_position_embeddings=1024).model.state_dict().keys()
    assert lm.fingerprint == mined[1].provenance["fingerprint"]
    assert all(parameter.requires_grad for parameter in lm.model.parameters())
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_finished_runs_are_not_run_again(lm, mined, any_sizes, monkeypatch):
    folder, found, _ = mined

    def never(*arguments):
        raise AssertionError("this run was finished")

    monkeypatch.setattr(mining, "mine_once", never)
    assert Mining(**QUICK).mine(lm, SETS, folder) == found
    other = Mining(**QUICK, tau=0.1, forward="none", score_transform="none").mine(lm, SETS, folder)
    assert other.raw_a == found.raw_a
    assert other.tau == 0.1
    assert set(other.weights_a) == {1.0}


def test_an_interrupted_mining_goes_on_behind_its_last_run(lm, mined, any_sizes, tmp_path):
    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Mining(**QUICK).mine(lm, SETS, tmp_path, interrupt)
    steps = []
    found = Mining(**QUICK).mine(lm, SETS, tmp_path, lambda done, total: steps.append(done))
    assert steps == list(range(5, 17))
    assert found == mined[1]


@pytest.mark.parametrize("more", [{"steps": 3}, {"seed": 1}, {"unit": "factor"}, {"learning_rate": 0.5}])
def test_a_folder_of_another_mining_is_refused(lm, mined, more):
    with pytest.raises(InputError, match=f"holds a run with {next(iter(more))}="):
        Mining(**{**QUICK, **more}).mine(lm, SETS, mined[0])


def test_another_set_in_the_same_folder_is_refused(lm, mined):
    with pytest.raises(InputError, match="holds a run with data="):
        Mining(**QUICK).mine(lm, {"a": made_items("a", 6), "r": SETS["r"]}, mined[0])


def test_another_precision_in_the_same_folder_is_refused(mined):
    other = random_lm(layers=2, max_position_embeddings=1024, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"with dtype='torch\.float32', not 'torch\.bfloat16'"):
        Mining(**QUICK).mine(other, SETS, mined[0])


def test_float16_models_are_refused():
    half = random_lm(layers=2, max_position_embeddings=1024, dtype=torch.float16)
    with pytest.raises(ModelError, match="underflow in float16"):
        Mining(**QUICK).mine(half, SETS)


@pytest.mark.parametrize("unit", ["factor", "rank", "matrix"])
def test_every_kind_of_unit(lm, any_sizes, unit):
    found = Mining(**{**QUICK, "unit": unit, "targets": ["attention"]}).mine(lm, SETS)
    assert {each.kind for each in found.units} == {unit}


def test_halves_that_disagree_are_refused(lm, any_sizes, monkeypatch, caplog):
    draw = np.random.default_rng(0)
    monkeypatch.setattr(mining, "mine_once", lambda lm, units, *rest: (draw.random(len(units)), [1.0, 0.5]))
    with pytest.raises(UnreliableUnitsError, match=r"Spearman's rho is -?0\.\d\d on S_a.*--force") as caught:
        Mining(**{**QUICK, "force": False}).mine(lm, SETS)
    assert set(caught.value.reliability) == {"a", "r", "between"}
    with caplog.at_level(logging.WARNING, "headwater"):
        Mining(**QUICK).mine(lm, SETS)
    assert "taken all the same" in caplog.text


def test_reliability_by_hand():
    one, same, turned = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 40.0]), np.array([3.0, 2.0, 1.0])
    found = reliability_of([one, same], [one, turned])
    assert found == pytest.approx({"a": 1.0, "r": -1.0, "between": 0.0})
    assert reliability_of([one, np.ones(3)], [one, one])["a"] == 0.0
    judge({"a": 0.5, "r": 0.9}, force=False)
    with pytest.raises(UnreliableUnitsError, match=r"0\.49 on S_r, below 0\.5"):
        judge({"a": 0.5, "r": 0.49}, force=False)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=9), seed=st.integers(0, 9))
def test_halves_share_no_group(sizes, seed):
    given_prompts = [
        TrainingPrompt((1, 2, 3), 2, f"{group}-{i}", str(group))
        for group, size in enumerate(sizes)
        for i in range(size)
    ]
    first, second = halved(given_prompts, seed)
    assert not {p.group for p in first} & {p.group for p in second}
    assert sorted(p.id for p in first + second) == sorted(p.id for p in given_prompts)
    assert abs(len(first) - len(second)) <= max(sizes)
    assert (first, second) == halved(given_prompts, seed)


def test_layer_weights():
    counts = GateCounts(np.array([30, 10, 20]), np.array([10, 10, 10]), 10)
    assert layer_weights(counts, "probability", 3) == pytest.approx([1.5, 0.5, 1.0])
    assert layer_weights(counts, "code_counts", 3) == pytest.approx([21 / 33, 1 / 33, 11 / 33])
    assert layer_weights(None, "none", 3) == [1.0, 1.0, 1.0]


def test_the_forward_term_knows_no_padding_unless_it_is_the_code_s(lm):
    writer = PromptWriter(lm)
    given_prompts = [writer.write(item) for item in SETS["a"][:4]]
    given_prompts[0] = replace(given_prompts[0], ids=given_prompts[0].ids + (5,) * 40)  # a long target
    alone = open_gates(lm, given_prompts, "probability", 1)
    together = open_gates(lm, given_prompts[::-1], "probability", 4)
    np.testing.assert_array_equal(alone.active, together.active)
    assert alone.tokens == sum(prompt.start for prompt in given_prompts)
    longest = max(len(prompt.ids) for prompt in given_prompts)
    assert open_gates(lm, given_prompts, "code_counts", 4).tokens == 4 * longest


def test_presets():
    paper, code = Mining(preset="paper"), Mining(preset="code")
    assert (paper.tau, paper.score_transform, paper.unit, paper.rule) == (1.0, "none", "pair", "z")
    assert (code.unit, code.targets, code.rule, code.gamma) == ("factor", ["attention"], "code", 0.5)
    assert (code.forward, code.mining_order, code.aggregate) == ("code_counts", "after", "last")


def test_a_preset_does_not_overrule_what_was_given():
    with pytest.raises(InputError, match="preset='code' sets rule to 'code', but rule='odd'"):
        Mining(preset="code", rule="odd")
    with pytest.raises(InputError, match="sets targets"):
        Mining(preset="code", targets=["mlp"])
    assert replace(Mining(preset="code"), steps=9).targets == ["attention"]


def test_the_code_s_preset_runs(lm, any_sizes):
    found = Mining(**QUICK, preset="code").mine(lm, SETS)
    assert found.gamma == 0.5
    assert all(each.kind == "factor" and ".self_attn." in each.name for each in found.units)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unit", "odd"),
        ("reduce", "odd"),
        ("mining_order", "odd"),
        ("aggregate", "odd"),
        ("forward", "odd"),
        ("rule", "odd"),
        ("score_transform", "odd"),
        ("preset", "odd"),
        ("steps", 0),
        ("batch", 0),
        ("rank", 0),
        ("micro_batch", 0),
        ("learning_rate", 0.0),
        ("alpha", float("nan")),
        ("gamma", 1.5),
    ],
)
def test_bad_settings_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        Mining(**{field: value})


def test_bad_sets_are_refused(lm):
    with pytest.raises(InputError, match="no items of the set 'r'"):
        Mining(**QUICK).mine(lm, {"a": SETS["a"]})
    with pytest.raises(InputError, match="set 'a' are all of one group"):
        Mining(**QUICK).mine(lm, {"a": [replace(item, group="g") for item in SETS["a"]], "r": SETS["r"]})
    with pytest.raises(InputError, match="probed with other weights"):
        Mining(**QUICK).mine(lm, ParentingData(SETS, record={"model": {"fingerprint": "0" * 16}}))
    with pytest.raises(HeadwaterError, match="folder"):
        Mining(**QUICK).mine(lm, "no/such/folder")


def test_a_model_without_readable_gates_names_the_way_around():
    experts = hw.load(model=family_model("mixtral", max_position_embeddings=1024), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="forward='none'"):
        Mining(**QUICK).mine(experts, SETS)


def test_float64_models_are_mined(any_sizes):
    double = random_lm(layers=2, max_position_embeddings=1024, dtype=torch.float64)
    found = Mining(**QUICK, targets=["mlp"], forward="none").mine(double, SETS)
    assert len(found.units) == 6
