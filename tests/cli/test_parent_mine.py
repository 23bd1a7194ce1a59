"""`headwater parent mine` on a random model: a map, a picture, sorted again, and refused in words."""

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.adapt.parenting.classes import UnitMap
from headwater.data.parenting.items import save_items
from headwater.model.lm import load
from parenting_items import made_items

QUICK = ["--steps", 2, "--batch", 2, "--rank", 2, "--learning-rate", 0.01, "--force"]


@pytest.fixture(scope="module")
def sets(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for kind in "ar":
        save_items(made_items(kind), folder / "train" / f"{kind}.jsonl")
    fingerprint = load(model_folder).fingerprint
    (folder / "data.json").write_text(json.dumps({"model": {"fingerprint": fingerprint}}), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def any_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of a random model need not give all classes."""
    monkeypatch.setattr("headwater.adapt.parenting.classes.refuse_empty", lambda *_: None)


def test_a_map_and_its_picture(call: Any, model_folder: str, sets: Path, tmp_path: Path) -> None:
    words = ["parent", "mine", "--data", sets, "--output", tmp_path / "mined", "--model", model_folder, *QUICK]
    shown = call(*words, "--plot", tmp_path / "units.svg")
    assert shown.exit_code == 0, shown.stderr
    assert "documents against memory" in shown.stdout
    assert "Spearman's rho" in shown.stdout
    found = UnitMap.load(tmp_path / "mined" / "units.json")
    assert len(found.units) == 21
    assert found.provenance["settings"]["learning_rate"] == 0.01
    assert "<svg" in (tmp_path / "units.svg").read_text(encoding="utf-8")
    runs = (tmp_path / "mined" / "runs.jsonl").read_bytes()
    again = call(*words, "--tau", 0.5, "--json")
    record = json.loads(again.stdout)
    assert record["tau"] == 0.5
    assert [unit["raw_a"] for unit in record["units"]] == list(found.raw_a)
    assert (tmp_path / "mined" / "runs.jsonl").read_bytes() == runs
    other = call(*words, "--seed", 1)
    assert other.exit_code == 2
    assert "holds a run with seed=0" in other.stderr


def test_units_that_do_not_repeat_are_refused(
    call: Any, model_folder: str, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.adapt.parenting.reliability.LEAST", 1.1)
    words = ["parent", "mine", "--data", sets, "--output", tmp_path / "mined", "--model", model_folder, *QUICK[:-1]]
    shown = call(*words)
    assert shown.exit_code == 1
    assert "--force" in shown.stderr
    assert not (tmp_path / "mined" / "units.json").exists()
    assert call(*words, "--force").exit_code == 0


def test_sets_of_another_model_are_refused(call: Any, model_folder: str, sets: Path, tmp_path: Path) -> None:
    (tmp_path / "sets" / "train").mkdir(parents=True)
    for kind in "ar":
        save_items(made_items(kind), tmp_path / "sets" / "train" / f"{kind}.jsonl")
    (tmp_path / "sets" / "data.json").write_text('{"model": {"fingerprint": "0"}}', encoding="utf-8")
    shown = call("parent", "mine", "--data", tmp_path / "sets", "--output", tmp_path / "x", "--model", model_folder)
    assert shown.exit_code == 2
    assert "probed with other weights" in shown.stderr
