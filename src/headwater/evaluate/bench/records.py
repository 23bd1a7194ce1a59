"""A benchmark's run folder read back: the summary, the items, what every system gave for them, wins and losses.

`headwater.evaluate.bench.run` describes the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.data.records import json_lines
from headwater.data.text import read_text
from headwater.errors import FormatError, InputError
from headwater.evaluate.bench.layout import Json, ordered, value

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Record:
    """What a system gave for one query.

    Attributes:
        score: on the headline metric, the mean over seeds; None where the query failed.
        said: the line of its file, of the first seed.
        seeds: how many runs the score is the mean of.
    """

    score: float | None
    said: Json
    seeds: int = 1


@dataclass(frozen=True)
class Case:
    """A query on which two systems differ.

    Attributes:
        id: of the query.
        gain: how much better the system is than the baseline, above 0 for a win.
        system: what the system gave.
        baseline: what the baseline gave.
    """

    id: str
    gain: float
    system: Record
    baseline: Record


def read_summary(folder: str | Path) -> dict[str, Any]:
    """The summary of a run folder.

    Raises:
        InputError: when there is no summary, or it cannot be read.
        FormatError: when it is not JSON, or not a benchmark's summary.
    """
    path = Path(folder) / SUMMARY
    if not path.is_file():
        raise InputError(f"{folder} holds no {SUMMARY}; give the folder of a finished benchmark.")
    try:
        summary = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON ({error}); run the benchmark again to write it.") from error
    missing = _missing(summary)
    if missing:
        raise FormatError(f"{path} is not a benchmark's summary: {missing}.")
    return dict(summary)


def read_items(folder: str | Path, task: str) -> dict[str, dict[str, Any]]:
    """The items of a task by id; none where the run kept none.

    Raises:
        InputError: when the file cannot be read.
        FormatError: when a line is not an object with an id.
    """
    path = Path(folder) / "items" / f"{task}.jsonl"
    return _by_id(path) if path.exists() else {}


def read_records(folder: str | Path, task: str, system: str, seeds: Iterable[int], metric: str) -> dict[str, Record]:
    """What a system gave for each query of a task, by id; none where the run kept none.

    Raises:
        InputError: when a file cannot be read.
        FormatError: when a line is not an object with an id.
    """
    stems = [file_stem(system), *(file_stem(system, seed) for seed in seeds)]
    paths = [Path(folder) / "queries" / task / f"{stem}.jsonl" for stem in stems]
    runs = [_by_id(path) for path in paths if path.exists()]
    out = {}
    for name, said in (runs[0] if runs else {}).items():
        scores = [value(_scores(run[name]), metric) for run in runs if name in run]
        known = [score for score in scores if score is not None]
        out[name] = Record(sum(known) / len(known) if known else None, said, len(known))
    return out


def file_stem(system: str, seed: int | None = None) -> str:
    """Name of a system's files, without a suffix."""
    safe = re.sub(r"[^\w.+-]+", "-", system)
    return safe if seed is None else f"{safe}-seed{seed}"


def wins_and_losses(
    system: Mapping[str, Record], baseline: Mapping[str, Record], less_is_better: bool = False, count: int = 5
) -> tuple[list[Case], list[Case]]:
    """The queries on which a system gains most over a baseline, and those on which it loses most.

    Queries are paired by id; those without a score on either side are left out. Equal gains keep the order of the file.
    """
    sign = -1.0 if less_is_better else 1.0
    cases = []
    for name, one in system.items():
        other = baseline.get(name)
        if other is not None and one.score is not None and other.score is not None:
            cases.append(Case(name, sign * (one.score - other.score), one, other))
    cases.sort(key=lambda case: -case.gain)
    wins = [case for case in cases if case.gain > 0]
    losses = sorted((case for case in cases if case.gain < 0), key=lambda case: case.gain)
    return wins[:count], losses[:count]


def grid(
    records: Mapping[str, Record], items: Mapping[str, Json], facets: tuple[str, str]
) -> tuple[list[str], list[str], np.ndarray]:
    """Mean score by two facets: values of the first, of the second, and means [first, second], NaN where none is."""
    found: dict[tuple[str, str], list[float]] = {}
    names: tuple[list[str], list[str]] = ([], [])
    for item in items.values():
        at = tuple((item.get("facets") or {}).get(facet) for facet in facets)
        if None in at:
            continue
        for place in (0, 1):
            names[place].append(str(at[place]))
        record = records.get(item["id"])
        if record is not None and record.score is not None:
            found.setdefault((str(at[0]), str(at[1])), []).append(record.score)
    rows, columns = ordered(names[0]), ordered(names[1])
    means = np.full((len(rows), len(columns)), np.nan)
    for (row, column), scores in found.items():
        means[rows.index(row), columns.index(column)] = sum(scores) / len(scores)
    return rows, columns, means


def _scores(line: Json) -> Json | None:
    scores = line.get("scores")
    return scores if isinstance(scores, Mapping) else None


def _by_id(path: Path) -> dict[str, dict[str, Any]]:
    out = {}
    for number, record in json_lines(path):
        if not isinstance(record.get("id"), str):
            raise FormatError(f"{path}, line {number}: a query needs an id that is text.")
        out[record["id"]] = record
    return out


def _missing(summary: object) -> str:
    """What a summary lacks, in words; empty for a whole one."""
    if not isinstance(summary, Mapping):
        return f"expected an object, got {type(summary).__name__}"
    for name in ("made", "tasks"):
        if not isinstance(summary.get(name), Mapping):
            return f"{name!r} is missing or not an object"
    lacking = next(filter(None, (_task_lacks(name, task) for name, task in summary["tasks"].items())), "")
    if lacking:
        return lacking
    fields = ("task", "system", "why")
    if any(not isinstance(row, Mapping) or not set(fields) <= set(row) for row in summary.get("not_run") or ()):
        return f"an entry of 'not_run' lacks one of {', '.join(fields)}"
    return ""


def _task_lacks(name: str, task: object) -> str:
    """The same of one task."""
    if not isinstance(task, Mapping):
        return f"the task {name!r} is not an object"
    metrics = task.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        return f"the task {name!r} names no metrics"
    systems = task.get("systems")
    if not isinstance(systems, Mapping):
        return f"the task {name!r} has no systems"
    for system, row in systems.items():
        if not isinstance(row, Mapping) or not isinstance(row.get("metrics"), Mapping):
            return f"the system {system!r} of the task {name!r} has no metrics"
    fields = ("system", "baseline", "metric", "mean")
    if any(not isinstance(row, Mapping) or not set(fields) <= set(row) for row in task.get("differences") or ()):
        return f"a difference of the task {name!r} lacks one of {', '.join(fields)}"
    return ""
