"""`headwater needle` and `headwater heads find --method`, on a small random model and on the planted copier."""

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.headset import HeadSet
from planted_copier import COPIER, NEEDLES, PARAGRAPHS, copier_lm


@pytest.fixture
def copier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with needles, text and examples; every model that is loaded is the planted copier."""
    monkeypatch.setattr("headwater.cli.options.load_model", lambda *_: copier_lm())
    lines = [{"statement": n.statement, "question": n.question, "answer": n.answer, "name": n.name} for n in NEEDLES]
    (tmp_path / "needles.jsonl").write_text("\n".join(map(json.dumps, lines[:2])))
    (tmp_path / "hay").mkdir()
    (tmp_path / "hay" / "one.txt").write_text("\n\n".join(PARAGRAPHS))
    examples = [{"query": "h1", "documents": ["h1 h2", "h3 h4"], "relevant": [0]}]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
    return tmp_path


def test_the_grid(call: Any, copier: Path) -> None:
    words = ["needle", "--needles", copier / "needles.jsonl", "--haystack", copier / "hay", "--lengths", "260,300"]
    words += ["--depths", "0,1", "--max-new-tokens", 6]
    result = call(*words, "--plot", copier / "new" / "grid.png")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("100") >= 4
    assert "recall 100 [100, 100]" in result.stdout
    assert "100% of the cells" in result.stdout
    assert (copier / "new" / "grid.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(call(*words, "--json", "--quiet").stdout)
    assert record["recall"]["grid"] == [[1, 1], [1, 1]]
    assert len(record["results"]) == 8


def test_a_random_model_answers_nothing(call: Any, model_folder: str) -> None:
    result = call("needle", "--model", model_folder, "--lengths", 300, "--depths", "0.5", "--max-new-tokens", 4)
    assert result.exit_code == 0, result.stderr
    assert "instead of" in result.stderr
    quiet = call("needle", "--model", model_folder, "--lengths", 300, "--depths", "1", "--max-new-tokens", 2, "-q")
    assert not quiet.stderr


def test_retrieval_heads_are_found(call: Any, copier: Path) -> None:
    words = ["heads", "find", "--method", "retrieval", "--examples", copier / "needles.jsonl"]
    words += ["--set", f"haystack={copier / 'hay'}", "--set", "lengths=260", "--set", "run=forced"]
    result = call(*words, "--output", copier / "found.json", "--json")
    assert result.exit_code == 0, result.stderr
    found = HeadSet.load(copier / "found.json")
    assert found.heads == [COPIER]
    assert found.provenance["settings"]["run"] == "forced"
    assert json.loads(result.stdout)["heads"] == [list(COPIER)]


@pytest.mark.parametrize(
    ("method", "switch"), [("contrastive", "temperature=0.01"), ("query-focused", "null_query="), ("random", "seed=4")]
)
def test_other_detectors_take_switches(call: Any, copier: Path, method: str, switch: str) -> None:
    words = ["heads", "find", "--method", method, "--set", switch, "--examples", copier / "examples.jsonl"]
    result = call(*words, "-k", 2, "--output", copier / "x.json", *(["--seed", 0] if method != "random" else []))
    assert result.exit_code == 0, result.stderr
    assert len(HeadSet.load(copier / "x.json").heads) == 2


def test_no_accepted_run_fails_in_words(call: Any, tmp_path: Path, model_folder: str) -> None:
    words = ["--model", model_folder, "--set", "lengths=300", "--set", "depths=1", "--set", "max_new_tokens=3"]
    result = call("heads", "find", "--method", "retrieval", *words, "--output", tmp_path / "x.json")
    assert result.exit_code == 1
    assert "answered none of 6 needle cases" in result.stderr
    assert not (tmp_path / "x.json").exists()
