"""`heads compare`, `heads stability` and `heads explore` from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.evaluate import explorer
from headwater.headset import HeadScores, HeadSet


@pytest.fixture
def scored(tmp_path: Path) -> list[Path]:
    """Two sets with scores of the shape of the random model, 3 layers x 4 heads."""
    draw = np.random.default_rng(0)
    first = draw.normal(size=(3, 4))
    second = first + 0.1 * draw.normal(size=(3, 4))
    second[0, 0] = np.nan
    return [
        HeadScores(grid, {"model": name, "shape": [3, 4, 2]}).top(4).save(tmp_path / f"{name}.json")
        for name, grid in (("one", first), ("two", second))
    ]


def test_compare_sets_with_scores(call: Any, scored: list[Path], tmp_path: Path) -> None:
    shown = call("heads", "compare", *scored, "--plot", tmp_path / "maps.png")
    assert shown.exit_code == 0, shown.stderr
    assert "one and two" in shown.stdout
    assert "by chance" in shown.stdout
    assert "Spearman of all scores, one and two: 0." in shown.stdout
    assert "In both lists (" in shown.stdout
    assert "different models: one, two" in shown.stderr
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(call("heads", "compare", *scored, "-k", 2, "-k", 6, "--json", "--quiet").stdout)
    assert [row["k"] for row in record["overlaps"]] == [2, 6, None]
    assert record["shape"] == [3, 4]
    assert record["overlaps"][0]["chance"]["total"] == 12
    assert set(record["sets"]) == {"one", "two"}


def test_compare_published_lists_and_foreign_files(call: Any, tmp_path: Path) -> None:
    names = [f"llama-3.1-8b-instruct/{kind}" for kind in ("qr-lme", "qr-nq", "core")]
    shown = call("heads", "compare", *names)
    assert shown.exit_code == 0, shown.stderr
    assert "qr-lme and core" in shown.stdout
    assert "13" in shown.stdout
    assert "In all lists" in shown.stdout
    (tmp_path / "q.yaml").write_text('attn_head_set: "13-18,13-21"\nmodel_name_or_path: x\n')
    (tmp_path / "full_attention_heads.tsv").write_text("0.1\t0.9\n" * 32)
    bare = call("heads", "compare", tmp_path / "q.yaml", "13-18,2-2,3-1", "--json")
    assert json.loads(bare.stdout)["overlaps"][-1]["shared"] == [[13, 18]]
    assert json.loads(bare.stdout)["shape"] is None
    assert "--shape 32x32" in call("heads", "compare", tmp_path / "q.yaml", "13-18,2-2").stdout
    told = call("heads", "compare", tmp_path / "q.yaml", "13-18,2-2", "--shape", "32x32", "--json")
    assert json.loads(told.stdout)["overlaps"][0]["chance"]["total"] == 1024
    duo = call("heads", "compare", tmp_path, "2-2,13-18", "--query-heads", 32, "--json")
    assert json.loads(duo.stdout)["shape"] == [32, 32]
    same = call("heads", "compare", tmp_path / "q.yaml", tmp_path / "q.yaml", "--json")
    assert len(json.loads(same.stdout)["sets"]) == 2


def write_examples(path: Path, count: int) -> Path:
    lines = [
        {
            "query": f"What is number {i}?",
            "documents": [f"Number {i} is here.", f"Something else {i}.", "A third text."],
            "relevant": [0],
            "group": f"g{i // 2}",
        }
        for i in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_stability(call: Any, tmp_path: Path, model_folder: str) -> None:
    examples = write_examples(tmp_path / "e.jsonl", 10)
    arguments = ["heads", "stability", "--model", model_folder, "--examples", examples, "-k", 3, "--seeds", 2]
    shown = call(*arguments, "--plot", tmp_path / "new" / "curve.svg")
    assert shown.exit_code == 0, shown.stderr
    assert "from 10 examples in 5 groups" in shown.stdout
    assert "halves of the examples that share no group" in shown.stdout
    assert "3 disjoint sets" in shown.stdout
    assert "2 seeds, same examples" in shown.stdout
    assert "by chance, two sets of this size" in shown.stdout
    assert "0.9 at which a set counts as settled" in shown.stdout
    assert (tmp_path / "new" / "curve.svg").exists()
    record = json.loads(call(*arguments, "--json", "--quiet", "--method", "contrastive").stdout)
    assert (record["method"], record["k"], record["examples"], record["groups"]) == ("contrastive", 3, 10, 5)
    assert [point["n"] for point in record["curve"]] == [1, 2, 4, 8]
    assert record["curve"][-1]["between"] is None
    assert record["seeds"]["pairs"] == 1


def test_explore(call: Any, tmp_path: Path, notes: Path, model_folder: str) -> None:
    own = HeadSet([(1, 1), (0, 2)]).save(tmp_path / "own.json")
    page = tmp_path / "new" / "page.html"
    common = ["heads", "explore", "capital of Algeria", "--docs", notes, "--model", model_folder]
    written = call(*common, "--heads", own, "--heads", "2-3", "--gold", "algeria.txt", "--output", page)
    assert written.exit_code == 0, written.stderr
    assert f"Page: {page}" in written.stdout
    assert "12 of 12 heads" in written.stderr
    text = page.read_text(encoding="utf-8")
    assert "<h3>Head 1-1</h3>" in text
    assert "Its own ranking puts the gold document at place" in text
    assert "headwater heads explore" in text
    assert text.count('type="radio"') == 2


def test_explore_looks_as_the_heads_were_found(
    call: Any, tmp_path: Path, notes: Path, model_folder: str, monkeypatch: Any
) -> None:
    made = {"settings": {"settings": {"tail": "query", "null_query": "nothing"}}}
    own = HeadSet([(1, 1), (0, 2)], provenance=made).save(tmp_path / "own.json")
    page = tmp_path / "page.html"
    seen = []
    draw = explorer.explorer

    def spy(lm: Any, sets: Any, questions: Any, settings: Any) -> Any:
        seen.append(settings)
        return draw(lm, sets, questions, settings)

    monkeypatch.setattr(explorer, "explorer", spy)
    common = ["heads", "explore", "capital of Algeria", "--docs", notes, "--model", model_folder, "--output", page]
    alone = call(*common, "--heads", own)
    assert alone.exit_code == 0, alone.stderr
    assert (seen[0].tail, seen[0].null_query) == ("query", "nothing")
    assert "other switches" not in alone.stderr
    assert "2-3 was found with other switches" in call(*common, "--heads", own, "--heads", "2-3").stderr


def test_the_embedded_model_needs_no_head_set(call: Any, notes: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert call("heads", "explore", "capital of Algeria", "--docs", notes, "-o", page).exit_code == 0
    assert "query-focused" in page.read_text(encoding="utf-8")
