"""`headwater llara adapt` on a random model: what it would do, what it does, and that other commands take it."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(f"Lima {number} is a city by the sea, and Oslo {number} lies up north.")
    (folder / "photo.png").write_bytes(b"x")
    return folder


def test_a_dry_run_trains_nothing(call: Any, model_folder: str, texts: Path, tmp_path: Path) -> None:
    words = ["llara", "adapt", "--model", model_folder, "--texts", texts, "--output", tmp_path / "none" / "out"]
    words += ["--chunk-words", 5, "--dry-run"]
    shown = call(*words)
    assert shown.exit_code == 0, shown.stderr
    assert "with_next    22" in shown.stdout
    assert "1 x .png" in shown.stderr
    plan = json.loads(call(*words, "--json").stdout)
    assert (plan["texts"], plan["chunks"], plan["with_next"], plan["steps"]) == (12, 33, 22, 2)
    assert not (tmp_path / "none").exists()


def test_adapting_then_ranking(call: Any, model_folder: str, texts: Path, tmp_path: Path) -> None:
    words = ["llara", "adapt", "--model", model_folder, "--texts", texts, "--output", tmp_path / "adapted"]
    words += ["--chunk-words", 5, "--max-length", 120, "--steps", 2, "--batch", 2, "--every", 1, "--rank", 2]
    shown = call(*words)
    assert shown.exit_code == 0, shown.stderr
    assert "33 chunks of 12 texts, 22 with a following one; 2 steps of 2" in shown.stdout
    assert shown.stdout.count("\n") >= 6  # a line for each look
    again = json.loads(call(*words, "--json").stdout)
    assert [look["step"] for look in again["looks"]] == [0, 1, 2]
    assert again["looks"][0]["excess_predict"] > 0
    ranked = call("rank", "Oslo", "--model", tmp_path / "adapted", "--heads", "0-0", "--json", stdin="x y\nOslo\n")
    assert ranked.exit_code == 0, ranked.stderr


def test_few_texts_hold_nothing_out(call: Any, model_folder: str, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("Lima is a city by the sea.")
    words = ["llara", "adapt", "--model", model_folder, "--texts", tmp_path / "one.txt", "--output", tmp_path / "out"]
    shown = call(*words, "--steps", 1, "--batch", 1, "--rank", 2)
    assert shown.exit_code == 0, shown.stderr
    assert "No chunks were held out" in shown.stdout
    assert "nothing follows any" in shown.stderr
