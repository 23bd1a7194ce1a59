"""From records to figures: means with intervals, paired differences, curves, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import numpy as np

from headwater.evaluate.statistics import holm, mean_interval, paired_difference
from headwater.evaluate.tasks.task import Task

Record = Mapping[str, Any]


@dataclass
class Results:
    """What a method gave for all items of a task, one list of records per seed.

    Attributes:
        seeds: the seeds; empty for a method that draws nothing.
        records: `[seeds or 1][items]`.
        settings: what the method says of itself.
    """

    seeds: list[int] = field(default_factory=list)
    records: list[list[Record]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def add(self, seed: int | None, records: Sequence[Record], settings: Mapping[str, Any]) -> None:
        """Append the records of a seed; of settings that differ by seed the last stand."""
        if seed is not None:
            self.seeds.append(seed)
        self.records.append(list(records))
        self.settings = dict(settings)

    def failed_everywhere(self) -> bool:
        """Whether not one item could be run, as when no prompt fits the model."""
        return all(record["error"] is not None for records in self.records for record in records)

    def values(self, metric: str, keep: Sequence[int]) -> np.ndarray:
        """Float64 `[seeds, kept items]`."""
        return np.array([[records[place]["scores"][metric] for place in keep] for records in self.records], np.float64)


def summarise_task(
    task: Task,
    items: Sequence[Any],
    results: Mapping[str, Results],
    baselines: Sequence[str],
    within: Sequence[Sequence[str]] = (),
) -> dict[str, Any]:
    """The summary of a task (see `headwater.evaluate.bench.run`).

    Intervals resample the items' groups and the seeds. Differences are to each of the `baselines` that does this task,
    or to the first method where none does; p-values are corrected (Holm) over the methods, metric by metric. `within`
    names further groups of methods to compare: the others of a group with its first.
    """
    first = next(iter(results.values())).records[0]
    scored = [place for place, record in enumerate(first) if record["scores"]]
    groups = [items[place].group for place in scored]
    groups = groups if len(set(groups)) > 1 else list(range(len(groups)))  # one article: questions are resampled
    references = [name for name in baselines if name in results] or [next(iter(results))]
    compared = [(results, name) for name in references]
    compared += [({name: results[name] for name in names}, names[0]) for names in within]
    return {
        "kind": task.kind,
        "definition": task.definition,
        "n": len(scored),
        "groups": len(set(groups)),
        "metrics": list(task.metrics),
        "lower_is_better": sorted(task.lower_is_better),
        "notes": list(task.notes),
        "systems": {name: _system(task, items, found, scored, groups) for name, found in results.items()},
        "differences": [row for among, name in compared for row in _differences(task, among, name, scored, groups)],
    }


def _system(
    task: Task, items: Sequence[Any], found: Results, scored: Sequence[int], groups: Sequence[Any]
) -> dict[str, Any]:
    """One system's figures."""
    every = [record for records in found.records for record in records]
    counted: dict[str, int] = {}
    for record in every:
        for name, number in record.get("details", {}).items():
            counted[name] = counted.get(name, 0) + number
    finished = [task.finish(records) for records in found.records]
    return {
        "seeds": found.seeds,
        "settings": found.settings,
        "metrics": {m: mean_interval(found.values(m, scored), groups).as_dict() for m in task.metrics},
        "finish": {name: mean(figures[name] for figures in finished) for name in finished[0]},
        "facets": _facets(task, items, found, scored, groups),
        "counted": counted,
        "cost": _cost(every),
        "failed": sum(record["error"] is not None for record in every),
    }


def _facets(
    task: Task, items: Sequence[Any], found: Results, scored: Sequence[int], groups: Sequence[Any]
) -> dict[str, dict[str, Any]]:
    """The headline metric by each value of each facet."""
    members: dict[str, dict[str, list[int]]] = {}
    for index, place in enumerate(scored):
        for name, value in items[place].facets.items():
            members.setdefault(name, {}).setdefault(value, []).append(index)
    values = found.values(task.metrics[0], scored)
    out: dict[str, dict[str, Any]] = {}
    for name, parts in members.items():
        out[name] = {}
        for value in sorted(parts, key=_as_number):
            of = [groups[index] for index in parts[value]]
            of = of if len(set(of)) > 1 else list(range(len(of)))
            out[name][value] = mean_interval(values[:, parts[value]], of).as_dict()
    return out


def _differences(
    task: Task, results: Mapping[str, Results], reference: str, scored: Sequence[int], groups: Sequence[Any]
) -> list[dict[str, Any]]:
    """Every other method against the reference, on every metric."""
    rows = []
    for metric in task.metrics:
        base = results[reference].values(metric, scored)
        found = {
            name: paired_difference(other.values(metric, scored), base, groups)
            for name, other in results.items()
            if name != reference
        }
        corrected = holm({name: difference.p for name, difference in found.items()})
        rows += [
            {
                "system": name,
                "baseline": reference,
                "metric": metric,
                **difference.as_dict(),
                "p_holm": corrected[name],
            }
            for name, difference in found.items()
        ]
    return rows


def _cost(records: Sequence[Record]) -> dict[str, float | None]:
    """Median seconds, mean tokens and operations, highest memory."""
    costs = [record["cost"] for record in records if record["error"] is None]

    def known(name: str) -> list[float]:
        return [cost[name] for cost in costs if cost.get(name) is not None]

    return {
        "seconds": median(known("seconds")) if costs else None,
        "tokens": mean(known("tokens")) if known("tokens") else None,
        "flops": mean(known("flops")) if known("flops") else None,
        "peak_bytes": max(known("peak_bytes")) if known("peak_bytes") else None,
    }


def _as_number(text: str) -> tuple[float, str]:
    """Sorts "2" before "10", and names after numbers."""
    try:
        return (float(text), "")
    except ValueError:
        return (float("inf"), text)
