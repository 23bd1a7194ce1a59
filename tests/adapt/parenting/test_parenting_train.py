"""The loop: what moves, guards, going on after an interruption, refusals (parenting.md 11, 2, 3 and 5)."""

from __future__ import annotations

import contextlib
import logging
import os

import pytest
import torch
from safetensors import SafetensorError

import headwater as hw
from families import family_model
from headwater.adapt.parenting import checkpoints
from headwater.adapt.parenting import routed as routed_module
from headwater.adapt.parenting.guards import GreedyMeasure, Guards, harmonic
from headwater.adapt.parenting.losses import PromptWriter, answer_loss
from headwater.adapt.parenting.pace import Pace, draw
from headwater.adapt.parenting.processes import Team
from headwater.adapt.parenting.recipe import TRAINED, Phase, mixture, routed, unified
from headwater.adapt.parenting.train import train
from headwater.adapt.parenting.units import unit_modules, unit_pieces
from headwater.adapt.parenting.values import lent
from headwater.data.parenting.items import ParentingItem
from headwater.data.parenting.match import LONGEST
from headwater.errors import ContextOverflowError, FormatError, InputError, ModelError
from headwater.model.adapter import adapted
from headwater.model.anatomy import unwrapped
from models import byte_tokenizer, random_lm
from parenting_items import made_items, made_map, short_prompts

RANK = 4
QUICK = Pace(batch=4, micro_batch=2, learning_rate=1e-2, every=2)


class Interrupted(Exception):
    """As a killed process."""


def stop_at(step):
    def progress(done, total):
        if done == step:
            raise Interrupted

    return progress


@contextlib.contextmanager
def ready(lm, recipe):
    with adapted(lm, unit_modules(recipe.trained), RANK, 8, 0, values=True) as tuned:
        yield tuned


def run(lm, recipe, folder, pace=QUICK, **more):
    """Train; gives what came of it and the adapter's tensors."""
    with ready(lm, recipe) as tuned:
        done = train(tuned, recipe, PROMPTS, pace, folder, **more)
        state = {name: p.detach().clone() for name, p in unwrapped(tuned.model).named_parameters() if "lora_" in name}
    return done, state


PROMPTS = short_prompts()


@pytest.mark.parametrize("schedule", [None, TRAINED, ("E", "R", "A")])
def test_an_interrupted_training_ends_as_if_nothing_had_been(tmp_path, schedule):
    lm = random_lm(layers=2)
    recipe = routed(made_map(lm, rank=RANK), 11, 0.8, 0.0, schedule)
    guards = Guards(by_weights)
    whole, expected = run(lm, recipe, tmp_path / "whole", guards=guards)
    assert whole.steps == 11
    for place in (1, 5, 9):
        with pytest.raises(Interrupted):
            run(lm, recipe, tmp_path / "parts", guards=guards, progress=stop_at(place))
    parts, found = run(lm, recipe, tmp_path / "parts", guards=guards)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert whole.best == parts.best
    assert parts.curve == whole.curve
    assert len({point["R_Ad"] for point in whole.curve}) == 7
    assert parts.log == whole.log
    assert (whole.last is None) == (parts.last is None) == (whole.best == 11)
    last = whole.last or {}
    assert all(torch.equal(parts.last[name], tensor) for name, tensor in last.items())
    assert not last or any(not torch.equal(expected[name], tensor) for name, tensor in last.items())
    assert len(list((tmp_path / "parts").iterdir())) == 2


def by_weights(lm):
    """Any number that the weights decide."""
    total = sum(p.double().abs().sum().item() for name, p in lm.model.named_parameters() if ".lora_" in name)
    return {"R_Ad": total * 7919 % 1, "R_Ro": 0.5, "closed_book": 0.9}


def test_a_damaged_checkpoint_is_said(tmp_path):
    lm = random_lm(layers=1)
    recipe = unified(made_map(lm, rank=RANK), 4, 0.8, True)
    run(lm, recipe, tmp_path)
    newest = sorted(tmp_path.iterdir())[-1]
    (newest / "tensors.safetensors").write_bytes(b"broken")
    with pytest.raises(FormatError, match="damaged"):
        run(lm, recipe, tmp_path)


@pytest.mark.parametrize("kind", ["rank", "factor"])
def test_what_is_of_class_o_stays_to_the_bit(tmp_path, kind):
    lm = random_lm(layers=1)
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    units = made_map(lm, "EAROO", kind=kind, rank=RANK)
    recipe = routed(units, 20, 0.8, 0.0)
    with adapted(lm, unit_modules(recipe.trained), RANK, 8, 0, values=True) as tuned:
        start = {name: p.detach().clone() for name, p in unwrapped(tuned.model).named_parameters()}
        train(tuned, recipe, PROMPTS, QUICK, tmp_path)
        moved = dict.fromkeys("EARO", 0)
        modules = set(unit_modules(recipe.trained))
        for unit, name in zip(units.units, units.classes, strict=True):
            if unit.module not in modules:
                continue
            for piece in unit_pieces(tuned, unit):
                same = torch.equal(piece.of(piece.parameter), piece.of(start[piece.name]))
                moved[name] += not same
                assert same == (name == "O") or name != "O", unit.name
        assert moved["O"] == 0
        assert all(moved[name] for name in TRAINED)
    after = lm.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_matrices_learn_in_fp32_behind_bfloat16_weights(tmp_path):
    """A step too small for bfloat16 is not lost, and the model is as before afterwards."""
    lm = hw.load(model=family_model("llama", dtype=torch.bfloat16), tokenizer=byte_tokenizer())
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    units = made_map(lm, kind="matrix")
    recipe = routed(units, 6, 0.8, 0.0)
    pace = Pace(batch=4, learning_rate=2e-4, every=3)
    trained = {f"{unit.module}.weight" for unit in recipe.trained}
    with lent(lm, unit_modules(recipe.trained)) as tuned:
        with pytest.raises(Interrupted):
            train(tuned, recipe, PROMPTS, pace, tmp_path, progress=stop_at(4))
        train(tuned, recipe, PROMPTS, pace, tmp_path)
        resumed = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
        changed = {name for name, tensor in before.items() if not torch.equal(tensor, resumed[name])}
        assert changed == trained
        assert resumed[next(iter(trained))].dtype == torch.bfloat16
    after = lm.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with lent(lm, unit_modules(recipe.trained)) as tuned:
        train(tuned, recipe, PROMPTS, pace, tmp_path / "whole")
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in tuned.model.state_dict().items())


def test_what_the_first_process_has_reaches_the_model_and_not_only_its_copies(tmp_path):
    """The model that is looked at first holds what `begin_alike` put into the fp32 copies."""

    class Second(Team):
        def begin_alike(self, tensors):
            with torch.no_grad():
                for tensor in tensors:
                    tensor.fill_(0.25)

    lm = hw.load(model=family_model("llama", dtype=torch.bfloat16), tokenizer=byte_tokenizer())
    recipe = routed(made_map(lm, kind="matrix"), 1, 0.8, 0.0)
    trained = [f"{unit.module}.weight" for unit in recipe.trained]
    seen = []

    def measure(model):
        seen.append({name: model.model.get_parameter(name).mean().item() for name in trained})
        return {"R_Ad": 0.5, "R_Ro": 0.5, "closed_book": 0.9}

    with lent(lm, unit_modules(recipe.trained)) as tuned:
        train(tuned, recipe, PROMPTS, Pace(batch=2, every=1), tmp_path, Guards(measure), Second())
    assert seen[0] == dict.fromkeys(trained, 0.25)


def test_a_full_disk_is_said_and_tensors_are_there_before_the_state(tmp_path, monkeypatch):
    events = []
    sync, write = os.fsync, checkpoints.write_text
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("sync") or sync(handle))
    monkeypatch.setattr(checkpoints, "write_text", lambda path, text: events.append(path.name) or write(path, text))
    checkpoints.save_checkpoint(tmp_path, 1, {"now/x": torch.ones(2)}, {"step": 1})
    assert events[:2] == ["sync", "state.json"]

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(InputError, match="No space left"):
        checkpoints.save_checkpoint(tmp_path, 2, {"now/x": torch.ones(2)}, {"step": 2})
    assert checkpoints.last_checkpoint(tmp_path)[1] == {"step": 1}


def test_it_learns(tmp_path):
    lm = random_lm(layers=1)
    done, _ = run(lm, routed(made_map(lm, rank=RANK), 30, 0.8, 0.0), tmp_path, Pace(8, None, 3e-2, every=30))
    assert [record["step"] for record in done.log] == [10, 20, 30]
    for loss in "ar":
        assert done.log[-1][f"loss_{loss}"] < 0.6 * done.log[0][f"loss_{loss}"]
    assert {"norm_E", "norm_A", "norm_R", "cosine_a_r", "rate"} <= set(done.log[0])
    assert done.best == done.steps == 30
    assert done.curve == []
    assert done.last is None


def test_the_guards_choose_and_stop(tmp_path, caplog):
    lm = random_lm(layers=1)
    recipe = mixture(made_map(lm, rank=RANK).units, 12, ("a", "r"), per_loss=True)
    seen = iter([(0.5, 0.5, 0.90), (0.7, 0.7, 0.89), (0.9, 0.9, 0.86), (0.6, 0.9, 0.91), (0.9, 0.9, 0.84)])

    def measure(model):
        with torch.no_grad():
            assert model.model(input_ids=torch.tensor([[3, 4]])).logits.isfinite().all()
        return dict(zip(("R_Ad", "R_Ro", "closed_book"), next(seen), strict=True))

    with caplog.at_level(logging.WARNING):
        done, _ = run(lm, recipe, tmp_path, guards=Guards(measure))
    assert [point["step"] for point in done.curve] == [0, 2, 4, 6, 8]
    assert done.steps == 8
    assert done.best == 6, "the step of 90 / 90 had lost too much of the closed book"
    assert "fell by 6.0 points up to step 8" in done.stopped
    assert "lower learning_rate" in caplog.text
    again, _ = run(lm, recipe, tmp_path, guards=Guards(measure))
    assert again.steps == 8, "a stopped training stays stopped"


def test_the_choice_among_looks():
    guards = Guards(lambda lm: {})

    def point(step, a, r, closed):
        found = {"R_Ad": a, "R_Ro": r, "closed_book": closed}
        return {"step": step, **found, "harmonic": harmonic(found)}

    assert harmonic({"R_Ad": 0.0, "R_Ro": 1.0}) == 0.0
    assert harmonic({"R_Ad": 0.5, "R_Ro": 1.0}) == pytest.approx(2 / 3)
    curve = [point(0, 0.2, 0.9, 0.9), point(5, 0.6, 0.6, 0.89), point(10, 0.6, 0.6, 0.9), point(15, 0.9, 0.9, 0.88)]
    assert guards.best(curve) == 5
    assert guards.best(curve[:1]) == 0
    assert guards.reason(curve) == ""
    assert guards.reason([curve[0], point(20, 1, 1, 0.851)]) == ""
    assert guards.reason([curve[0], point(20, 1, 1, 0.85)]) != ""
    strict = Guards(lambda lm: {}, keep=0.0, stop=0.0)
    assert strict.reason(curve[:1]) == ""
    assert strict.reason([curve[0], point(20, 1, 1, 0.899)]) != ""
    for bad in ({"R_Ad": 1.0}, {"R_Ad": 50.0, "R_Ro": 1.0, "closed_book": 1.0}):
        with pytest.raises(InputError, match="between 0 and 1"):
            Guards(lambda lm, bad=bad: bad).look(None)


def test_the_greedy_measure_counts_whose_answer_it_is(monkeypatch):
    said = {"a": ["blue", "red", "blue and red", "so"], "r": ["red", "blue", "red", "so"], "empty": ["red", "no"] * 2}
    items = {
        kind: [
            ParentingItem(
                f"{n}#0/{kind}",
                "g",
                kind,
                f"Q{n}?",
                () if kind == "empty" else made_items(kind, 1)[0].documents,
                "t",
                ("red",) if kind != "a" else ("blue",),
                "red",
                {"label": "known" if kind != "a" else "wrong"},
            )
            for n in range(4)
        ]
        for kind in said
    }
    calls = iter(said.values())
    monkeypatch.setattr("headwater.adapt.parenting.guards.greedy_lines", lambda *_: next(calls))
    measure = GreedyMeasure(items["a"], items["r"], items["empty"])
    assert measure(random_lm(layers=1)) == {"R_Ad": 0.25, "R_Ro": 0.5, "closed_book": 0.5}
    with pytest.raises(InputError, match="no development items of the set 'r'"):
        GreedyMeasure(items["a"], [], items["empty"])
    longest = max(len(PromptWriter(random_lm(layers=1)).prompt(item)) for each in items.values() for item in each)
    measure.check(random_lm(layers=1, max_position_embeddings=longest + LONGEST))
    with pytest.raises(ContextOverflowError, match="development item"):
        measure.check(random_lm(layers=1, max_position_embeddings=longest + LONGEST - 1))


def test_a_gradient_that_is_not_finite_costs_a_step_and_no_more(tmp_path, monkeypatch, caplog):
    lm = random_lm(layers=1)
    recipe = mixture(made_map(lm, rank=RANK).units, 6, ("a",), per_loss=True)
    calls = []

    def sometimes(model, batch):
        loss, tokens = answer_loss(model, batch)
        calls.append(1)
        return (loss * float("nan") if len(calls) == 3 else loss), tokens

    monkeypatch.setattr(routed_module, "answer_loss", sometimes)
    done, state = run(lm, recipe, tmp_path / "one")
    assert done.skipped == 1
    assert done.steps == 6
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert "Step 2 has a gradient that is not finite" in caplog.text
    monkeypatch.setattr(routed_module, "answer_loss", lambda model, batch: (answer_loss(model, batch)[0] * 1e39, 1))
    with pytest.raises(ModelError, match="20 steps in a row"):
        run(lm, mixture(made_map(lm, rank=RANK).units, 30, ("a",), per_loss=True), tmp_path / "all")


def test_the_schedule_of_the_rate():
    pace = Pace(learning_rate=1.0, warmup=0.2)
    rates = [pace.rate(step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[-1] == pytest.approx(1 / 8)
    assert Pace(learning_rate=1.0, warmup=0.0).rate(0, 5) == 1.0


def test_all_examples_come_before_one_comes_again():
    given = PROMPTS["a"]
    ids = [prompt.id for step in range(4) for prompt in draw(given, "a", 0, step, 4)]
    assert sorted(ids[:8]) == sorted(ids[8:]) == sorted(prompt.id for prompt in given)
    assert ids[:8] != ids[8:]
    assert [p.id for p in draw(given, "a", 0, 1, 4)] == ids[4:8]
    assert [p.id for p in draw(given, "a", 1, 0, 8)] != ids[:8]


def test_recipes():
    lm = random_lm(layers=2)
    units = made_map(lm, "ARO", rank=RANK)
    joint = routed(units, 10, 0.75, 0.1)
    assert set(joint.units) == {"A", "R"}
    assert joint.weights["A"] == pytest.approx({"a": 0.675, "r": 0.075, "c": 0.25})
    assert routed(units, 9, 1.0, 0.0).losses == ("a", "r")
    assert routed(units, 9, 0.8, 0.0, ("E", "R", "A")).phases == (Phase(("R",), 5), Phase(("A",), 4))
    assert len(unified(units, 9, 0.8, True).trained) == len(units.units)
    assert len(unified(units, 9, 0.8, False).trained) == len(units.of("A", "R"))
    assert mixture(units.units, 9, ("a", "empty"), True).weights == {"all": {"a": 0.5, "empty": 0.5}}
    with pytest.raises(InputError, match="holds E, A and R once each"):
        routed(units, 9, 0.8, 0.0, ("A", "R"))
    with pytest.raises(InputError, match="cannot share 1 steps"):
        routed(units, 1, 0.8, 0.0, TRAINED)


def test_what_cannot_be_trained_is_refused(tmp_path):
    lm = random_lm(layers=1)
    rank = routed(made_map(lm, kind="rank", rank=RANK), 2, 0.8, 0.0)
    with pytest.raises(InputError, match="weight_decay 0 with units that are slices"):
        run(lm, rank, tmp_path, Pace(weight_decay=0.1))
    pair = routed(made_map(lm, rank=RANK), 2, 0.8, 0.0)
    with ready(lm, pair) as tuned, pytest.raises(InputError, match="no examples of the set 'c'"):
        train(tuned, pair, {**PROMPTS, "c": []}, QUICK, tmp_path)
    half = hw.load(model=family_model("llama", dtype=torch.float16), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="bfloat16"):
        run(half, routed(made_map(half, rank=RANK), 2, 0.8, 0.0), tmp_path)
