"""The demo and the main experiment end to end on a random model, small, with the network blocked."""

import json
import socket
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headwater as hw
from headwater.data import world
from headwater.evaluate import demo, long_job, main_job
from headwater.evaluate.questions import head_scorer
from headwater.headset import HeadSet
from headwater.rank.qr import QRRetriever


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_demo(call: Any, tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EXAMPLES", 3)
    monkeypatch.setattr(demo, "RANDOM_SETS", 2)
    monkeypatch.setattr(demo, "SHOWN", 2)
    run = call("demo", "--output", tmp_path / "out", "--model", model_folder, "--questions", 3)
    assert run.exit_code == 0, run.stderr
    for expected in ("Query-focused heads", "all heads", "BM25", "random heads", "right", "report.html"):
        assert expected in run.stdout
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["ranking"]["n"] == result["reading"]["n"] == 3
    assert len(result["questions"]) == 2
    assert result["made"]["versions"]["headwater"] == hw.__version__
    by_id = {document.id: document for document in world.documents("held_out")}
    for question in result["questions"]:
        assert all(any(entry["gold"] for entry in entries) for entries in question["rankings"].values())
        for citation in question["answer"]["citations"]:
            text = by_id[citation["document_id"]].text
            assert text[citation["start"] : citation["end"]] == citation["quote"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(question["text"].split()[0] in page for question in result["questions"])


PAGE = "# Main\n\n<!-- begin: ranking -->\nold\n<!-- end: ranking -->\n\n<!-- begin: made -->\n<!-- end: made -->\n"


def test_eval_run_resumes_and_fills_its_page(call: Any, tmp_path: Path, model_folder: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(main_job.Settings.__init__, "__defaults__", (4, 4, 3, 20, 5, 2, None, 0))
    page = tmp_path / "main.md"
    page.write_text(PAGE, encoding="utf-8")
    output = tmp_path / "run"
    arguments = ["eval", "run", "--suite", "main", "--output", output, "--model", model_folder, "--questions", 4]
    first = call(*arguments, "--page", page)
    assert first.exit_code == 0, first.stderr
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert "| QR heads |" in text
    assert f"headwater eval run --suite main --output {output}" in text  # what was typed
    lines = (output / "ranking.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 4
    before = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    # A run killed while it wrote its third line goes on from there to the same numbers.
    (output / "ranking.jsonl").write_text("".join(lines[:2]) + lines[2][:50], encoding="utf-8")
    (output / "reading.jsonl").unlink()
    (output / "summary.json").unlink()
    second = call(*arguments, "--json")
    assert second.exit_code == 0, second.stderr
    after = json.loads(second.stdout)
    assert (after["ranking"], after["reading"]) == (before["ranking"], before["reading"])
    assert (output / "ranking.jsonl").read_text(encoding="utf-8").splitlines(keepends=True) == lines
    other = call(*arguments, "--seed", 1)
    assert other.exit_code == 2
    assert "seed=0" in other.stderr


def test_one_pass_for_all_sets_equals_one_ranker_per_set(model_folder: str) -> None:
    lm = hw.load(model_folder)
    example = world.ranking_examples("held_out", 1)[0]
    sets = {"two": HeadSet([(2, 1), (0, 3)]), "all": HeadSet(lm.anatomy.all_heads)}
    together = head_scorer(lm, sets)(example.query, list(example.documents))  # type: ignore[arg-type]
    for name, heads in sets.items():
        np.testing.assert_allclose(
            together[name], QRRetriever(lm, heads).score(example.query, example.documents), atol=1e-7
        )


def test_long_texts_with_a_smaller_model_fill_their_page(
    call: Any, tmp_path: Path, model_folder: str, monkeypatch: Any
) -> None:
    few = {
        "lengths": (1500,),
        "kept": (1,),
        "control_kept": (1,),
        "near": 5,
        "examples": 2,
        "candidates": 3,
        "random_sets": 1,
        "costed": 1,
    }
    monkeypatch.setattr(long_job, "Settings", partial(long_job.Settings, **few))
    monkeypatch.setattr(long_job, "Reader", partial(long_job.Reader, max_new_tokens=1))
    page = tmp_path / "page.md"
    page.write_text("<!-- begin: long_recall -->\n<!-- end: long_recall -->\n", encoding="utf-8")
    arguments = ["eval", "run", "--suite", "long", "--model", model_folder, "--scorer", model_folder, "--questions", 2]
    run = call(*arguments, "--top-k", 2, "--output", tmp_path / "run", "--page", page)
    assert run.exit_code == 0, run.stderr
    assert "| QR heads of the smaller model |" in page.read_text(encoding="utf-8")
    assert "| full context |" in run.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["config"]["scorer"] == model_folder
    assert summary["heads"]["QR heads"].count("-") == 2


def test_shuffled_labels_keep_everything_else() -> None:
    examples = world.ranking_examples("development", 40)
    shuffled = main_job.shuffle_labels(examples, seed=0)
    assert [e.query for e in shuffled] == [e.query for e in examples]
    assert all(sum(e.grades()) == 1 for e in shuffled)
    assert sum(a.grades() == b.grades() for a, b in zip(examples, shuffled, strict=True)) < 10


def test_a_benchmark_and_its_report(call: Any, tmp_path: Path, model_folder: str) -> None:
    listed = call("eval", "list")
    assert listed.exit_code == 0, listed.stderr
    assert "- dl19" in listed.stdout
    assert "  world-ranking" in listed.stdout
    folder = tmp_path / "run"
    arguments = [
        "eval",
        "run",
        "--task",
        "world-gold-1",
        "--task",
        "world-agreement",
        "--limit",
        3,
        "--model",
        model_folder,
    ]
    arguments += ["--method", "read", "--method", "no-context", "--output", folder]
    run = call(*arguments)
    assert run.exit_code == 0, run.stderr
    assert "world-gold-1" in run.stdout
    assert f"headwater eval report {folder}" in run.stderr
    summary = json.loads(call(*arguments, "--json").stdout)
    assert summary["tasks"]["world-agreement"]["n"] == 3
    written = call("eval", "report", folder)
    assert written.exit_code == 0, written.stderr
    paths = [Path(line) for line in written.stdout.splitlines()]
    assert {path.suffix for path in paths} == {".html", ".md", ".tex", ".csv", ".png", ".svg"}
    assert all(path.stat().st_size for path in paths)
    config = tmp_path / "bench.yaml"
    config.write_text(f"model: {model_folder}\ntasks: [world-gold-1]\nmethods: [read]\nlimit: 2\n", encoding="utf-8")
    again = call("eval", "run", "--config", config, "--output", tmp_path / "other")
    assert again.exit_code == 0, again.stderr
