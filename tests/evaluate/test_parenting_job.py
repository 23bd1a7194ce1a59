"""The Parenting experiment on a random model, small: every row and table is there, a second run trains nothing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import headwater as hw
from headwater.adapt.parenting import train
from headwater.adapt.parenting.classes import UnitMap
from headwater.data.lines import write_json
from headwater.data.parenting.items import KINDS, save_items
from headwater.errors import InputError, ModelError
from headwater.evaluate import parenting_job
from headwater.evaluate.main_job import no_progress
from headwater.evaluate.parenting import answers, rows, workshop
from headwater.evaluate.parenting.questions import AXES, UNSEEN
from headwater.evaluate.parenting.settings import Settings
from headwater.evaluate.parenting.summary import ADHERENCE, HARMONIC
from headwater.evaluate.parenting_tables import tables
from headwater.evaluate.tables import fill_page
from headwater.headset import HeadSet
from models import random_lm
from parenting_items import made_items, made_map, made_sets

SMALL = Settings(
    questions=2,
    development=2,
    train=4,
    shown=1,
    steps=3,
    batch=1,
    every=3,
    rank=2,
    rates=(1e-3, 1e-2),
    mining_steps=2,
    keep=1.0,
    stop=1.0,
    seeds=2,
    some=1,
    text_tokens=20,
)
PAGE = Path(__file__).parents[2] / "docs" / "results" / "parenting.md"


def made_data(lm, prepared, output, sets=None, progress=None):
    """What `headwater parent data` leaves behind; a random model knows nothing."""
    splits = {"train": made_sets(4), "development": made_sets(2, seed=1), "test": made_sets(4, seed=2)}
    for split, each in splits.items():
        for kind in KINDS:
            save_items(each[kind], output / split / f"{kind}.jsonl")
    save_items(made_items("empty", 4, seed=3), output / "test" / "asked.jsonl")
    record = {
        "model": lm.provenance(),
        "probe": {"labels": {split: {"known": 4, "wrong": 1} for split in splits}},
        "counts": {split: {kind: len(items) for kind, items in each.items()} for split, each in splits.items()},
    }
    write_json(output / "data.json", record)


def mined(self, lm, data, folder, progress):
    """Scores that sort the units into the classes E, A, R, O in turn."""
    units = made_map(lm, rank=2)
    scores = [[2.0 if name in high else 1.0 for name in units.classes] for high in ("EA", "ER")]
    reliability = {"a": 0.9, "r": 0.8, "between": 0.85}
    return UnitMap.sort(units.units, *scores, provenance={**lm.provenance(), "reliability": reliability})


def fitted(self, lm, progress):
    """A random model does not copy, so PEAR could not be learned."""
    return HeadSet([(0, 1)], coefficients=[0.5])


def quick(lm, prompts, tokens, batch):
    """An answer that follows from the weights, without generating one."""
    places = [int(lm.model(torch.tensor([list(prompt[-8:])])).logits[0, -1, :64].argmax()) for prompt in prompts]
    return ["m" if place % 2 else "z" for place in places]


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workshop, "prepare", lambda **_: None)
        patch.setattr(workshop, "make_data", made_data)
        patch.setattr(workshop.Mining, "mine", mined)
        patch.setattr(workshop.Pear, "fit", fitted)
        patch.setattr(answers, "greedy_lines", quick)
        patch.setattr("headwater.adapt.parenting.guards.greedy_lines", quick)
        yield


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_lm(layers=1, max_position_embeddings=4096).save(folder)
    return hw.load(folder)


@pytest.fixture(scope="module")
def finished(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "parenting"
    before = lm.fingerprint
    summary = parenting_job.run(lm, folder, SMALL)
    assert lm.fingerprint == before
    return folder, summary


def test_every_row_is_measured(finished) -> None:
    folder, summary = finished
    names = [row.name for row in rows.ROWS]
    assert list(summary["rows"]) == names
    assert not summary["refused"]
    for name in (ADHERENCE, HARMONIC, UNSEEN):
        assert set(summary["results"]["chosen"][name]["rows"]) == set(names)
    assert set(summary["results"]["last"][ADHERENCE]["rows"]) == set(names)
    assert summary["rows"][rows.ROUTED]["seeds"] == 2
    assert summary["rows"][rows.SWAPPED]["seeds"] == 1
    assert (folder / "curves-adherence.svg").stat().st_size
    assert (folder / "units.svg").stat().st_size
    json.dumps(summary, allow_nan=False)


def test_rows_are_what_they_say(finished, lm) -> None:
    folder, summary = finished
    trained = {row: about["parameters"] for row, about in summary["rows"].items() if about["rate"] is not None}
    assert trained[rows.PLAIN] == trained[rows.KAFT] == trained[rows.ROUTED]
    assert trained[rows.NO_BOUNDARY] == trained[rows.SWAPPED] == trained[rows.ROUTED][:1]
    assert trained[rows.MERGED][0] == 3 * trained[rows.EVERY_UNIT][0]
    assert trained[rows.EVERY_UNIT][0] == 2 * sum(
        sum(module.weight.shape) for name, module in lm.model.named_modules() if name.endswith("_proj")
    )
    kept = {
        path.name: json.loads((path / "parenting.json").read_text()) for path in (folder / "work/adapters").iterdir()
    }
    configs = {name: record["config"] for name, record in kept.items()}
    assert configs["kaft-style-mixture-0.001-1"]["sets"] == ["agree", "a", "r", "empty"]
    assert configs["plain-lora-mean-per-loss-0.001-0"]["normalise"] == "loss"
    assert configs["parenting-sequential-0.01-0"]["schedule"] == "sequential"
    assert configs["no-extraction-task-0.01-0"]["delta"] == 1.0
    classes = {
        name: [unit["class"] for unit in record["units"]["units"]] for name, record in kept.items() if record["units"]
    }
    mined_classes = classes["parenting-routed-0.001-0"]
    assert classes["swapped-classes-0.001-0"] == [{"A": "R", "R": "A"}.get(name, name) for name in mined_classes]
    assert sorted(classes["random-partition-0.001-0"]) == sorted(mined_classes) != classes["random-partition-0.001-0"]
    assert (
        configs["pear-folded-then-parenting-0.001-0"]["fingerprint"]
        != configs["parenting-routed-0.001-0"]["fingerprint"]
    )
    assert not any(name.startswith("parenting-then-pear") for name in kept)


def test_learning_rates_are_those_of_the_best_development_mean(finished) -> None:
    _, summary = finished
    for about in summary["rows"].values():
        if about["rate"] is not None:
            rates = about["rates"]
            assert rates[f"{about['rate']:g}"] == max(rates.values())


def test_run_again_trains_and_asks_nothing(finished, lm, monkeypatch) -> None:
    folder, summary = finished

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(train, "_Run", never)
    monkeypatch.setattr(answers, "greedy_lines", never)
    shutil.rmtree(folder / "work" / "adapters")
    again = parenting_job.run(lm, folder, SMALL)
    assert again["results"] == summary["results"]
    assert again["rows"] == summary["rows"]


def test_lost_answers_of_one_row_alone_are_asked_again(finished, lm, monkeypatch) -> None:
    folder, summary = finished
    path = folder / "answers" / "conflict.jsonl"
    kept = path.read_text()
    lines = kept.splitlines(keepends=True)
    lost = [line for line in lines if f'"{rows.PEAR}/' not in line]
    assert len(lost) == len(lines) - 1
    path.write_text("".join(lost))
    assert parenting_job.run(lm, folder, SMALL)["results"] == summary["results"]
    assert sorted(path.read_text().splitlines(keepends=True)) == sorted(lines)


def test_another_configuration_is_refused(finished, lm) -> None:
    with pytest.raises(InputError, match="steps"):
        parenting_job.run(lm, finished[0], replace(SMALL, steps=4))


def test_tables_fill_the_page(finished, tmp_path) -> None:
    _, summary = finished
    found = tables(summary)
    page = tmp_path / "page.md"
    shutil.copy(PAGE, page)
    fill_page(page, found)
    text = page.read_text(encoding="utf-8")
    marked = set(re.findall(r"<!-- begin: (.*?) -->", text))
    assert set(found) - {"short"} <= marked
    assert all(row.name in found["axes"] for row in rows.ROWS)
    assert "parenting/units.svg" in found["curves"]
    others = tables({**summary, "label": "parenting-llama-weak"})
    assert "parenting-llama-weak-short" in marked & set(others)


def test_rows_that_cannot_be_made_are_told(lm, tmp_path, monkeypatch) -> None:
    def none(*_):
        raise ModelError("No head copies.")

    few = (rows.BASE, rows.ROUTED)
    monkeypatch.setattr(workshop.Pear, "fit", none)
    monkeypatch.setattr(parenting_job, "ROWS", tuple(row for row in rows.ROWS if row.fold or row.name in few))
    monkeypatch.setattr(parenting_job, "_draw", lambda *_: None)
    summary = parenting_job.run(lm, tmp_path / "parenting", SMALL)
    assert set(summary["refused"]) == {rows.PEAR, rows.PEAR_FIRST, rows.PEAR_LAST}
    assert list(summary["rows"]) == [rows.BASE, rows.ROUTED]
    assert "Not run: PEAR folded. No head copies." in tables(summary)["axes"]


def test_the_last_step_is_asked_where_another_was_chosen(finished) -> None:
    folder, _ = finished
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    other = {run["id"] for run in runs if run["best"] != run["steps"]}
    for test in AXES:
        keys = [json.loads(line)["id"] for line in (folder / "answers" / f"{test}.jsonl").read_text().splitlines()]
        own = {key.removesuffix("/last") for key in keys if key.endswith("/last")}
        own = {key.replace(rows.PEAR_LAST, rows.ROUTED) for key in own}
        assert own <= other
        assert other & {key.removesuffix("/chosen") for key in keys if key.endswith("/chosen")} <= own


def test_threshold_moves_where_a_class_is_empty(lm, tmp_path, monkeypatch) -> None:
    seen = []

    def mine(self, *_):
        seen.append(self.tau)
        if self.tau != -0.25:
            raise InputError("No unit is of class A.")
        return made_map(lm, rank=2)

    monkeypatch.setattr(workshop.Mining, "mine", mine)
    shop = workshop.Workshop(lm, tmp_path, SMALL, no_progress)
    assert shop.units.sizes == made_map(lm, rank=2).sizes
    assert seen == [0.0, 0.25, -0.25]
    assert (tmp_path / "units.json").exists()
