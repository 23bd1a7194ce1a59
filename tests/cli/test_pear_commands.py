"""`headwater pear`: fit, fold and check on a model with a planted suppressor."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from planted_suppressor import SUPPRESSOR, copying_lm


@pytest.fixture(scope="module")
def copier(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(copying_lm().save(tmp_path_factory.mktemp("copier")))


def test_fit_fold_check(call: Any, copier: str, tmp_path: Path) -> None:
    heads, folder, plot = tmp_path / "pear.json", tmp_path / "folded", tmp_path / "curve.png"
    fitted = call("pear", "fit", "--model", copier, "--steps", 10, "--output", heads, "--plot", plot, "--json")
    assert fitted.exit_code == 0, fitted.stderr
    record = json.loads(fitted.stdout)
    assert [tuple(head) for head in record["heads"]] == [SUPPRESSOR]
    assert record["coefficients"][0] < 1
    assert plot.stat().st_size > 0
    shown = call("pear", "fit", "--model", copier, "--steps", 10, "--output", heads)
    assert "1-2" in shown.stdout
    assert "held-out copy loss" in shown.stdout
    folded = call("pear", "fold", "--model", copier, "--heads", heads, "--output", folder)
    assert folded.exit_code == 0, folded.stderr
    AutoModelForCausalLM.from_pretrained(folder)
    assert "| 1-2 |" in (folder / "README.md").read_text(encoding="utf-8")
    again = call("pear", "fold", "--model", folder, "--heads", heads, "--output", tmp_path / "twice")
    assert again.exit_code == 2
    assert "folded already" in again.stderr
    checked = call("pear", "check", "--model", folder, "--heads", heads, "--json")
    assert checked.exit_code == 0, checked.stderr
    assert json.loads(checked.stdout)["ordinary"]
    text = call("pear", "check", "--model", folder, "--heads", heads).stdout
    assert "the same" in text
    assert "DIFFERENT" not in text


def test_check_fails_where_other_weights_differ(call: Any, copier: str, tmp_path: Path) -> None:
    heads, folder = tmp_path / "pear.json", tmp_path / "folded"
    call("pear", "fit", "--model", copier, "--steps", 2, "--output", heads)
    call("pear", "fold", "--model", copier, "--heads", heads, "--output", folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.transformer.wte.weight.data[3, 3] += 1
    model.save_pretrained(folder)
    result = call("pear", "check", "--model", folder, "--heads", heads)
    assert result.exit_code == 1
    assert "DIFFERENT" in result.stdout
