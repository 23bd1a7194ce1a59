"""All tasks of a benchmark side by side: headline metrics, differences of them, and costs; a table per kind of task."""

from __future__ import annotations

from headwater.evaluate.bench.layout import (
    MISSING,
    Cell,
    Json,
    Table,
    best_value,
    headline,
    less_is_better,
    short,
    value,
    with_interval,
)


def overview(summary: Json) -> list[Table]:
    """Headlines, differences and costs of every kind of task."""
    kinds: dict[str, dict[str, Json]] = {}
    for name, task in summary["tasks"].items():
        kinds.setdefault(str(task.get("kind", "task")), {})[name] = task
    out = []
    for kind, tasks in kinds.items():
        title = kind.capitalize()
        out += [_headlines(title, tasks), *_differences(title, tasks), *_costs(title, tasks)]
    return out


def _systems(tasks: dict[str, Json]) -> list[str]:
    return list(dict.fromkeys(system for task in tasks.values() for system in task["systems"]))


def _metric(task: Json) -> Cell:
    metric = headline(task)
    return Cell(f"{metric} ↓" if less_is_better(task, metric) else metric)


def _headlines(title: str, tasks: dict[str, Json]) -> Table:
    """Tasks by systems, the headline metric with intervals."""
    systems, rows = _systems(tasks), []
    for name, task in tasks.items():
        metric = headline(task)
        found = {system: row["metrics"].get(metric) for system, row in task["systems"].items()}
        best = best_value(task, metric)
        cells = [
            with_interval(found.get(system), best is not None and value(found.get(system)) == best)
            for system in systems
        ]
        rows.append([Cell(name), _metric(task), *cells])
    return Table(title, ["task", "metric", *systems], rows, names=2)


def _differences(title: str, tasks: dict[str, Json]) -> list[Table]:
    """For each baseline, tasks by systems: the difference on the headline metric; bold where p (Holm) is below .05."""
    named = [row["baseline"] for task in tasks.values() for row in task.get("differences") or ()]
    out = []
    for against in dict.fromkeys(named):
        rows, shown = [], []
        for name, task in tasks.items():
            metric = headline(task)
            found = {
                row["system"]: row
                for row in task.get("differences") or ()
                if row["baseline"] == against and row["metric"] == metric
            }
            shown += [system for system in found if system not in shown]
            rows.append((name, task, found))
        cells = [
            [Cell(name), _metric(task), *(_gap(found.get(system)) for system in shown)]
            for name, task, found in rows
            if found
        ]
        if cells:
            out.append(Table(f"{title}: difference to {against}", ["task", "metric", *shown], cells, names=2))
    return out


def _gap(row: Json | None) -> Cell:
    corrected = None if row is None else value(row, "p_holm")
    return with_interval(row, corrected is not None and corrected < 0.05, signed=True)


def _costs(title: str, tasks: dict[str, Json]) -> list[Table]:
    """Tasks by systems: median seconds, mean tokens and mean operations of a query."""
    systems, rows, known = _systems(tasks), [], False
    for name, task in tasks.items():
        cells = [Cell(name)]
        for system in systems:
            cost = (task["systems"].get(system) or {}).get("cost") or {}
            flops = value(cost, "flops")
            figures = [value(cost, "seconds"), value(cost, "tokens"), None if flops is None else flops / 1e9]
            known = known or any(figure is not None for figure in figures)
            cells.append(Cell(" / ".join(map(short, figures)) if cost else MISSING))
        rows.append(cells)
    return [Table(f"{title}: seconds / tokens / GFLOP per query", ["task", *systems], rows)] if known else []
