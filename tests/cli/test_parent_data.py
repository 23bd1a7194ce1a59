"""`headwater parent data` on a random model: what would be asked, what is asked, what is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.data.parenting.folder import read_data

NAMES = ["Ann Lee", "Bob Roy", "Eve Low", "Joe Fox", "Kim Dow", "Max Ray", "Pia Sun", "Sam Orr", "Tom Day", "Zoe Bay"]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [
        {
            "question": f"Who leads {n}?",
            "answers": [name],
            "document": f"{name} leads {n}.",
            "others": [{"title": f"Office {n}", "text": "It rained."}],
        }
        for n, name in enumerate(NAMES)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_a_dry_run_loads_no_model(call: Any, questions: Path, tmp_path: Path) -> None:
    words = [
        "parent",
        "data",
        "--model",
        "no/such/model",
        "--train",
        questions,
        "--output",
        tmp_path / "s",
        "--dry-run",
    ]
    shown = call(*words)
    assert shown.exit_code == 0, shown.stderr
    assert "mine (train): 10 questions, 10 groups, 20 passages" in shown.stdout
    assert "train        6 questions to ask, of 6 groups" in shown.stdout
    plan = json.loads(call(*words, "--questions", 5, "--json").stdout)
    assert plan["asked"] == {"train": 3, "development": 1, "test": 1}
    assert not (tmp_path / "s").exists()
    (tmp_path / "avoid.txt").write_text("Bob Roy leads 1.")
    less = call(*words, "--avoid", tmp_path / "avoid.txt")
    assert "Left out of training: 1 groups of texts to avoid." in less.stderr


def test_sets_are_written(call: Any, questions: Path, model_folder: str, tmp_path: Path) -> None:
    words = ["parent", "data", "--model", model_folder, "--train", questions, "--output", tmp_path / "sets"]
    words += ["--samples", 2, "--documents", "1,3", "--items", "train=4"]
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    assert "Sets written to" in result.stderr
    assert "extraction" in result.stdout
    data = read_data(tmp_path / "sets")
    assert len(data.train["c"]) == 4
    again = call(*words, "--json")
    record = json.loads(again.stdout)
    assert record["counts"]["train"]["c"] == 4
    assert record["fingerprints"] == data.record["fingerprints"]
    other = call(*words, "--seed", 1)
    assert other.exit_code == 2
    assert "holds a run with seed=0, not 1" in other.stderr
