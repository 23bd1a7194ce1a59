"""The benchmark: methods on tasks, one folder per run, resumable at any point.

| file | what |
|---|---|
| config.yaml | the resolved configuration |
| run.json, weights/ | what the folder belongs to: another model, limit or version is refused |
| items/TASK.jsonl | query or question, answers, relevant documents, facets |
| queries/TASK/METHOD.jsonl | per item: output, scores, cost (METHOD-seedN for methods that draw) |
| queries/TASK/METHOD.json | the method's settings: heads, weights, k1 and b |
| runs/TASK/METHOD.trec | rankings as TREC runs |
| summary.json | means, intervals, differences, cost |
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import headwater
from headwater.data.documents import Document
from headwater.errors import InputError
from headwater.evaluate.bench.catalogue import METHODS, Method, build_task, method_named
from headwater.evaluate.bench.config import BenchConfig
from headwater.evaluate.bench.cost import Cost, measured
from headwater.evaluate.bench.records import file_stem
from headwater.evaluate.bench.summary import Results, summarise_task
from headwater.evaluate.files import Lines, made_with, same_run, write_json, write_page
from headwater.evaluate.main_job import Progress, no_progress
from headwater.evaluate.metrics import require
from headwater.evaluate.systems.system import System
from headwater.evaluate.tasks.task import Task, sample

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

SHOWN, SNIPPET = 3, 240  # documents that a record shows of a ranking, and characters of each
RELEVANT = 20  # relevant documents that an item lists at most
ORDERS = ("ranking", "search")


class Systems:
    """The models and the systems made with them, each made when it is first asked for.

    A folder keeps to the weights it began with.
    """

    def __init__(self, config: BenchConfig, load: Callable[[str], LanguageModel], folder: Path) -> None:
        """Keep how models are loaded, and where their weights are noted."""
        self.config, self.load, self.folder = config, load, folder / "weights"
        self._models: dict[str, LanguageModel] = {}
        self._made: dict[tuple[str, int], System] = {}

    def model(self, name: str | None) -> LanguageModel:
        """A model, the run's own for None.

        Raises:
            InputError: when the folder's results are those of other weights.
        """
        name = self.config.model if name is None else name
        if name not in self._models:
            lm = self._models[name] = self.load(name)
            found = {"model": name, "fingerprint": lm.fingerprint, "dtype": str(lm.dtype)}
            same_run(self.folder / f"{file_stem(name)}.json", found)
        return self._models[name]

    def get(self, name: str, seed: int) -> System:
        """The system of a method."""
        if (name, seed) not in self._made:
            chosen = method_named(name)
            self._made[name, seed] = chosen.method.make(lambda: self.model(chosen.model), seed, chosen.argument)
        return self._made[name, seed]

    def fingerprints(self) -> dict[str, str]:
        """Of every model that the folder's results were made with."""
        noted = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*.json"))]
        return {found["model"]: found["fingerprint"] for found in noted}


def run(
    config: BenchConfig,
    output: str | Path,
    load: Callable[[str], LanguageModel],
    progress: Progress = no_progress,
    command: str = "headwater eval run",
) -> dict[str, Any]:
    """Run a benchmark, or what is left of it.

    Args:
        config: what is run.
        output: folder of the run.
        load: gives a model by name; called once for each model that a method needs.
        progress: called with a label, gives a function of (done, total).
        command: written into the summary.

    Returns:
        The summary.

    Raises:
        InputError: unknown tasks or methods, missing data, or a folder that holds another run.
    """
    require()
    folder = Path(output)
    data = None if config.data is None else Path(config.data)
    if data is not None and not data.is_dir():
        raise InputError(f"There is no data folder {config.data!r}.")
    methods = {name: method_named(name).method for name in config.methods}
    tasks = [build_task(wanted, data) for wanted in config.tasks]
    _check(tasks, methods)
    # all data are read before anything is written or computed: what is wrong with the last task shows now
    loaded = [(task, sample(task.load(), config.limit, task.name)) for task in tasks]
    systems = Systems(config, load, folder)
    identity = {"model": config.model, "dtype": config.dtype, "limit": config.limit, "headwater": headwater.__version__}
    same_run(folder / "run.json", identity)
    summary: dict[str, Any] = {"tasks": {}, "not_run": []}
    for task, items in loaded:
        same_run(folder / "items" / f"{task.name}.json", task.definition)
        write_items(folder, task, items)
        results = {
            name: _run_method(folder, task, items, name, config.seeds, systems, progress)
            for name, method in methods.items()
            if task.kind in method.kinds
        }
        for name in [name for name, found in results.items() if found.failed_everywhere()]:
            why = results.pop(name).records[0][0]["error"]
            summary["not_run"].append({"task": task.name, "system": name, "why": why})
        if results:
            summary["tasks"][task.name] = summarise_task(task, items, results, config.baselines)
    summary["not_run"] += [
        {"task": "all", "system": kind, "why": f"no model was given: --method {kind}:ID"}
        for kind in ("dense", "cross-encoder")
        if not any(name.startswith(f"{kind}:") for name in methods)
    ]
    summary["config"] = config.as_dict()
    summary["made"] = made_with(command, config.model, config.seeds[0], fingerprints=systems.fingerprints())
    write_page(folder / "config.yaml", _yaml(config.as_dict()))
    write_json(folder / "summary.json", summary)
    return summary


def _check(tasks: Sequence[Task], methods: Mapping[str, Method]) -> None:
    """Refuse tasks of one name, and tasks that none of the methods can do."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise InputError("Two tasks have one name in results; give one of them a name of its own.")
    for task in tasks:
        if not any(task.kind in method.kinds for method in methods.values()):
            fit = [name for name, method in METHODS.items() if task.kind in method.kinds]
            raise InputError(f"None of the methods can do {task.name} ({task.kind}); {', '.join(fit)} can.")


def _run_method(
    folder: Path,
    task: Task,
    items: Sequence[Any],
    name: str,
    seeds: Sequence[int],
    systems: Systems,
    progress: Progress,
) -> Results:
    """Records of a method on a task, one list per seed, each finished item read back from disk."""
    chosen = method_named(name)
    method, results = chosen.method, Results()
    for seed in seeds if method.seeded else seeds[:1]:
        stem = file_stem(name, seed if method.seeded else None)

        def make(seed: int = seed) -> tuple[System, LanguageModel | None]:
            return systems.get(name, seed), systems.model(chosen.model) if method.uses_model else None

        records, settings = run_items(folder, task, items, stem, make, progress)
        if task.kind in ORDERS:
            _write_trec(folder / "runs" / task.name / f"{stem}.trec", records, stem)
        results.add(seed if method.seeded else None, records, settings)
    return results


def run_items(
    folder: Path,
    task: Task,
    items: Sequence[Any],
    stem: str,
    make: Callable[[], tuple[System, LanguageModel | None]],
    progress: Progress,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run a system on what is left of the items; every finished one is on disk before the next begins.

    Args:
        folder: of the run.
        task: whose items they are.
        items: of the task.
        stem: name of the system's files.
        make: gives the system and the model under test (None where it runs none); called only if anything is left.
        progress: called with a label, gives a function of (done, total).

    Returns:
        The record of each item, and what the system says of itself.
    """
    lines = Lines(folder / "queries" / task.name / f"{stem}.jsonl")
    settings = lines.path.with_suffix(".json")
    left = [item for item in items if item.id not in lines.done]
    step = progress(f"{task.name}: {stem}")
    if left or not settings.exists():
        system, lm = make()
        system.prepare(task, items)
        write_json(settings, system.describe())
        with _without_remarks():
            for done, item in enumerate(left):
                step(len(items) - len(left) + done, len(items))
                lines.add(_record(task, item, system, lm))
    step(len(items), len(items))
    return [lines.done[item.id] for item in items], json.loads(settings.read_text(encoding="utf-8"))


@contextmanager
def _without_remarks() -> Iterator[None]:
    """No log lines about single queries (a list ranked in windows): results count them."""
    logger = logging.getLogger("headwater")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


def _record(task: Task, item: Any, system: System, lm: LanguageModel | None) -> dict[str, Any]:
    """Run one item. What cannot be run (a prompt that does not fit) scores zero and says why."""
    error = None
    system.details = {}
    with measured(lm) as cost:
        try:
            output = [] if task.kind == "ranking" and not item.documents else system.run(item)
        except InputError as raised:  # too little memory or a NaN is no fault of the item: those stop the run
            if task.kind == "text":
                raise
            output, error = None, str(raised)
    return record_of(task, item, output, error, system.details, cost)


def record_of(
    task: Task, item: Any, output: Any, error: str | None, details: Mapping[str, int], cost: Cost
) -> dict[str, Any]:
    """What is kept of an item: its output (None where it failed, which scores zero), scores and cost."""
    record: dict[str, Any] = {"id": item.id, "group": item.group, "error": error}
    if output is None:
        empty = {"reading": "", "choice": [0.0] * len(getattr(item, "options", ()))}.get(task.kind, [])
        record["scores"] = dict.fromkeys(task.score(item, empty), 0.0)
    else:
        record["scores"] = task.score(item, output)
    record["output"] = output
    if task.kind in ORDERS:
        record["shown"] = _shown(task, item, (output or [])[:SHOWN])
    record["details"] = dict(details)
    record["cost"] = cost.as_dict()
    return record


def _shown(task: Task, item: Any, names: Sequence[str]) -> list[list[str]]:
    """Id, title and the beginning of the text of documents; empty strings for documents that the task lacks."""
    known: Mapping[str, Document] = task.by_id or {str(d.id): d for d in item.documents}
    out = []
    for name in names:
        document = known.get(name)
        text = "" if document is None else " ".join(document.text.split())
        out.append([name, (document.title or "") if document else "", text[:SNIPPET]])
    return out


def write_items(folder: Path, task: Task, items: Sequence[Any]) -> None:
    """What each item asks and expects, for reports."""
    lines = []
    for item in items:
        relevant = task.relevant(item)[:RELEVANT]
        lines.append(
            {
                "id": item.id,
                "group": item.group,
                "query": next(
                    (getattr(item, n) for n in ("query", "question", "prompt", "text") if hasattr(item, n)), ""
                ),
                "answers": list(getattr(item, "answers", ())),
                "relevant": _shown(task, item, relevant) if relevant else [],
                "facets": dict(item.facets),
            }
        )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_page(folder / "items" / f"{task.name}.jsonl", text)


def _write_trec(path: Path, records: Sequence[Mapping[str, Any]], name: str) -> None:
    """The rankings as a TREC run; scores count down, so that every reader orders them the same way."""
    rows = [
        f"{record['id']} Q0 {document} {place + 1} {len(record['output']) - place} {name}\n"
        for record in records
        for place, document in enumerate(record["output"] or ())
    ]
    write_page(path, "".join(rows))


def _yaml(value: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
    return text
