"""What a benchmark's summary says, laid out once: tables of cells and plain sentences, before any markup.

`headwater.evaluate.bench.tables` writes them as markdown and LaTeX, `headwater.evaluate.bench.report` as HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.evaluate.page import flat

Json = Mapping[str, Any]

MISSING = "–"
NEUTRAL = frozenset({"words", "abstained", "others"})  # metrics of which neither more nor less is better


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        text: the value, or a name.
        interval: its interval, empty where it has none.
        best: whether it is the best of its column.
    """

    text: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table of cells.

    Attributes:
        title: what it shows.
        header: one name per column.
        rows: cells, as many per row as the header has names.
        names: how many columns at the left are names; the others are numbers.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1


def value(row: Json | None, name: str = "mean") -> float | None:
    """A finite number of a row, None where there is none."""
    found = row.get(name) if row else None
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else None


def means(task: Json, metric: str) -> dict[str, float]:
    """The mean of every system that has one."""
    found = {system: value(row["metrics"].get(metric)) for system, row in task["systems"].items()}
    return {system: mean for system, mean in found.items() if mean is not None}


def less_is_better(task: Json, metric: str) -> bool:
    """Whether lower values of a metric are better."""
    return metric in task.get("lower_is_better", ())


def headline(task: Json) -> str:
    """The metric that a task is judged by."""
    return str(task["metrics"][0])


def baseline(summary: Json, task: Json) -> str | None:
    """The system that others are compared with first: of the task's differences, else of the configuration."""
    configured = (summary.get("config") or {}).get("baselines") or ()
    named = [row["baseline"] for row in task.get("differences") or ()] + list(configured)
    return next((name for name in named if name in task["systems"]), None)


def tables(task: Json) -> list[Table]:
    """Every table of a task: results, differences, facets, cost."""
    return [results(task), *differences(task), *facets(task), *costs(task)]


def results(task: Json) -> Table:
    """Systems by metrics, with intervals, then the figures that are computed over all queries together."""
    systems = task["systems"]
    figures = list(dict.fromkeys(name for row in systems.values() for name in row.get("finish") or {}))
    best = {metric: best_value(task, metric) for metric in task["metrics"]}
    rows = []
    for system, row in systems.items():
        cells = [Cell(label(system, row))]
        for metric in task["metrics"]:
            mean = value(row["metrics"].get(metric))
            cells.append(with_interval(row["metrics"].get(metric), mean is not None and mean == best[metric]))
        cells += [Cell(number(value(row.get("finish"), name))) for name in figures]
        rows.append(cells)
    header = ["system", *(f"{metric} ↓" if less_is_better(task, metric) else metric for metric in task["metrics"])]
    return Table("Results", [*header, *figures], rows)


def differences(task: Json) -> list[Table]:
    """One table per baseline: what each system has more than it, p-values, and what could have been seen at all."""
    found = task.get("differences") or ()
    header = ["system", "metric", "difference", "p", "p (Holm)", "detectable"]
    out = []
    for name in dict.fromkeys(row["baseline"] for row in found):
        rows = [
            [
                Cell(row["system"]),
                Cell(row["metric"]),
                with_interval(row, signed=True),
                Cell(p_value(row.get("p"))),
                Cell(p_value(row.get("p_holm"))),
                Cell(number(value(row, "detectable"))),
            ]
            for row in found
            if row["baseline"] == name
        ]
        out.append(Table(f"Difference to {name}", header, rows, names=2))
    return out


def facets(task: Json) -> list[Table]:
    """One table per facet that has at least two values: values by systems, the headline metric with intervals."""
    out = []
    for facet, lines in curves(task).items():
        values = next(iter(lines.values()))
        rows = [[Cell(name), *(with_interval(points[name]) for points in lines.values())] for name in values]
        out.append(Table(f"{headline(task)} by {facet}", [facet, *lines], rows))
    return out


def curves(task: Json) -> dict[str, dict[str, dict[str, Json]]]:
    """Facet -> system -> value -> interval, every value for every system, for facets that have at least two values."""
    systems = task["systems"]
    out = {}
    for facet in dict.fromkeys(name for row in systems.values() for name in row.get("facets") or {}):
        found = {name: (row.get("facets") or {}).get(facet) or {} for name, row in systems.items()}
        values = ordered(name for points in found.values() for name in points)
        if len(values) > 1:
            out[facet] = {
                system: {name: points.get(name) or {} for name in values} for system, points in found.items() if points
            }
    return out


def costs(task: Json) -> list[Table]:
    """What a query costs each system, and what it counted in all; no table where nothing of that is known."""
    rows, known = [], False
    systems = task["systems"]
    counted = list(dict.fromkeys(name for row in systems.values() for name in row.get("counted") or {}))
    for system, row in systems.items():
        cost = row.get("cost") or {}
        flops, peak = value(cost, "flops"), value(cost, "peak_bytes")
        figures = [
            value(cost, "seconds"),
            value(cost, "tokens"),
            None if flops is None else flops / 1e9,
            None if peak is None else peak / 2**20,
        ]
        failed = row.get("failed") or 0
        known = known or failed > 0 or bool(counted) or any(figure is not None for figure in figures)
        totals = [value(row.get("counted"), name) for name in counted]
        cells = [short(figure) for figure in figures] + [f"{failed:,}"] + [short(total) for total in totals]
        rows.append([Cell(label(system, row)), *map(Cell, cells)])
    header = ["system", "s/query", "tokens/query", "GFLOP/query", "peak memory (MiB)", "failed", *counted]
    return [Table("Cost", header, rows)] if known else []


def remarks(task: Json) -> list[str]:
    """The task's notes, then what the systems say of their settings."""
    said = [(system, row.get("settings")) for system, row in task["systems"].items()]
    notes = [str(note) for note in task.get("notes") or ()]
    return notes + [f"{system}: {flat(settings)}" for system, settings in said if settings]


def not_run(summary: Json) -> list[Table]:
    """What was not run and why; no table where everything ran."""
    rows = [[Cell(str(row[name])) for name in ("task", "system", "why")] for row in summary.get("not_run") or ()]
    return [Table("Not run", ["task", "system", "why"], rows, names=3)] if rows else []


def label(system: str, row: Json) -> str:
    """A system's name, with its number of seeds where it ran with several."""
    seeds = row.get("seeds") or ()
    return f"{system} ({len(seeds)} seeds)" if len(seeds) > 1 else system


def number(figure: float | None, signed: bool = False, digits: int | None = None) -> str:
    """A figure with three digits after the point below 10, fewer above; `digits` sets them."""
    if figure is None:
        return MISSING
    digits = decimals(figure) if digits is None else digits
    return f"{round(figure, digits) + 0.0:{'+' if signed else ''},.{digits}f}"


def decimals(figure: float) -> int:
    """Digits after the point that leave four digits in all."""
    size = abs(figure)
    return 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0


def short(figure: float | None) -> str:
    """A cost: three significant digits, thousands written out; what is smaller is `< 0.0001`."""
    if figure is None:
        return MISSING
    if 0 < figure < 1e-4:
        return "< 0.0001"
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def p_value(p: float | None) -> str:
    """Three digits; what is smaller is `< 0.001`."""
    if p is None or not math.isfinite(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count_of(amount: int | None, one: str, many: str) -> str:
    """`1 query`, `2 queries`."""
    return f"{amount or 0:,} {one if amount == 1 else many}"


def interval(row: Json, signed: bool = False) -> str:
    """`[low, high]`, with as many digits as the mean has; empty where an end is missing."""
    mean, low, high = (value(row, name) for name in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return ""
    return f"[{number(low, signed, decimals(mean))}, {number(high, signed, decimals(mean))}]"


def ordered(values: Iterable[str]) -> list[str]:
    """Each value once: by size where all are numbers, else as they come."""
    found = list(dict.fromkeys(values))
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def with_interval(row: Json | None, best: bool = False, signed: bool = False) -> Cell:
    mean = value(row)
    return Cell(number(mean, signed), interval(row, signed) if row else "", best)


def best_value(task: Json, metric: str) -> float | None:
    """The best mean of a metric; none where there is nothing to tell apart."""
    found = set(means(task, metric).values())
    if metric in NEUTRAL or len(found) < 2:
        return None
    return min(found) if less_is_better(task, metric) else max(found)
