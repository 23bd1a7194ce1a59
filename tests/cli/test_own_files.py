"""One's own files from the command line: index, ask, rank a run again."""

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.headset import HeadSet


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    return HeadSet([(0, 1), (1, 2)]).save(tmp_path / "heads.json")


def test_an_index_from_start_to_end(call: Any, notes: Path, tmp_path: Path) -> None:
    index = tmp_path / "ix"
    added = call("index", "add", notes, "--index", index)
    assert added.exit_code == 0, added.stderr
    assert "2 files read, 0 as before; documents: 2 new." in added.stdout
    assert "1 x .png" in added.stderr
    assert (
        "0 files read, 2 as before; documents: nothing to do." in call("index", "add", notes, "--index", index).stdout
    )
    (hit,) = json.loads(call("index", "search", "Algeria", "--index", index, "--json").stdout)
    assert (hit["rank"], hit["id"], hit["start"]) == (1, "algeria.txt", 0)
    assert "france.md" in call("index", "search", "Paris", "--index", index).stdout
    assert "No word" in call("index", "search", "xyzzy", "--index", index).stderr
    info = json.loads(call("index", "info", "--index", index, "--json").stdout)
    assert (info["documents"], info["files"], info["embedder"]) == (2, 2, None)
    assert "2, at most 1000 characters" in call("index", "info", "--index", index).stdout
    assert "1 of 2 documents deleted" in call("index", "delete", "france.md", "none", "--index", index).stdout


def test_ask_indexes_once_and_then_what_changed(call: Any, notes: Path, model_folder: str, heads: Path) -> None:
    common = ["--docs", notes, "--model", model_folder, "--heads", heads]
    first = call("ask", "What is the capital of Algeria?", *common, "--json")
    assert first.exit_code == 0, first.stderr
    assert "2 files read" in first.stderr
    record = json.loads(first.stdout)
    assert {place["id"] for place in record["ranking"]} == {"algeria.txt", "france.md"}
    assert 0 <= record["confidence"] <= 1
    for citation in record["citations"]:
        text = (notes / citation["document_id"]).read_text(encoding="utf-8")
        assert text[citation["start"] : citation["end"]] == citation["quote"]
    assert "files read" not in call("ask", "What is the capital of Algeria?", *common, "--json").stderr
    (notes / "peru.txt").write_text("Lima is the capital of Peru.")
    again = call("ask", "What is the capital of Peru?", *common, "--json")
    assert "1 files read, 2 as before" in again.stderr
    assert "peru.txt" in {place["id"] for place in json.loads(again.stdout)["ranking"]}
    nothing = call("ask", "xyzzy?", *common)
    assert nothing.exit_code == 0
    assert "Not supported by the documents." in nothing.stdout


def test_ask_with_an_index_and_another_ranker(
    call: Any, notes: Path, tmp_path: Path, model_folder: str, heads: Path
) -> None:
    index = tmp_path / "ix"
    call("index", "add", notes, "--index", index)
    asked = call(
        "ask", "capital of France?", "--index", index, "--model", "tiny", "--ranker-model", model_folder,
        "--heads", heads, "--support", 0, "--json",
    )  # fmt: skip
    assert asked.exit_code == 0, asked.stderr
    assert json.loads(asked.stdout)["model"] == "tiny"


def write_run(tmp_path: Path) -> list[object]:
    documents = [{"_id": f"d{i}", "text": f"Document {i} of the lot."} for i in range(6)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "queries.tsv").write_text("q1\twhich one?\nq2\tthe other?\n")
    run = [f"{q} Q0 d{i} {i + 1} {10 - i} bm25" for q in ("q1", "q2") for i in range(5)]
    (tmp_path / "run.trec").write_text("\n".join(run))
    names = ("--run", "run.trec", "--queries", "queries.tsv", "--docs", "corpus.jsonl")
    return [tmp_path / name if name[0] != "-" else name for name in names]


def test_a_trec_run_is_ranked_again_and_resumes(call: Any, tmp_path: Path, model_folder: str, heads: Path) -> None:
    files = write_run(tmp_path)
    output = tmp_path / "ranked.trec"
    arguments = ["rank", *files, "--output", output, "--depth", 4, "--model", model_folder, "--heads", heads]
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in output.read_text().splitlines()]
    assert [line[0] for line in lines] == ["q1"] * 4 + ["q2"] * 4
    assert sorted(line[2] for line in lines[:4]) == ["d0", "d1", "d2", "d3"]
    scores = [float(line[4]) for line in lines[:4]]
    assert scores == sorted(scores, reverse=True)
    whole = output.read_text()
    assert not (tmp_path / "ranked.trec.part.jsonl").exists()
    made = json.loads((tmp_path / "ranked.trec.json").read_text())
    assert (made["depth"], made["heads"], made["strategies"]) == (4, [[0, 1], [1, 2]], {"one prompt": 2})
    assert (made["settings"]["null_query"], made["order"], made["overflow"]) == ("N/A", ["reversed"], "tournament")
    assert made["made"]["command"].startswith("headwater rank --run")
    assert made["made"]["model"] == model_folder
    first = [[line[2], float(line[4])] for line in lines[:4]]
    part = {"id": "q1", "of": ["d0", "d1", "d2", "d3"], "ranked": first}
    (tmp_path / "ranked.trec.part.jsonl").write_text(json.dumps(part) + '\n{"id": "q2", "of"')
    output.unlink()
    assert call(*arguments).exit_code == 0
    (tmp_path / "ranked.trec.part.json").write_text('{"model": "another"}')
    other = call(*arguments)
    assert other.exit_code == 2
    assert "delete this one" in other.stderr
    (tmp_path / "ranked.trec.part.json").unlink()
    assert output.read_text() == whole
    corpus = tmp_path / "corpus.jsonl"
    text = corpus.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headwater.rank.qr.QRRetriever.rank", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        call(*arguments)
    assert (tmp_path / "ranked.trec.part.json").exists()
    corpus.write_text(text.replace(json.loads(text.splitlines()[0])["text"], "something else"))
    changed = call(*arguments)
    assert changed.exit_code == 2
    assert "documents=" in changed.stderr
    corpus.write_text(text)
    assert call(*arguments).exit_code == 0
    assert output.read_text() == whole
    plan = json.loads(call(*arguments, "--dry-run", "--json").stdout)
    assert plan["documents"] == 4
    assert plan["fits"] is True


def test_a_list_that_does_not_fit_says_how_it_was_ranked(
    call: Any, tmp_path: Path, model_folder: str, heads: Path
) -> None:
    lines = "\n".join(f"document {i} " + "with many words " * 40 for i in range(20))
    common = ["rank", "which?", "--model", model_folder, "--heads", heads]
    record = json.loads(call(*common, "--json", stdin=lines).stdout)
    assert record["strategy"] == "tournament"
    assert record["windows"] > 1
    assert len(record["ranking"]) == 20
    assert "ranked by slide in" in call(*common, "--overflow", "slide", stdin=lines).stderr
    assert "were shortened" in call(*common, "--overflow", "truncate", stdin=lines).stderr
    refused = call(*common, "--overflow", "raise", stdin=lines)
    assert (refused.exit_code, "8,192" in refused.stderr) == (2, True)
    plan = call(*common, "--dry-run", stdin=lines).stdout
    assert "fits one prompt  no" in plan
    assert "keys and values" in plan


def test_published_and_foreign_head_sets(call: Any, tmp_path: Path) -> None:
    rows = json.loads(call("heads", "published", "--json").stdout)
    assert len(rows) == 22
    assert "llama-3.1-8b-instruct/qr-nq" in call("heads", "published").stdout
    assert "14-22" in call("heads", "show", "llama-3.1-8b-instruct/qr-nq").stdout
    (tmp_path / "full_attention_heads.tsv").write_text("0.1\t0.9\n0.2\t0.3\n")
    path = tmp_path / "duo.json"
    shown = call("heads", "show", tmp_path, "--query-heads", 4, "--top-k", 2, "--output", path)
    assert shown.exit_code == 0, shown.stderr
    assert HeadSet.load(path).heads == [(0, 2), (0, 3)]
