"""The page that compares systems: whole, escaped, holding wins and losses; bad folders are refused."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench_run
from headwater.errors import FormatError, InputError
from headwater.evaluate.bench.records import (
    Record,
    file_stem,
    grid,
    read_items,
    read_records,
    read_summary,
    wins_and_losses,
)
from headwater.evaluate.bench.report import write_bench_report


class Page(HTMLParser):
    """Collects tags, checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.linked += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench_run.write(tmp_path_factory.mktemp("run"), bench_run.summary())


@pytest.fixture(scope="module")
def written(run: Path) -> list[Path]:
    return write_bench_report(run)


def test_every_file_is_there(run: Path, written: list[Path]) -> None:
    assert all(path.stat().st_size for path in written)
    names = {str(path.relative_to(run)) for path in written}
    assert {"report.html", "tables.md", "tables.tex", "tables.csv"} <= names
    for stem in ("world-comparison", "world-difference-to-bm25", "position_10-comparison", "position_10-by-position"):
        assert {f"plots/{stem}.png", f"plots/{stem}.svg"} <= names


def test_the_page_is_whole_escaped_and_asks_nothing_of_a_network(written: list[Path]) -> None:
    text = written[0].read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.seen
    assert {"svg", "table", "details", "nav"} <= page.seen
    assert all(link.startswith(("#", "data:")) for link in page.linked)
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "&lt;script&gt;" in text
    identifiers = re.findall(r'\bid=["\']([^"\']+)["\']', text)
    assert len(identifiers) == len(set(identifiers))
    assert {link[1:] for link in page.linked if link.startswith("#")} <= set(identifiers)


def test_what_the_run_holds_stands_on_the_page(written: list[Path]) -> None:
    text = written[0].read_text(encoding="utf-8")
    for expected in (
        "qr has the best nDCG@10, 0.913.",
        "not resolved",
        "qr against bm25: wins and losses",
        "qr: nDCG@10 1.000",
        "random-heads: nDCG@10 0.250 (mean of 2 seeds, the first shown)",
        "Places of the relevant documents above: 3, of 3.",
        "The run holds no outputs of my_heads &amp; co 50%.",
        "no model was given",
        "Only read was measured",
        "heads 2-1, 3-0",
    ):
        assert expected in text
    assert text.index("Query 0") < text.index("Query 1"), "the largest gain first"
    assert "Query 6" not in text, "without a score of the baseline there is no difference"


def test_seeds_are_averaged(run: Path) -> None:
    records = read_records(run, "world", "random-heads", [0, 1], "nDCG@10")
    assert (records["q0"].score, records["q0"].seeds, records["q2"].score) == (0.25, 2, 1.0)
    failed = read_records(run, "world", "bm25", [], "nDCG@10")["q6"]
    assert failed.score is None
    assert failed.said["error"] == "the prompt is too long"
    assert read_records(run, "world", "unknown", [], "nDCG@10") == {}
    assert read_items(run, "unknown") == {}
    assert file_stem("dense:a/b c", 3) == "dense-a-b-c-seed3"


def test_wins_and_losses() -> None:
    def records(*scores: float | None) -> dict[str, Record]:
        return {str(i): Record(score, {}) for i, score in enumerate(scores)}

    first, second = records(1.0, 0.2, None, 0.5, 0.9, 0.0), records(0.5, 0.5, 0.0, 0.5, 0.1)
    wins, losses = wins_and_losses(first, second)
    assert [(case.id, pytest.approx(case.gain)) for case in wins] == [("4", 0.8), ("0", 0.5)]
    assert [(case.id, pytest.approx(case.gain)) for case in losses] == [("1", -0.3)]
    flipped = wins_and_losses(first, second, less_is_better=True)
    assert [[case.id for case in cases] for cases in flipped] == [["1"], ["4", "0"]]
    assert [case.id for case in wins_and_losses(first, second, count=1)[0]] == ["4"]
    assert wins_and_losses(first, first) == ([], [])


def test_no_wins_and_a_failure_are_said(tmp_path: Path) -> None:
    summary = bench_run.summary()
    del summary["tasks"]["world"]["systems"][bench_run.ODD]
    folder = bench_run.write(tmp_path, summary)
    queries = folder / "queries" / "world"
    lines = [json.loads(line) for line in (queries / "bm25.jsonl").read_text().splitlines()[:6]]
    (queries / "qr.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines[0] |= {"scores": {"nDCG@10": 0.0}, "output": None, "shown": [], "error": "too long <b>"}
    (queries / "random-heads-seed0.jsonl").write_text(json.dumps(lines[0]) + "\n")
    (queries / "random-heads-seed1.jsonl").unlink()
    text = write_bench_report(folder)[0].read_text(encoding="utf-8")
    assert "There is no query on which qr is better than bm25." in text
    assert "There is no query on which qr is worse than bm25." in text
    assert "Failed: too long &lt;b&gt;" in text


@pytest.mark.parametrize(
    ("kind", "output", "said"),
    [
        ("reading", "Paris <i>", "<p>Paris &lt;i&gt;</p>"),
        ("reading", "", "(nothing)"),
        ("choice", [-1.25, -3.5], "log probabilities -1.250, -3.500"),
        ("text", [1234.5, 300, 1500], "1,234.5 nats, 300 tokens, 1,500 bytes"),
        ("other", {"a": [1, 2]}, "<p>a 1, 2</p>"),
    ],
)
def test_outputs_of_every_kind(kind: str, output: Any, said: str, tmp_path: Path) -> None:
    summary = bench_run.summary()
    summary["tasks"] = {"world": summary["tasks"]["world"] | {"kind": kind}}
    folder = bench_run.write(tmp_path, summary)
    for name, score in (("qr", 1.0), ("bm25", 0.5)):
        line = json.dumps({"id": "q0", "scores": {"nDCG@10": score}, "output": output})
        (folder / "queries" / "world" / f"{name}.jsonl").write_text(line + "\n")
    (folder / "queries" / "world" / "random-heads-seed0.jsonl").unlink()
    (folder / "queries" / "world" / "random-heads-seed1.jsonl").unlink()
    text = write_bench_report(folder)[0].read_text(encoding="utf-8")
    assert said in text
    assert ("Expected: that no answer is given." in text) == (kind == "reading")


def test_two_facets_make_a_grid(tmp_path: Path) -> None:
    items = {
        str(i): {"id": str(i), "facets": {"length": str(length), "depth": depth}}
        for i, (length, depth) in enumerate([(1024, "0"), (512, "0"), (512, "0.5"), (512, "0.5")])
    }
    records = {name: Record(score, {}) for name, score in (("0", 0.0), ("1", 1.0), ("2", 1.0), ("3", 0.5))}
    rows, columns, means = grid(records, items, ("length", "depth"))
    assert (rows, columns) == (["512", "1024"], ["0", "0.5"])
    np.testing.assert_array_equal(means, [[1.0, 0.75], [0.0, np.nan]])
    summary = bench_run.summary()
    lengths, depths = {"512": {"mean": 0.8}, "1024": {"mean": 0.0}}, {"0": {"mean": 0.5}, "0.5": {"mean": 1}}
    summary["tasks"] = {"needle": summary["tasks"]["position_10"]}
    summary["tasks"]["needle"]["systems"]["read"]["facets"] = {"length": lengths, "depth": depths}
    bench_run.write(tmp_path, summary)
    for folder, lines in (("items", items.values()), ("queries/needle", [{"id": "1", "scores": {"EM": 1.0}}])):
        (tmp_path / folder).mkdir(exist_ok=True)
        name = "needle.jsonl" if folder == "items" else "read.jsonl"
        (tmp_path / folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tmp_path / "plots" / "needle-by-length-and-depth.png" in write_bench_report(tmp_path)


def test_many_tasks_and_systems_stay_one_page(tmp_path: Path) -> None:
    row = bench_run.system({"EM": 0.5})
    systems = {f"system-{i}": row for i in range(10)}
    task = {"kind": "reading", "n": 1, "groups": 1, "metrics": ["EM"], "systems": systems}
    tasks = {f"task {i}": task for i in range(3)}
    summary = {"made": {"model": "m"}, "tasks": tasks, "config": {"baselines": ["system-0"]}}
    steps: list[tuple[int, int]] = []
    bench_run.write(tmp_path, summary)
    text = write_bench_report(tmp_path, lambda done, total: steps.append((done, total)))[0].read_text(encoding="utf-8")
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [f"href='#task-{i}'" in text for i in (1, 2, 3, 4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ('{"tasks": {}}', "'made' is missing"),
        ('{"made": {}, "tasks": {"a": 1}}', "'a' is not an object"),
        ('{"made": {}, "tasks": {"a": {"metrics": []}}}', "'a' names no metrics"),
        ('{"made": {}, "tasks": {"a": {"metrics": ["EM"]}}}', "'a' has no systems"),
        ('{"made": {}, "tasks": {"a": {"metrics": ["EM"], "systems": {"b": {}}}}}', "'b' of the task 'a'"),
        ('{"made": {}, "tasks": {"a": {"metrics": ["EM"], "systems": {}, "differences": [{}]}}}', "a difference"),
        ('{"made": {}, "tasks": {}, "not_run": [1]}', "an entry of 'not_run'"),
    ],
)
def test_bad_summaries(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=reason):
        read_summary(tmp_path)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no summary\.json"):
        write_bench_report(tmp_path / "nowhere")
    folder = bench_run.write(tmp_path / "run", bench_run.summary())
    (folder / "queries" / "world" / "qr.jsonl").write_text('{"id": "q0"}\n{"id": 1}\n')
    with pytest.raises(FormatError, match=r"qr\.jsonl, line 2: a query needs an id"):
        write_bench_report(folder)
    (folder / "queries" / "world" / "qr.jsonl").write_text("{\n")
    with pytest.raises(FormatError, match=r"qr\.jsonl, line 1: not valid JSON"):
        write_bench_report(folder)
