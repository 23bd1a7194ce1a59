"""`headwater heads tune` on a random model: what it would do, what it does, and that ranking takes it."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [{"query": f"who {i}?", "documents": ["it rained", f"ann {i}", "x"], "relevant": [1]} for i in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_a_dry_run_trains_nothing(call: Any, model_folder: str, examples: Path, tmp_path: Path) -> None:
    words = ["heads", "tune", "--model", model_folder, "--heads", "1-0,0-2", "--examples", examples]
    words += ["--output", tmp_path / "none" / "tuned", "--dry-run"]
    shown = call(*words)
    assert shown.exit_code == 0, shown.stderr
    assert "1-0,0-2" in shown.stdout
    plan = json.loads(call(*words, "--json").stdout)
    assert (plan["layers"], plan["modules"], plan["examples"], plan["development"]) == (2, 4, 18, 2)
    assert not (tmp_path / "none").exists()


def test_a_dry_run_finds_no_heads(
    call: Any, model_folder: str, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.heads.QueryFocusedHeads.score", lambda *_: pytest.fail("the detector ran"))
    words = ["heads", "tune", "--model", model_folder, "--examples", examples, "--output", tmp_path / "tuned"]
    shown = call(*words, "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert "none known: found first" in shown.stdout


def test_training_then_ranking(call: Any, model_folder: str, examples: Path, tmp_path: Path) -> None:
    words = ["heads", "tune", "--model", model_folder, "--heads", "1-0,0-2", "--examples", examples, "--development"]
    words += [examples, "--output", tmp_path / "tuned", "--steps", 3, "--batch", 2, "--every", 2, "--rank", 2]
    shown = call(*words)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.count("development nDCG@10") == 3
    again = json.loads(call(*words, "--json").stdout)
    assert [record["step"] for record in again["log"]] == [0, 2, 3]
    assert again["config"]["heads"] == [[1, 0], [0, 2]]
    ranked = call("rank", "who 3?", "--model", tmp_path / "tuned", "--json", "--no-detect", stdin="it rained\nann 3\n")
    assert ranked.exit_code == 0, ranked.stderr
    assert json.loads(ranked.stdout)["heads"] == [[1, 0], [0, 2]]
