"""`headwater parent tune` and `merge` on a random model: what it would do, what it does, and a stock checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest

import headwater as hw
from headwater.data.parenting.items import save_items
from parenting_items import made_items, made_map, made_sets


@pytest.fixture
def ready(model_folder: str, tmp_path: Path) -> Path:
    """Sets and units of the random model."""
    lm = hw.load(model_folder)
    for split, sets in (
        ("train", made_sets(3)),
        ("development", {kind: made_items(kind, 2, 5) for kind in ("a", "r", "empty")}),
    ):
        for kind, items in sets.items():
            save_items(items, tmp_path / "sets" / split / f"{kind}.jsonl")
    (tmp_path / "sets" / "data.json").write_text(json.dumps({"model": lm.provenance()}), encoding="utf-8")
    (tmp_path / "mined").mkdir()
    made_map(lm, rank=2).save(tmp_path / "mined" / "units.json")
    return tmp_path


def test_plan_then_tuning_then_merging(call: Any, model_folder: str, ready: Path) -> None:
    words = ["parent", "tune", "--model", model_folder, "--data", ready / "sets", "--units", ready / "mined"]
    words += ["--output", ready / "tuned", "--steps", 2, "--batch", 2, "--every", 1, "--rank", 2, "--template", "base"]
    words += ["--warmup", 0.5, "--max-norm", 2, "--weight-decay", 0.1, "--keep", 0.5, "--stop", 0.9]
    shown = call(*words, "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert "classes   E 6, A 5, R 5, O 5" in shown.stdout
    assert "losses    A: a 0.80, r 0.00, c 0.20" in shown.stdout
    assert json.loads(call(*words, "--dry-run", "--json").stdout)["items"]["c"] == 3
    assert not (ready / "tuned").exists()
    shown = call(*words)
    assert shown.exit_code == 0, shown.stderr
    assert "closed_book" in shown.stdout
    assert "2 steps, weights of step" in shown.stdout
    again = json.loads(call(*words, "--json").stdout)
    assert [point["step"] for point in again["result"]["curve"]] == [0, 1, 2]
    given = {"warmup": 0.5, "max_norm": 2.0, "weight_decay": 0.1, "keep": 0.5, "stop": 0.9}
    assert {name: again["config"][name] for name in given} == given
    other = call(*words, "--learning-rate", 1e-3)
    assert other.exit_code == 2
    assert "another" in other.stderr
    merged = call("parent", "merge", ready / "tuned", "--output", ready / "stock", "--json")
    assert merged.exit_code == 0, merged.stderr
    stock = hw.load(json.loads(merged.stdout)["path"])
    assert not hasattr(stock.model, "peft_config")
    assert stock.anatomy == hw.load(model_folder).anatomy
    taken = call("parent", "merge", ready / "tuned", "--output", ready / "stock")
    assert taken.exit_code == 2
    assert "not empty" in taken.stderr


def test_one_of_several_processes_speaks(call: Any, model_folder: str, ready: Path, monkeypatch: Any) -> None:
    """The others are done when the training is: they read and print nothing."""
    monkeypatch.setattr("headwater.adapt.parenting.method.Parenting.fit", lambda self, lm, data, output, **_: output)
    words = ["parent", "tune", "--model", model_folder, "--data", ready / "sets", "--units", ready / "mined"]
    words += ["--output", ready / "tuned"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    shown = call(*words)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "", "")
    monkeypatch.setenv("RANK", "0")
    assert call(*words).exit_code == 2, "this one looks for the record"
