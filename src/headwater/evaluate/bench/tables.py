"""A benchmark's summary as markdown, LaTeX and CSV."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from csv import DictWriter
from typing import Any

from headwater.evaluate.bench.layout import Cell, Json, Table, count_of, not_run, remarks, tables, value
from headwater.evaluate.bench.overview import overview
from headwater.evaluate.bench.verdict import verdict
from headwater.evaluate.page import flat
from headwater.evaluate.tables import table

EXPLAINED = (
    "Brackets hold 95 % bootstrap intervals. The best value of a metric is bold; ↓ marks metrics of which less is "
    "better. Differences are paired by query; p (Holm) is corrected for the number of comparisons, and detectable is "
    "the smallest true difference that these queries would show in 80 of 100 repetitions."
)
COLUMNS = (
    *("task", "system", "metric", "mean", "low", "high", "n", "groups", "seeds"),
    *("part", "facet", "value", "baseline", "p", "p_holm", "detectable", "note"),
)


def markdown(summary: Json) -> str:
    """Everything in one markdown page."""
    out = [f"# Comparison of systems: {_md(summary['made'].get('model', ''))}", EXPLAINED]
    for name, task in summary["tasks"].items():
        out += [f"## {_md(name)}", _md(size(task)), _md(verdict(task))]
        out += [f"**{_md(found.title)}**\n\n{_markdown_table(found)}" for found in tables(task)]
        out += ["\n".join(f"- {_md(note)}" for note in remarks(task))]
    for missing in not_run(summary):
        out += [f"## {missing.title}", _markdown_table(missing)]
    facts = [[_md(key.replace("_", " ")), _md(flat(item))] for key, item in summary["made"].items()]
    out += ["## How it was made", table(["what", "value"], facts)]
    return "\n\n".join(filter(None, out)) + "\n"


def headlines(summary: Json) -> str:
    """All tasks side by side, in markdown: headline metrics, differences and costs by kind of task."""
    found = [*overview(summary), *not_run(summary)]
    return "\n\n".join(f"**{_md(each.title)}**\n\n{_markdown_table(each)}" for each in found)


def latex(summary: Json) -> str:
    r"""Everything as LaTeX to `\input`, for the package booktabs."""
    out = [r"% needs \usepackage{booktabs}"]
    out += [f"% {key}: {_one_line(flat(item))}" for key, item in summary["made"].items()]
    out.append(_tex(EXPLAINED))
    for number, (name, task) in enumerate(summary["tasks"].items(), 1):
        out.append(rf"\subsection*{{{_tex(name)}}}" + "\n" + _tex(f"{size(task)} {verdict(task)}"))
        for place, found in enumerate(tables(task), 1):
            out.append(_latex_table(found, f"{name}. {found.title}.", f"tab:bench-{number}-{place}"))
        if notes := remarks(task):
            lines = "\n".join(rf"\item {_tex(note)}" for note in notes)
            out.append(f"\\begin{{itemize}}\n{lines}\n\\end{{itemize}}")
    out += [_latex_table(missing, f"{missing.title}.", "tab:bench-not-run") for missing in not_run(summary)]
    return "\n\n".join(out) + "\n"


def csv(summary: Json) -> str:
    """Everything in one long table, a number per line; `part` says what a line is.

    Parts: result, figure (over all queries together), facet, cost, difference (its `metric` is system minus
    baseline), note, not run. Numbers are unrounded; what is missing is empty.
    """
    stream = io.StringIO()
    writer = DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for name, task in summary["tasks"].items():
        for line in _csv_lines(task):
            writer.writerow({"task": name, **line})
    for row in summary.get("not_run") or ():
        writer.writerow({"task": row["task"], "system": row["system"], "part": "not run", "note": row["why"]})
    return stream.getvalue()


def size(task: Json) -> str:
    """How many queries a task has, in one sentence."""
    amount, groups = task.get("n"), task.get("groups")
    of = f" of {count_of(groups, 'group', 'groups')}" if groups and groups != amount else ""
    return f"{str(task.get('kind', 'task')).capitalize()}, {count_of(amount, 'query', 'queries')}{of}."


def _csv_lines(task: Json) -> Iterator[dict[str, Any]]:
    headline = task["metrics"][0]
    for system, row in task["systems"].items():
        about = {"system": system, "seeds": len(row.get("seeds") or ()) or ""}
        for metric, found in row["metrics"].items():
            yield {**about, "part": "result", "metric": metric, **_numbers(found)}
        for name, figure in (row.get("finish") or {}).items():
            yield {**about, "part": "figure", "metric": name, **_numbers({"mean": figure})}
        for facet, points in (row.get("facets") or {}).items():
            for at, found in points.items():
                place = {"part": "facet", "metric": headline, "facet": facet, "value": at}
                yield {**about, **place, **_numbers(found)}
        costs = {**(row.get("cost") or {}), "failed": row.get("failed"), **(row.get("counted") or {})}
        for name, cost in costs.items():
            yield {**about, "part": "cost", "metric": name, **_numbers({"mean": cost})}
    for row in task.get("differences") or ():
        names = {name: row[name] for name in ("system", "baseline", "metric")}
        yield {"part": "difference", **names, **_numbers(row)}
    for note in remarks(task):
        yield {"part": "note", "note": note}


def _numbers(row: Json | None) -> dict[str, Any]:
    names = ("mean", "low", "high", "n", "groups", "p", "p_holm", "detectable")
    found = {name: value(row, name) for name in names}
    whole = {name: row[name] for name in ("n", "groups") if row and found[name] is not None}
    return {name: figure for name, figure in found.items() if figure is not None} | whole


def _markdown_table(found: Table) -> str:
    def written(cell: Cell) -> str:
        text = f"**{_md(cell.text)}**" if cell.best else _md(cell.text)
        return f"{text} {cell.interval}" if cell.interval else text

    return table([_md(name) for name in found.header], [[written(cell) for cell in row] for row in found.rows])


def _latex_table(found: Table, caption: str, label: str) -> str:
    def written(cell: Cell, place: int) -> str:
        text = _tex(cell.text) if place < found.names else _minus(_tex(cell.text))
        text = rf"\textbf{{{text}}}" if cell.best else text
        return rf"{text} {{\scriptsize {_minus(cell.interval)}}}" if cell.interval else text

    columns = "l" * found.names + "r" * (len(found.header) - found.names)
    header = [_tex(name) for name in found.header]
    rows = [[written(cell, place) for place, cell in enumerate(row)] for row in found.rows]
    lines = [" & ".join(row) + r" \\" for row in (header, *rows)]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\small",
            rf"\caption{{{_tex(caption)}}}\label{{{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


# An underscore within a word stands as it is; markdown only reads those at the edge of one.
_MARKDOWN = re.compile(r"[\\`*|\[\]<>&~#$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_LATEX = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↓": r"$\downarrow$",
    "–": "--",
    # Behind a line's end both would be read as an argument.
    "[": "{[}",
    "*": "{*}",
}


def _md(text: object) -> str:
    return _MARKDOWN.sub(lambda match: _HTML.get(match[0], f"\\{match[0]}"), _one_line(text))


def _tex(text: object) -> str:
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _minus(figures: str) -> str:
    """A sign instead of a hyphen in front of a figure."""
    return re.sub(r"-(?=\d)", "$-$", figures)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
