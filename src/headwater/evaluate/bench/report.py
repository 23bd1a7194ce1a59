"""Tables, pictures and one self-contained HTML page out of a benchmark's run folder.

The page follows the same rules as that of `headwater.evaluate.report`: no script, pictures inline, every text escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headwater import plots
from headwater.evaluate.bench.cases import wins_and_losses_html
from headwater.evaluate.bench.layout import (
    MISSING,
    Cell,
    Json,
    Table,
    baseline,
    costs,
    count_of,
    curves,
    differences,
    facets,
    headline,
    means,
    not_run,
    number,
    remarks,
    results,
    value,
)
from headwater.evaluate.bench.records import Record, grid, read_items, read_records, read_summary
from headwater.evaluate.bench.tables import EXPLAINED, csv, latex, markdown, size
from headwater.evaluate.bench.verdict import leaders, standing, verdict
from headwater.evaluate.files import write_page
from headwater.evaluate.page import document, escape, facts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
section{scroll-margin-top:1rem}h4{margin:1.2rem 0 .4rem;font-size:.95rem}a{color:inherit}h2 a{text-decoration:none}
.up{float:right;font-size:.8rem;font-weight:400;color:var(--soft)}p{overflow-wrap:anywhere}
.figure{overflow-x:auto;margin:.8rem 0}.figure svg{max-width:max(100%,520px);height:auto;display:block}
details{--paper:var(--card);background:var(--card);border:1px solid var(--line);border-radius:10px;margin:.7rem 0;
padding:.55rem .9rem}summary{cursor:pointer;font-weight:600;overflow-wrap:anywhere}
.wide th{vertical-align:bottom}.wide td:first-child,.wide th:first-child{position:sticky;left:0;background:var(--paper);
min-width:6.5rem;max-width:45vw;overflow-wrap:anywhere}.i{display:block;font-size:.84em;color:var(--soft);
white-space:nowrap}.case{background:var(--paper)}ol li.gold::after{content:"relevant"}ol li>span{overflow-wrap:anywhere;
min-width:0}.wide td.num{white-space:nowrap}td.num b{color:var(--good)}
"""


def write_bench_report(folder: str | Path, step: Callable[[int, int], None] | None = None) -> list[Path]:
    """Write what a benchmark's run folder says, into it: report.html, tables.md, tables.tex, tables.csv and plots/.

    Args:
        folder: of a finished run.
        step: told how many tasks of how many are drawn.

    Returns:
        Every file written.

    Raises:
        InputError: when there is no summary, or a file cannot be read or written.
        FormatError: when a file is not what a run writes.
    """
    folder = Path(folder)
    summary = read_summary(folder)
    written = [
        write_page(folder / name, write(summary))
        for name, write in (("tables.md", markdown), ("tables.tex", latex), ("tables.csv", csv))
    ]
    sections = []
    for place, name in enumerate(summary["tasks"], 1):
        if step is not None:
            step(place - 1, len(summary["tasks"]))
        section, pictures = _task_part(folder, summary, place, name)
        sections.append(section)
        written += pictures
    if step is not None:
        step(len(sections), len(sections))
    return [write_page(folder / "report.html", _page(summary, sections)), *written]


def _task_part(folder: Path, summary: Json, place: int, name: str) -> tuple[str, list[Path]]:
    """A task's section of the page, and the pictures that were written for it."""
    task = summary["tasks"][name]
    against = baseline(summary, task)
    items = read_items(folder, name)
    records = {
        system: read_records(folder, name, system, row.get("seeds") or (), headline(task))
        for system, row in task["systems"].items()
    }
    drawn: dict[str, str] = {}
    written = []
    for part, title, figure in _figures(task, against, items, records):
        stem = re.sub(r"[^\w.+-]+", "-", f"{name}-{title}")
        written += [plots.save(figure, folder / "plots" / f"{stem}{suffix}") for suffix in (".png", ".svg")]
        svg = plots.svg(figure, f"Task {place}, {name}: {title}")
        drawn[part] = drawn.get(part, "") + f"<div class='figure'>{svg}</div>"
    cases = "".join(
        wins_and_losses_html(task, items, (system, against), found, records[against])
        for system, found in records.items()
        if against is not None and system != against
    )
    return _section(place, name, task, drawn, cases), written


def _figures(
    task: Json, against: str | None, items: Mapping[str, Json], records: Mapping[str, Mapping[str, Record]]
) -> Iterator[tuple[str, str, Figure]]:
    """Part of the page, name and picture, of all that a task gives reason to draw."""
    metric = headline(task)
    found = means(task, metric)
    if not found:
        return
    dashed = f"; dashed: {against}" if against in found else ""
    rows = {system: task["systems"][system]["metrics"][metric] for system in found}
    reference = found.get(against) if against is not None else None
    yield "results", "comparison", plots.forest(rows, f"{metric} (95 % interval{dashed})", reference)
    tested = [row for row in task.get("differences") or () if row["metric"] == metric and value(row) is not None]
    for name in dict.fromkeys(row["baseline"] for row in tested):
        gaps = {row["system"]: row for row in tested if row["baseline"] == name}
        label = f"{metric}: difference to {name} (95 % interval)"
        yield "differences", f"difference to {name}", plots.forest(gaps, label, 0.0, signed=True)
    lines = curves(task)
    for facet, points in lines.items():
        if any(value(row) is not None for line in points.values() for row in line.values()):
            yield "facets", f"by {facet}", plots.curve(points, facet, metric)
    if len(lines) == 2:
        first, second = lines
        grids = {system: grid(given, items, (first, second)) for system, given in records.items() if given and items}
        shown = {system: cells for system, (_, _, cells) in grids.items() if np.isfinite(cells).any()}
        if shown:
            names, columns, _ = next(iter(grids.values()))
            yield "facets", f"by {first} and {second}", plots.heat(shown, names, columns, first, second, metric)


def _page(summary: Json, sections: list[str]) -> str:
    made = summary["made"]
    model = str(made.get("model", ""))
    tasks = summary["tasks"]
    systems = dict.fromkeys(system for task in tasks.values() for system in task["systems"])
    sizes = (
        count_of(len(tasks), "task", "tasks"),
        count_of(len(systems), "system", "systems"),
        count_of(sum(task.get("n") or 0 for task in tasks.values()), "query", "queries"),
    )
    body = [
        f"<h1 id='top'>Comparison of systems: {escape(model)}</h1>",
        f"<p class='soft'>{escape(' · '.join([str(made.get('date', ''))[:10], *sizes]))}</p><p>{escape(EXPLAINED)} "
        "Systems are tested against the baseline, not against one another; where an interval excludes 0 the difference "
        "is called resolved.</p>",
        _overview(summary),
        *sections,
        *(f"<h2>{escape(missing.title)}</h2>{_table(missing)}" for missing in not_run(summary)),
        "<h2>How it was made</h2><p>The same numbers stand in summary.json, tables.csv, tables.md and tables.tex "
        f"beside this page, the pictures in plots.</p>{facts(made)}",
    ]
    if summary.get("config"):
        body.append(f"<details><summary>Configuration</summary>{facts(summary['config'])}</details>")
    return document(f"Comparison of systems: {model}", "".join(body), _STYLE)


def _overview(summary: Json) -> str:
    """One line per task, with a link to it: who leads, and how that stands to the baseline."""
    rows = []
    for place, (name, task) in enumerate(summary["tasks"].items(), 1):
        metric = headline(task)
        found, first = means(task, metric), leaders(task)
        against = baseline(summary, task)
        stands = ["baseline" if system == against else standing(task, system) or MISSING for system in first]
        cells = [
            f"<td><a href='#task-{place}'>{escape(name)}</a></td><td class='num'>{task.get('n') or 0:,}</td>",
            f"<td>{escape(metric)}</td><td>{escape(', '.join(first) or MISSING)}</td>",
            f"<td class='num'>{number(found[first[0]] if first else None)}</td>",
            f"<td>{escape(', '.join(dict.fromkeys(stands)) or MISSING)}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    header = (
        "<tr><th>task</th><th class='num'>queries</th><th>headline metric</th><th>best</th><th class='num'>value</th>"
        "<th>against the baseline</th></tr>"
    )
    return f"<nav class='scroll wide'><table>{header}{''.join(rows)}</table></nav>"


def _section(place: int, name: str, task: Json, drawn: Mapping[str, str], cases: str) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in remarks(task))
    parts = [
        f"<section id='task-{place}'><h2>{escape(name)} <a class='up' href='#top'>↑ all tasks</a></h2>",
        f"<p class='soft'>{escape(size(task))}</p><p>{escape(verdict(task))}</p>",
        drawn.get("results", ""),
        _table(results(task)),
        _folded("Notes and settings", f"<ol class='small'>{notes}</ol>") if notes else "",
        _folded("Differences", drawn.get("differences", "") + "".join(map(_table, differences(task)))),
        drawn.get("facets", ""),
        *(_folded(table.title, _table(table)) for table in facets(task)),
        *(f"<h4>{escape(table.title)}</h4>{_table(table)}" for table in costs(task)),
        _folded("Wins and losses", cases),
        "</section>",
    ]
    return "".join(parts)


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>" if body else ""


def _table(table: Table) -> str:
    def written(cell: Cell) -> str:
        text = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
        return f"{text}<span class='i'>{escape(cell.interval)}</span>" if cell.interval else text

    kinds = ["" if place < table.names else " class='num'" for place in range(len(table.header))]
    header = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, table.header, strict=True))
    rows = "".join(
        f"<tr>{''.join(f'<td{kind}>{written(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
        for row in table.rows
    )
    return f"<div class='scroll wide'><table><tr>{header}</tr>{rows}</table></div>"
