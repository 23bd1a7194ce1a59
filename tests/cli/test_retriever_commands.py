"""From texts to a dense index: mine, tune, embed, index, search and ask, on a random model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headwater.cli.options as options
from headwater.adapt.contrastive_data import training_queries
from headwater.adapt.contrastive_loss import Lists
from headwater.data.formats import read_examples
from headwater.model.lm import TINY
from headwater.rank.qr import QRRetriever
from headwater.search.embedder import Embedder
from headwater.search.mine import document_keys
from headwater.search.shards import read_vectors


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    rows = [
        {"query": f"{name}?", "documents": [f"{name} one", f"{name} two", "the rest"], "relevant": [0], "id": name}
        for name in ("ant", "bee", "cow", "dog")
    ]
    path = tmp_path / "examples.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_from_examples_to_an_answer(call: Any, model_folder: str, notes: Path, examples: Path, tmp_path: Path) -> None:
    (notes / "photo.png").unlink()
    mined = ["llara", "mine", "--examples", examples, "--keep", "2", "--output", tmp_path / "mined"]
    dense = ["--source", "bm25", "--source", "dense", "--judge", "dense", "--embedder", model_folder]
    result = call(*mined, *dense, "--json")
    assert result.exit_code == 0, result.stderr
    counts = json.loads(result.stdout)["counts"]
    assert counts["queries"] == 4
    assert counts["candidates"] > 8
    read = read_examples(tmp_path / "mined" / "examples.jsonl")
    hidden = Lists(
        [document_keys(example.documents[0]) for example in read],
        [query.known for query in training_queries(read, None)[0]],
    ).hidden()
    assert not hidden.any(), "the positives of plain documents are not the same for being the first of each list"
    again = call(*mined, *dense)
    assert again.exit_code == 0, again.stderr
    assert "candidates" in again.stdout

    tune = ["llara", "tune", "--model", model_folder, "--examples", tmp_path / "mined", "--development", examples]
    small = ["--steps", "2", "--rank", "2", "--batch", "2", "--chunk", "2", "--dimensions", "16", "--every", "1"]
    result = call(*tune, *small, "--output", tmp_path / "tuned", "--instruction", "Find: ")
    assert result.exit_code == 0, result.stderr
    assert "4 queries, 2 steps of 2" in result.stdout
    assert result.stdout.count("development nDCG@10") == 3
    tuned = tmp_path / "tuned"
    assert Embedder(tuned).instruction == "Find: "

    embed = ["embed", "--docs", notes, "--embedder", tuned, "--dimension", "16", "--output", tmp_path / "v"]
    vectors = call(*embed, "--json")
    assert vectors.exit_code == 0, vectors.stderr
    assert json.loads(vectors.stdout)["rows"] == 2
    found = read_vectors(tmp_path / "v")
    assert found.ids == ["algeria.txt", "france.md"]
    np.testing.assert_allclose(np.linalg.norm(found.array(), axis=1), 1, atol=1e-3)
    (tmp_path / "q.tsv").write_text("q1\tWhere?\n")
    asked = call("embed", "--queries", tmp_path / "q.tsv", "--model", tuned, "--output", tmp_path / "qv")
    assert asked.exit_code == 0, asked.stderr
    assert "1 vectors of 32 dimensions" in asked.stdout

    index = tmp_path / "ix"
    added = call("index", "add", notes, "--index", index, "--embed", tuned)
    assert added.exit_code == 0, added.stderr
    info = json.loads(call("index", "info", "--index", index, "--json").stdout)
    assert (info["embedder"]["name"], info["vector_index"]) == (str(tuned), "exact")
    shown = call("index", "info", "--index", index).stdout
    assert f"{tuned},exact" in "".join(shown.split())  # wrapped where the path is long
    for mode, most in (("dense", 1.0), ("hybrid", 0.1), ("bm25", 9.0)):
        result = call("index", "search", "capital of Algeria", "--index", index, "--mode", mode, "--json")
        assert result.exit_code == 0, result.stderr
        hits = json.loads(result.stdout)
        assert {hit["id"] for hit in hits} == {"algeria.txt", "france.md"}
        assert all(hit["score"] <= most for hit in hits)
    again = call("index", "add", notes, "--index", index)
    assert again.exit_code == 0, again.stderr
    assert "nothing to do" in again.stdout
    few = call("index", "vectors", "--index", index, "--kind", "hnsw")
    assert (few.exit_code, "below 256" in few.stderr) == (2, True)
    assert "every vector" in call("index", "vectors", "--index", index, "--kind", "exact").stdout
    clash = call("index", "add", notes, "--index", index, "--embed", model_folder)
    assert (clash.exit_code, "with the vectors of" in clash.stderr) == (2, True)

    (tmp_path / "empty").mkdir()
    ask = ["ask", "What is the capital of Algeria?", "--model", model_folder, "--heads", "all", "--json"]
    for more in (
        ["--index", index],
        ["--index", index, "--retrieve", "bm25"],
        ["--index", tmp_path / "empty", "--docs", notes],
        ["--index", index, "--docs", notes, "--retrieve", "dense"],
        ["--docs", notes, "--retrieve", "hybrid", "--embedder", tuned],
    ):
        result = call(*ask, *more)
        assert result.exit_code == 0, result.stderr
        assert {row["id"] for row in json.loads(result.stdout)["ranking"]} == {"algeria.txt", "france.md"}


def test_the_model_teaches_itself(
    call: Any, model_folder: str, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "load_ranker", lambda lm, *_, **__: QRRetriever(lm, heads="all"))
    tune = ["llara", "tune", "--model", model_folder, "--examples", examples, "--steps", "1", "--rank", "2"]
    result = call(*tune, "--teacher", "qr", "--distill", "0.5", "--output", tmp_path / "taught", "--json")
    assert result.exit_code == 0, result.stderr
    config = json.loads(result.stdout)["config"]
    assert (config["distill"], config["teacher_temperature"]) == (0.5, 0.01)
    assert config["teacher"].startswith("QRRetriever.score ")
    assert config["fingerprint"] in config["teacher"]
    mined = ["llara", "mine", "--examples", examples, "--judge", "qr", "--model", model_folder]
    result = call(*mined, "--output", tmp_path / "mined", "--json")
    assert result.exit_code == 0, result.stderr
    assert "above qr" in json.loads(result.stdout)["counts"]


@pytest.mark.skipif((TINY / "embedder").is_dir(), reason="the embedded embedder is here")
def test_without_the_embedded_embedder(call: Any, notes: Path, tmp_path: Path) -> None:
    for words in (
        ["index", "add", notes, "--index", tmp_path / "ix", "--embed", "tiny"],
        ["ask", "q", "--docs", notes, "--retrieve", "dense"],
    ):
        result = call(*words)
        assert result.exit_code == 1
        assert "no embedder in this installation" in result.stderr
        assert not (tmp_path / "ix").exists()
