"""`hw.Parenting`: every mode writes an ordinary adapter of what was trained; what does not fit is refused."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import headwater as hw
from headwater.adapt.parenting import job
from headwater.adapt.parenting.artefact import read_record, units_of
from headwater.adapt.parenting.losses import PromptWriter
from headwater.adapt.parenting.mining import Mining
from headwater.adapt.parenting.processes import Team
from headwater.adapt.parenting.sets import writer_for
from headwater.data.parenting.folder import ParentingData, read_data
from headwater.data.parenting.items import save_items
from headwater.errors import ContextOverflowError, FormatError, InputError, ModelError
from headwater.model.adapter import adapted
from headwater.read.probe import ClosedBookProbe
from models import random_lm
from parenting_items import made_items, made_map, made_sets

QUICK = {"steps": 4, "batch": 2, "rank": 3, "learning_rate": 1e-2, "every": 2, "template": "base"}
SETS = made_sets(4)
DEVELOPMENT = {kind: made_items(kind, 3, seed=9) for kind in ("a", "r", "empty")}


def good(lm):
    return {"R_Ad": 0.5, "R_Ro": 0.5, "closed_book": 0.9}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    random_lm(layers=1).save(folder)
    return hw.load(folder)


@pytest.fixture(scope="module")
def units(base):
    return made_map(base, rank=3)


def tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def changed_by(folder, base):
    """Modules whose weights an adapter changes."""
    merged = hw.load(folder).model.merge_and_unload().state_dict()
    before = base.model.state_dict()
    return {name.removesuffix(".weight") for name, tensor in before.items() if not torch.equal(tensor, merged[name])}


MODES = {
    "routed": {},
    "sequential": {"schedule": "sequential"},
    "leak": {"leak": 0.25, "clip": "global"},
    "no extraction": {"delta": 1.0},
    "unified": {"mode": "unified"},
    "unified, all units": {"mode": "unified", "train": "all"},
    "plain, token mean": {"mode": "mixture", "normalise": "token", "train": "all"},
    "plain, mean of losses": {"mode": "mixture"},
    "KAFT": {"mode": "mixture", "sets": ("agree", "a", "r", "empty"), "checkpointing": "non-reentrant"},
    "merged": {"mode": "merge"},
    "code": {"preset": "code"},
}


@pytest.mark.parametrize("name", MODES)
def test_every_arm_of_the_experiment_is_a_mode(name, base, units, tmp_path):
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    given = {"train": SETS}
    folder = hw.Parenting(units=units, **QUICK, **MODES[name]).fit(base, given, tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "parenting.json",
    ]
    everything = name in ("unified, all units", "plain, token mean", "merged", "code")
    wanted = units.units if everything else units.of("E", "A", "R")
    assert changed_by(folder, base) == {unit.module for unit in wanted}
    after = base.model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert not hasattr(base.model, "peft_config")
    record = read_record(folder)
    assert record["result"]["steps"] == record["result"]["best"] == 4
    assert record["trained"] == sorted(unit.name for unit in wanted)
    assert record["provenance"]["fingerprint"] == base.fingerprint
    assert units_of(folder) == units


def test_merging_looks_at_the_model_itself_first(base, units, tmp_path):
    before = base.fingerprint
    seen = []

    def measure(lm):
        seen.append((hasattr(lm.model, "peft_config"), lm.fingerprint == before))
        return good(lm)

    folder = hw.Parenting(units=units, mode="merge", **QUICK).fit(base, {"train": SETS}, tmp_path / "out", measure)
    assert seen == [(False, True), (True, False)]
    assert [point["step"] for point in read_record(folder)["result"]["curve"]] == [0, 4]


def test_all_units_without_a_map(base, tmp_path):
    folder = hw.Parenting(mode="mixture", train="all", **QUICK).fit(base, {"train": SETS}, tmp_path / "out")
    assert len(changed_by(folder, base)) == 7
    assert units_of(folder) is None


def test_the_chosen_step_and_the_last_one(base, units, tmp_path):
    looks = iter([0.3, 0.6, 0.4])
    folder = hw.Parenting(units=units, **QUICK).fit(
        base, {"train": SETS}, tmp_path / "out", guard=lambda lm: {**good(lm), "R_Ad": next(looks), "more": 0.1}
    )
    record = read_record(folder)
    assert record["result"]["best"] == 2
    assert [point["more"] for point in record["result"]["curve"]] == [0.1] * 3
    assert read_record(folder / "last")["result"]["best"] == 4
    chosen, last = tensors(folder), tensors(folder / "last")
    assert chosen.keys() == last.keys()
    assert any(not torch.equal(chosen[name], last[name]) for name in chosen)
    short = hw.Parenting(units=units, **{**QUICK, "steps": 4}).fit(base, {"train": SETS}, tmp_path / "plain")
    assert all(torch.equal(tensor, last[name]) for name, tensor in tensors(short).items())


def test_development_items_are_answered_greedily(base, units, tmp_path, caplog):
    data = ParentingData(SETS, DEVELOPMENT)
    folder = hw.Parenting(units=units, **{**QUICK, "steps": 2}, looked_at=2).fit(base, data, tmp_path / "out")
    record = read_record(folder)
    assert [point["step"] for point in record["result"]["curve"]] == [0, 2]
    assert record["config"]["guard"] == "greedy"
    assert "nothing is looked at" not in caplog.text
    with pytest.raises(InputError, match="development items of the set 'empty'"):
        hw.Parenting(units=units, **QUICK).fit(
            base, ParentingData(SETS, {**DEVELOPMENT, "empty": []}), tmp_path / "other"
        )


def test_called_again_it_goes_on(base, units, tmp_path, monkeypatch):
    method = hw.Parenting(units=units, **QUICK)
    whole = method.fit(base, {"train": SETS}, tmp_path / "whole", good)
    times = []

    def stop(done, total):
        times.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit(base, {"train": SETS}, tmp_path / "parts", good, stop)
    assert not hasattr(base.model, "peft_config")
    parts = method.fit(base, {"train": SETS}, tmp_path / "parts", good, lambda done, total: times.append(done))
    assert times == [1, 2, 3, 3, 4]
    assert all(torch.equal(tensor, tensors(parts)[name]) for name, tensor in tensors(whole).items())
    assert read_record(parts)["result"] == read_record(whole)["result"]
    monkeypatch.setattr(job, "train", None)
    assert method.fit(base, {"train": SETS}, parts, good) == parts, "a finished folder is not trained again"
    with pytest.raises(InputError, match="another learning_rate"):
        replace(method, learning_rate=1e-3).fit(base, {"train": SETS}, parts, good)


def test_matrices_become_a_checkpoint(base, tmp_path):
    units = made_map(base, kind="matrix")
    folder = hw.Parenting(units=units, **QUICK).fit(base, {"train": SETS}, tmp_path / "out")
    tuned = hw.load(folder).model.state_dict()
    before = base.model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, tuned[name])}
    assert changed == {f"{unit.module}.weight" for unit in units.of("E", "A", "R")}
    assert read_record(folder)["result"]["steps"] == 4
    assert "All weights" in (folder / "README.md").read_text()


def test_the_folder_of_parent_data(base, units, tmp_path):
    for split, sets in (("train", SETS), ("development", DEVELOPMENT)):
        for kind, items in sets.items():
            save_items(items, tmp_path / "data" / split / f"{kind}.jsonl")
    with pytest.raises(InputError, match=r"no data\.json"):
        read_data(tmp_path / "data")
    record = tmp_path / "data" / "data.json"
    record.write_text(json.dumps({"model": base.provenance()}))
    found = read_data(tmp_path / "data")
    assert found.train == SETS
    assert found.development["a"] == DEVELOPMENT["a"]
    method = hw.Parenting(units=units, **QUICK)
    assert method.fit(base, tmp_path / "data", tmp_path / "out", good).name == "out"
    record.write_text(json.dumps({"model": {"fingerprint": "0" * 16}}))
    with pytest.raises(InputError, match="probed with other weights"):
        method.fit(base, tmp_path / "data", tmp_path / "other", good)


def test_what_does_not_belong_together_is_refused(base, units, tmp_path):
    out = tmp_path / "out"
    other = replace(units, provenance={"fingerprint": "0" * 16, "model": "another"})
    with pytest.raises(ModelError, match="mine"):
        hw.Parenting(units=other, **QUICK).fit(base, SETS, out)
    foreign = replace(units, provenance={"data": {"a": "0" * 16}})
    with pytest.raises(InputError, match="another set 'a'"):
        hw.Parenting(units=foreign, **QUICK).fit(base, SETS, out)
    with pytest.raises(ModelError, match="no module"):
        hw.Parenting(units=made_map(random_lm(layers=2), rank=3), **QUICK).fit(base, SETS, out)
    with pytest.raises(InputError, match="rank=4"):
        hw.Parenting(units=made_map(base, kind="rank", rank=4), **QUICK).fit(base, SETS, out)
    with pytest.raises(InputError, match="set 'c'"):
        hw.Parenting(units=units, **QUICK).fit(base, {"a": SETS["a"], "r": SETS["r"]}, out)
    with pytest.raises(InputError, match="Unknown set 'x'"):
        hw.Parenting(units=units, **QUICK).fit(base, {"x": []}, out)
    with pytest.raises(InputError, match="There is no folder"):
        hw.Parenting(units=units, **QUICK).fit(base, tmp_path / "missing", out)
    with adapted(base, ["model.layers.0.mlp.up_proj"], 2, 4, 0) as tuned, pytest.raises(ModelError, match="already"):
        hw.Parenting(units=units, **QUICK).fit(tuned, SETS, out)
    assert not out.exists()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        hw.Parenting(units=units, **QUICK).fit(base, SETS, tmp_path / "taken")


def test_what_cannot_be_merged_is_said_before_anything_is_trained(base, tmp_path):
    out = tmp_path / "out"
    merge = {**QUICK, "mode": "merge"}
    for kind in ("rank", "matrix"):
        with pytest.raises(InputError, match="whole ones"):
            hw.Parenting(units=made_map(base, kind=kind, rank=3), **merge).fit(base, SETS, out)
    with pytest.raises(InputError, match="factors"):
        hw.Parenting(units=made_map(base, kind="factor", rank=3), **merge).fit(base, SETS, out)
    with pytest.raises(InputError, match="nothing to merge"):
        hw.Parenting(units=made_map(base, "O", rank=3), merge_other="zero", **merge).fit(base, SETS, out)
    assert not out.exists()


def test_probe_mining_and_tuning_share_their_prompts(base, units, tmp_path):
    out = tmp_path / "out"
    own = ClosedBookProbe(template="base", instruction="Be brief.").made_with(base)
    asked = ParentingData(SETS, DEVELOPMENT, record={"probe": own})
    other = ParentingData(SETS, DEVELOPMENT, record={"probe": {**own, "instruction": "Be long."}})
    with pytest.raises(InputError, match="probed in another prompt"):
        hw.Parenting(units=units, **QUICK).fit(base, other, out)
    with pytest.raises(InputError, match="probed in another prompt"):
        Mining(template="base").mine(base, other)
    mined = replace(units, provenance={"prompt": "0" * 16})
    with pytest.raises(InputError, match="mined in another prompt"):
        hw.Parenting(units=mined, **QUICK).fit(base, asked, out)
    assert not out.exists()
    same = replace(units, provenance={"prompt": PromptWriter(base, "base").fingerprint})
    assert hw.Parenting(units=same, **{**QUICK, "steps": 1}).fit(base, asked, out) == out
    writer = writer_for(base, asked, "base")
    assert "Be brief." in base.tokenizer.decode(writer.prompt(DEVELOPMENT["empty"][0]))


def test_development_items_need_room_for_an_answer(base, units, tmp_path):
    long = replace(DEVELOPMENT["a"][0], question="What?" * 100)
    data = ParentingData(SETS, {**DEVELOPMENT, "a": [long]})
    with pytest.raises(ContextOverflowError, match="with its answer"):
        hw.Parenting(units=units, **QUICK).fit(base, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_units_that_are_not_given_are_mined_within_the_same_memory(base, units, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Mining, "mine", lambda self, *_: seen.append(self) or units)
    method = hw.Parenting(**{**QUICK, "steps": 1}, micro_batch=1, checkpointing="reentrant")
    method.fit(base, {"train": SETS}, tmp_path / "out")
    assert [(each.micro_batch, each.checkpointing, each.template, each.rank) for each in seen] == [(1, True, "base", 3)]

    @contextmanager
    def two(lm):
        yield Team(0, 2)

    monkeypatch.setattr("headwater.adapt.parenting.method.team", two)
    monkeypatch.setattr(Team, "agree", lambda self, config: None)
    with pytest.raises(InputError, match="run `headwater parent mine`"):
        method.fit(base, {"train": SETS}, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_preset_does_not_overrule_what_was_given():
    with pytest.raises(InputError, match="preset='code' sets mode to 'merge', but mode='unified'"):
        hw.Parenting(preset="code", mode="unified")
    with pytest.raises(InputError, match=r"preset='paper' sets leak to 0\.0, but leak=0\.1"):
        hw.Parenting(preset="paper", leak=0.1)
    found = replace(hw.Parenting(preset="code", mode="merge", merge_space="factors"), steps=9)
    assert (found.mode, found.merge_space, found.normalise, found.steps) == ("merge", "factors", "token", 9)


def test_processes_that_shard_are_refused(base, units, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ModelError, match="ZeRO"):
        hw.Parenting(units=units, **QUICK).fit(base, SETS, tmp_path / "out")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mode": "other"}, "Unknown mode"),
        ({"schedule": "never"}, "Unknown schedule"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"sets": ("a", "x")}, "sets takes some of"),
        ({"sets": ()}, "sets takes some of"),
        ({"warmup": 2.0}, "warmup lies between"),
        ({"merge_weights": "halves"}, "Unknown merge weights"),
        ({"preset": "other"}, "Unknown preset"),
        ({"delta": 0.0}, "delta lies above 0"),
        ({"leak": 0.6}, "leak from 0 to"),
        ({"order": ("A", "R")}, "holds E, A and R once each"),
        ({"schedule": "sequential", "steps": 2}, "cannot share 2 steps"),
    ],
)
def test_bad_switches_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        hw.Parenting(**bad)


def test_records_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"no parenting\.json"):
        read_record(tmp_path)
    (tmp_path / "parenting.json").write_text("{")
    with pytest.raises(FormatError, match="cannot be read"):
        read_record(tmp_path)
    (tmp_path / "parenting.json").write_text(json.dumps({"config": {}, "result": None}))
    with pytest.raises(FormatError, match="finished"):
        read_record(tmp_path)
