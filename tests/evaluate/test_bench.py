"""The benchmark end to end on a random model: every file, resuming, refusals; and a killed run that goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from beir import write_beir
from headwater.errors import FormatError, InputError, InsufficientMemoryError
from headwater.evaluate.bench import run as bench
from headwater.evaluate.bench.catalogue import FORMS, METHODS, TASKS, Chosen, build_task, method_named
from headwater.evaluate.bench.config import BenchConfig, read_config
from headwater.evaluate.tasks.search import Search
from headwater.evaluate.tasks.task import Task
from headwater.model.lm import LanguageModel
from models import random_lm


class Lm:
    """Loads one random model, and counts how often it was asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, name: str) -> LanguageModel:
        self.asked += 1
        return random_lm(max_position_embeddings=4096, seed=len(name))


TASKS_OF_THE_WORLD: tuple[Any, ...] = (
    {"task": "world-ranking", "n": 6, "candidates": 4},
    {"task": "world-noise", "n": 3},
    {"task": "world-gold-1", "n": 4},
)


def small(**changes: Any) -> BenchConfig:
    methods = ("bm25", "icr", "random-heads", "read", "no-context")
    return BenchConfig(**{"tasks": TASKS_OF_THE_WORLD, "methods": methods, "seeds": (0, 1), **changes})


@pytest.fixture(autouse=True)
def own_heads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    from headwater.evaluate.systems import rankers

    class Few(rankers.QRRetriever):
        def __init__(self, lm: Any, heads: Any = None, **options: Any) -> None:
            super().__init__(lm, heads=[(1, 0), (2, 3)] if heads is None else heads, **options)

    monkeypatch.setattr(rankers, "QRRetriever", Few)


def test_everything_is_written(tmp_path: Path) -> None:
    summary = bench.run(small(), tmp_path, Lm())
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == json.loads(json.dumps(summary))
    ranking = summary["tasks"]["world-ranking"]
    assert list(ranking["systems"]) == ["bm25", "icr", "random-heads"]
    assert ranking["systems"]["random-heads"]["seeds"] == [0, 1]
    assert ranking["systems"]["icr"]["settings"]["heads"] == "all"
    assert ranking["systems"]["icr"]["cost"]["tokens"] > 0
    assert ranking["systems"]["icr"]["cost"]["flops"] > 0
    assert ranking["systems"]["bm25"]["cost"]["tokens"] is None
    assert {row["baseline"] for row in ranking["differences"]} == {"bm25"}
    again = bench.run(small(baselines=("no-context", "icr", "bm25")), tmp_path, Lm())["tasks"]
    pairs = [(row["system"], row["baseline"]) for row in again["world-ranking"]["differences"] if row["metric"] == "RR"]
    assert pairs == [("bm25", "icr"), ("random-heads", "icr"), ("icr", "bm25"), ("random-heads", "bm25")]
    assert {row["baseline"] for row in again["world-gold-1"]["differences"]} == {"no-context"}
    assert all(row["p_holm"] >= row["p"] for row in ranking["differences"])
    noise = summary["tasks"]["world-noise"]
    assert (noise["n"], list(noise["systems"])) == (3, ["read", "no-context"])  # six items, three of them scored
    assert "right alone" in noise["systems"]["read"]["finish"]
    assert {row["system"] for row in summary["not_run"]} == {"dense", "cross-encoder"}
    lines = (tmp_path / "queries/world-ranking/random-heads-seed1.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == 6
    assert all(len(record["output"]) == 4 and len(record["shown"]) == 3 for record in records)
    run = (tmp_path / "runs/world-ranking/icr.trec").read_text(encoding="utf-8").splitlines()
    assert len(run) == 24
    assert run[0].split()[3:5] == ["1", "4"]
    assert read_config(tmp_path / "config.yaml") == small(baselines=("no-context", "icr", "bm25"))


def test_a_run_scored_again_has_the_same_figures(tmp_path: Path) -> None:
    """The written TREC run, given to the method "run", scores as the method that wrote it."""
    tasks = TASKS_OF_THE_WORLD[:1]
    first = bench.run(small(tasks=tasks, methods=("icr",)), tmp_path / "a", Lm())
    name = f"run:{tmp_path}/a/runs/world-ranking/icr.trec"
    second = bench.run(small(tasks=tasks, methods=(name,)), tmp_path / "b", Lm())
    ours, again = (s["tasks"]["world-ranking"]["systems"] for s in (first, second))
    assert ours["icr"]["metrics"] == again[name]["metrics"]


def without_cost(folder: Path) -> dict[str, Any]:
    """Every figure of a finished run that does not depend on the clock."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for task in summary["tasks"].values():
        for system in task["systems"].values():
            del system["cost"]
    records = {}
    for path in sorted((folder / "queries").rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            del record["cost"]
            records[str(path.relative_to(folder)), record["id"]] = record
    return {"tasks": summary["tasks"], "records": records}


def test_running_again_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(small(), tmp_path, Lm())
    before = without_cost(tmp_path)
    monkeypatch.setattr(bench, "_record", None)
    bench.run(small(), tmp_path, Lm())
    assert without_cost(tmp_path) == before


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(small(), tmp_path / "whole", Lm())
    record = bench._record
    for survived in (0, 3, 11, 20):
        left = [survived]

        def stop(*arguments: Any, left: list[int] = left) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return record(*arguments)

        monkeypatch.setattr(bench, "_record", stop)
        with pytest.raises(KeyboardInterrupt):
            bench.run(small(), tmp_path / "cut", Lm())
    monkeypatch.setattr(bench, "_record", record)
    bench.run(small(), tmp_path / "cut", Lm())
    assert without_cost(tmp_path / "cut") == without_cost(tmp_path / "whole")


KILLED = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from headwater.evaluate.bench import run as bench
from evaluate.test_bench import Lm, small
bench.run(small(methods=("bm25", "icr", "read")), Path(sys.argv[1]), Lm())
"""


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    """Twice here; `python -m benchmarks.crash` kills a run twenty times."""
    code = KILLED.format(tests=str(Path(__file__).parents[1]))
    environment = {**os.environ, "HEADWATER_CACHE": str(tmp_path / "cache")}
    for survived in (2, 7):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cut")], env=environment)
        while process.poll() is None and _finished(tmp_path / "cut") < survived:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    for folder in ("cut", "whole"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / folder)], env=environment, check=True)
    assert without_cost(tmp_path / "cut") == without_cost(tmp_path / "whole")


def _finished(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("queries/*/*.jsonl"))


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    config = small(tasks=TASKS_OF_THE_WORLD[:1], methods=("bm25",))
    bench.run(config, tmp_path, Lm())
    bench.run(small(tasks=TASKS_OF_THE_WORLD[:2], methods=("bm25", "icr", "read")), tmp_path, Lm())  # more may come
    for changed in (small(model="other"), small(limit=3), small(tasks=({"task": "world-ranking", "n": 7},))):
        with pytest.raises(InputError, match="holds a run with"):
            bench.run(changed, tmp_path, Lm())


def test_the_model_is_loaded_only_where_it_is_needed(tmp_path: Path) -> None:
    lm = Lm()
    bench.run(small(tasks=TASKS_OF_THE_WORLD[:1], methods=("bm25", "first-stage")), tmp_path, lm)
    assert lm.asked == 0


def test_what_does_not_fit_the_model_counts_zero_and_says_so(tmp_path: Path) -> None:
    """A model of 400 tokens answers questions alone, but few beside documents."""
    tasks = ({"task": "world-noise", "n": 6, "documents": 4},)
    summary = bench.run(
        small(tasks=tasks, methods=("read",)), tmp_path, lambda name: random_lm(max_position_embeddings=400)
    )
    system = summary["tasks"]["world-noise"]["systems"]["read"]
    lines = (tmp_path / "queries/world-noise/read.jsonl").read_text(encoding="utf-8").splitlines()
    failed = [record for record in map(json.loads, lines) if record["error"] is not None]
    assert 0 < len(failed) == system["failed"] < 12
    assert all("reads 400" in record["error"] and not any(record["scores"].values()) for record in failed)


def test_too_little_memory_stops_the_run_and_is_no_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headwater.evaluate.systems.readers import FullContext

    def full(self: FullContext, item: Any) -> str:
        raise InsufficientMemoryError("no room")

    config = small(tasks=TASKS_OF_THE_WORLD[2:], methods=("read",))
    with monkeypatch.context() as patch:
        patch.setattr(FullContext, "run", full)
        with pytest.raises(InsufficientMemoryError):
            bench.run(config, tmp_path, Lm())
    assert bench.run(config, tmp_path, Lm())["tasks"]["world-gold-1"]["systems"]["read"]["failed"] == 0


def test_a_method_that_cannot_run_at_all_is_listed_as_such(tmp_path: Path) -> None:
    summary = bench.run(
        small(tasks=TASKS_OF_THE_WORLD[2:], methods=("read", "no-context")),
        tmp_path,
        lambda name: random_lm(max_position_embeddings=200),
    )
    assert list(summary["tasks"]["world-gold-1"]["systems"]) == ["no-context"]
    assert summary["not_run"][0]["system"] == "read"
    assert "reads 200" in summary["not_run"][0]["why"]


def test_every_named_task_has_a_form_that_takes_its_arguments(tmp_path: Path) -> None:
    assert {named.form for named in TASKS.values()} == set(FORMS)
    for name in TASKS:
        task = build_task(name, tmp_path)
        assert isinstance(task, Task)
        assert task.kind in {kind for method in METHODS.values() for kind in method.kinds}


def test_tasks_of_ones_own(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "beir")
    task = build_task(f"search:{folder}", None)
    assert isinstance(task, Search)
    assert len(task.load()) == 3
    named = build_task({"task": "search", "name": "mine", "folder": str(folder), "drop_identical": False}, None)
    assert (named.name, named.definition["drop_identical"]) == ("mine", False)
    summary = bench.run(BenchConfig((f"search:{folder}",), ("bm25", "bm25+icr"), seeds=(0,)), tmp_path / "run", Lm())
    (found,) = summary["tasks"].values()
    assert found["systems"]["bm25"]["metrics"]["nDCG@10"]["mean"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("nothing", "There is no task 'nothing'"),
        ("nothing:path", "no task 'nothing' that takes a path"),
        ({"task": "world-ranking", "odd": 1}, "its arguments are split, n"),
        ({"name": "x"}, "There is no task ''"),
        ("dl19", "give --data"),
    ],
)
def test_bad_tasks(wanted: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_task(wanted, None)


def test_two_models_in_one_run(tmp_path: Path) -> None:
    tasks, methods = TASKS_OF_THE_WORLD[2:], ("read", "read@another/model", "no-context@another/model")
    lm = Lm()
    summary = bench.run(small(tasks=tasks, methods=methods), tmp_path, lm)
    assert lm.asked == 2
    assert list(summary["tasks"]["world-gold-1"]["systems"]) == list(methods)
    assert len(set(summary["made"]["fingerprints"].values())) == 2
    first, second = (
        (tmp_path / "queries/world-gold-1" / f"{n}.jsonl").read_text() for n in ("read", "read-another-model")
    )
    assert [json.loads(line)["output"] for line in first.splitlines()] != [
        json.loads(line)["output"] for line in second.splitlines()
    ]
    with pytest.raises(InputError, match="holds a run with fingerprint"):
        bench.run(small(tasks=TASKS_OF_THE_WORLD[1:], methods=methods), tmp_path, lambda name: random_lm(seed=99))


def test_method_names() -> None:
    assert method_named("heads:1-0,2-1@a/b") == Chosen(METHODS["heads"], "1-0,2-1", "a/b")
    assert method_named("run:my@run.trec") == Chosen(METHODS["run"], "my@run.trec", None)
    assert method_named("qr") == Chosen(METHODS["qr"], "", None)


@pytest.mark.parametrize("text", ["odd", "dense", "qr:x", "run:", "read@", "bm25@tiny", "heads@tiny"])
def test_bad_methods(text: str) -> None:
    with pytest.raises(InputError):
        method_named(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "at least one of its tasks"),
        ({"methods": ("bm25", "bm25")}, "stands twice"),
        ({"seeds": (-1,)}, "Seeds are"),
        ({"limit": 0}, "A limit is"),
        ({"baselines": ("qr",)}, "none of the methods"),
    ],
)
def test_bad_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("tasks: [a\n", FormatError),
        ("just text", FormatError),
        ("tasks: a\nmethods: [bm25]\n", FormatError),
        ("tasks: [3]\nmethods: [bm25]\n", FormatError),
        ("tasks: [world-ranking]\nmethods: [bm25]\nodd: 1\n", InputError),
        ("methods: [bm25]\n", InputError),
    ],
)
def test_bad_files(tmp_path: Path, text: str, error: type[Exception]) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error):
        read_config(path)
    with pytest.raises(InputError, match="There is no configuration"):
        read_config(tmp_path / "none.yaml")


def test_two_tasks_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one name in results"):
        bench.run(small(tasks=({"task": "world-ranking", "n": 3}, {"task": "world-ranking", "n": 4})), tmp_path, Lm())
