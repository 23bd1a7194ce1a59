"""Each command on a random model: what is printed, what is written, and one clear sentence for bad input."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headwater.heads import DETECTORS
from headwater.headset import HeadSet


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["demo"],
        ["ask"],
        ["rank"],
        ["heads"],
        ["heads", "find"],
        ["heads", "show"],
        ["needle"],
        ["heads", "mask"],
        ["heads", "compare"],
        ["heads", "stability"],
        ["heads", "explore"],
        ["pear"],
        ["pear", "fit"],
        ["pear", "fold"],
        ["pear", "check"],
        ["eval"],
        ["eval", "run"],
        ["eval", "report"],
        ["eval", "list"],
        ["models"],
    ],
)
def test_help_has_an_example(call: Any, arguments: list[str]) -> None:
    result = call(*arguments, "--help")
    assert result.exit_code == 0
    assert arguments in ([], ["heads"], ["pear"], ["eval"]) or f"headwater {' '.join(arguments)}" in result.stdout


def test_models_are_listed(call: Any) -> None:
    rows = {row["family"]: row for row in json.loads(call("models", "--json").stdout)}
    assert rows["llama"] == {
        "family": "llama", "attention_rows": "yes", "head_outputs": "yes", "fold": "yes", "note": None
    }  # fmt: skip
    assert rows["bloom"]["attention_rows"] == "slow"
    assert "Mamba" in rows["jamba"]["note"]
    shown = call("models").stdout
    assert all(name in shown for name in rows)


def test_version(call: Any) -> None:
    assert call("--version").stdout.startswith("headwater ")


def test_help_does_not_load_torch() -> None:
    code = "import sys, headwater.cli.main; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rank_a_folder(call: Any, notes: Path, model_folder: str) -> None:
    result = call("rank", "capital of Algeria", "--docs", notes, "--model", model_folder, "--heads", "all", "--json")
    assert result.exit_code == 0, result.stderr
    ranking = json.loads(result.stdout)["ranking"]
    assert [entry["rank"] for entry in ranking] == [1, 2]
    assert {entry["id"] for entry in ranking} == {"algeria.txt", "france.md"}
    assert ranking[0]["score"] >= ranking[1]["score"]
    assert "1 x .png" in result.stderr
    table = call("rank", "capital", "--docs", notes, "--model", model_folder, "--heads", "0-1,2-3", "--quiet", "-k", 1)
    assert table.exit_code == 0
    assert "png" not in table.stderr
    assert len(table.stdout.strip().splitlines()) == 2


def test_rank_with_switches(call: Any, notes: Path, model_folder: str) -> None:
    arguments = ["rank", "capital", "--docs", notes, "--model", model_folder, "--heads", "0-1,2-3", "--json"]
    plain = json.loads(call(*arguments).stdout)
    assert plain["order"] == ["reversed"]
    assert plain["settings"]["tail"] == "full"
    more = ["--order", "given", "--order", "shuffled", "--seed", 3, "--tail", "query", "--null-query", "none"]
    result = call(*arguments, *more, "--max-doc-tokens", 20)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["order"] == ["given", "shuffled"]
    assert (found["settings"]["tail"], found["settings"]["null_query"]) == ("query", "none")
    assert found["shortened"] == 2
    assert {r["id"]: r["score"] for r in found["ranking"]} != {r["id"]: r["score"] for r in plain["ranking"]}
    again = json.loads(call(*arguments, *more, "--max-doc-tokens", 20).stdout)
    assert again["ranking"] == found["ranking"]


def test_rank_lines_of_standard_input(call: Any, model_folder: str) -> None:
    lines = '{"text": "Algiers", "id": "dz"}\n{"text": "", "id": "empty"}\n'
    result = call("rank", "capital", "--model", model_folder, "--heads", "0-0", "--json", stdin=lines)
    assert result.exit_code == 0, result.stderr
    ranking = json.loads(result.stdout)["ranking"]
    assert [(entry["id"], entry["score"] is None) for entry in ranking] == [("dz", False), ("empty", True)]


def test_control_characters_do_not_reach_the_terminal(call: Any, model_folder: str) -> None:
    result = call("rank", "q", "--model", model_folder, "--heads", "1-1", stdin="one \x1b]0;pwned\x07 text\n")
    assert result.exit_code == 0, result.stderr
    assert "pwned" in result.stdout
    assert "\x1b" not in result.stdout


def test_every_detector_can_be_asked_for(call: Any, tmp_path: Path, model_folder: str) -> None:
    result = call("heads", "find", "--method", "odd", "--model", model_folder, "-o", tmp_path / "r.json")
    assert all(name in result.stderr for name in DETECTORS)
    found = call("heads", "find", "--method", "random", "--model", model_folder, "-o", tmp_path / "r.json", "-k", 3)
    assert found.exit_code == 0, found.stderr
    assert HeadSet.load(tmp_path / "r.json").provenance["method"] == "RandomHeads"


def test_ask(call: Any, notes: Path, model_folder: str) -> None:
    result = call("ask", "capital?", "--docs", notes, "--model", model_folder, "--heads", "all", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["supported"] is bool(answer["citations"])
    assert [entry["read"] for entry in answer["ranking"]] == [True, True]
    plain = call("ask", "capital?", "--docs", notes, "--model", model_folder, "--heads", "all")
    assert plain.exit_code == 0
    assert plain.stdout.strip()


def test_find_and_show_heads(call: Any, tmp_path: Path, model_folder: str) -> None:
    examples = tmp_path / "examples.jsonl"
    documents = ["Algiers is the capital.", "The sea is cold.", "Nothing here."]
    record = {"query": "capital?", "documents": documents, "relevant": [0]}
    examples.write_text(json.dumps(record), encoding="utf-8")
    path = tmp_path / "new" / "set.json"
    found = call("heads", "find", "--model", model_folder, "--examples", examples, "--top-k", 3, "--output", path)
    assert found.exit_code == 0, found.stderr
    heads = HeadSet.load(path)
    assert len(heads) == 3
    assert heads.scores is not None
    shown = call("heads", "show", path, "--plot", tmp_path / "map.png")
    assert shown.exit_code == 0, shown.stderr
    assert all(f"{layer}-{head}" in shown.stdout for layer, head in heads.heads)
    assert shown.stdout.count("[") == 3
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(call("heads", "show", path, "--json", "--top-k", 1).stdout)
    assert record["heads"] == [list(heads.heads[0])]
    # The file is what rank takes.
    ranked = call("rank", "x", "--model", model_folder, "--heads", path, "--json", stdin="a\nb\n")
    assert json.loads(ranked.stdout)["heads"] == [list(head) for head in heads.heads]


def test_bare_lists_have_no_map(call: Any, tmp_path: Path) -> None:
    HeadSet([(0, 1)]).save(tmp_path / "bare.json")
    assert call("heads", "show", tmp_path / "bare.json").exit_code == 0
    result = call("heads", "show", tmp_path / "bare.json", "--plot", tmp_path / "map.png")
    assert result.exit_code == 2
    assert "without scores" in result.stderr
