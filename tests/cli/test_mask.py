"""`headwater heads mask` on a random model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headwater as hw


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    """Two head sets with scores for the random model of 3 x 4 heads."""
    out = []
    for seed, name in enumerate(("qr", "wu")):
        scores = hw.HeadScores(np.random.default_rng(seed).random((3, 4)))
        out.append(scores.top(2).save(tmp_path / f"{name}.json"))
    return out


def test_a_table_a_picture_and_the_folder(
    call: Any, model_folder: str, tmp_path: Path, sets: list[Path], notes: Path
) -> None:
    common = ["heads", "mask", "--model", model_folder, "--heads", sets[0], "--versus", sets[1], "--limit", 2]
    common += ["--k", "1", "--seeds", 2, "--output", tmp_path / "run"]
    text = notes / "algeria.txt"
    result = call(*common, "--task", "closed-book", "--task", f"perplexity:{text}", "--plot", tmp_path / "mask.png")
    assert result.exit_code == 0, result.stderr
    assert "closed-book: 2 examples" in result.stdout
    assert result.stdout.count("mode=zero, phase=all") == 2
    for name in ("unmasked", "top of qr", "top of wu", "random (2 draws)", "layer-matched (2 draws)", "bottom"):
        assert name in result.stdout
    assert (tmp_path / "mask-closed-book.png").stat().st_size > 1000
    assert len(list(tmp_path.glob("mask-*.png"))) == 2
    again = call(*common, "--task", "closed-book", "--json", "--quiet")
    assert again.exit_code == 0, again.stderr
    summary = json.loads(again.stdout)
    assert summary["config"]["sizes"] == [1]
    assert [row["k"] for row in summary["rows"] if row["of"] == "wu"] == [1]


@pytest.mark.parametrize("mode", ["sequence_mean", "uniform", "reference_mean"])
def test_modes(call: Any, model_folder: str, tmp_path: Path, sets: list[Path], mode: str, notes: Path) -> None:
    words = ["heads", "mask", "--model", model_folder, "--heads", sets[0], "--limit", 2, "--no-controls", "--quiet"]
    words += ["--mode", mode, "--phase", "decode", "--output", tmp_path / "run", "--k", 1, "--json"]
    words += ["--task", "closed-book"]
    words += ["--reference", notes] if mode == "reference_mean" else []
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    assert {(row["mode"], row["phase"]) for row in json.loads(result.stdout)["rows"]} == {(mode, "decode")}
