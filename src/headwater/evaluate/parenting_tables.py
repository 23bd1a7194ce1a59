"""Markdown tables out of the summary of `headwater.evaluate.parenting_job`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater.evaluate.parenting.questions import AGREEMENT, ASKED, CLOSED, UNSEEN
from headwater.evaluate.parenting.rows import BASE, KAFT, NO_BOUNDARY, PLAIN, ROUTED
from headwater.evaluate.parenting.summary import ADHERENCE, COMPARED, HARMONIC, REMEMBERED, ROBUSTNESS
from headwater.evaluate.tables import interval, table

Json = Mapping[str, Any]
MAIN = "parenting"  # the folder whose tables have their plain names on a page
TITLES = {
    REMEMBERED: "conflict: says memory's",
    AGREEMENT: "agreement",
    CLOSED: "closed book, known facts",
    ASKED: "closed book, any fact",
    UNSEEN: "reading about held-out countries",
}
_CHOSEN, _LAST = "chosen", "last"


def tables(summary: Json) -> dict[str, str]:
    """Every table of a summary by name.

    sizes, axes, harm, last, gains, controls, trainings, classes, curves, short, made. Those of a run in a folder FOLDER
    other than "parenting" are named FOLDER-sizes and so on, so that a page can hold several models.
    """
    found = {
        "sizes": _sizes(summary),
        "axes": _shares(summary, _CHOSEN, (ADHERENCE, ROBUSTNESS, HARMONIC, REMEMBERED)),
        "harm": _harm(summary),
        "last": _shares(summary, _LAST, (ADHERENCE, ROBUSTNESS, HARMONIC, CLOSED)),
        "gains": _gaps(summary, "minus base"),
        "controls": _gaps(summary, "routed minus"),
        "trainings": _trainings(summary),
        "classes": _classes(summary),
        "curves": _curves(summary),
        "short": _short(summary),
        "made": _made(summary),
    }
    label = summary["label"]
    return found if label == MAIN else {f"{label}-{name}": text for name, text in found.items()}


def _sizes(summary: Json) -> str:
    config, labels, counts = summary["config"], summary["known"]["labels"], summary["known"]["counts"]
    told = "; ".join(
        f"{split}: {sum(each.values()):,} asked, {each.get('known', 0):,} known, {each.get('wrong', 0):,} confidently "
        "wrong"
        for split, each in labels.items()
    )
    items = ", ".join(f"{kind} {count:,}" for kind, count in counts["train"].items())
    tests = ", ".join(f"{name} {n} ({groups} countries)" for name, (n, groups) in summary["tests"].items())
    least, most = config["documents"]
    return (
        f"Facts asked without documents: {told}. Training items: {items}; {least} to {most} documents (extraction: 3 "
        f"at least). Tests: {tests}. {config['steps']} steps of {config['batch']} items of each set, rank "
        f"{config['rank']}; a look at {config['development']} development questions of each kind every "
        f"{config['every']} steps, of which a chosen step lost at most {config['keep']:.0%} of the closed book "
        f"(training stops at {config['stop']:.0%}); learning rates "
        f"{', '.join(f'{rate:g}' for rate in config['rates'])}. {config['seeds']} seeds for {PLAIN}, {KAFT} and "
        f"{ROUTED}, {min(config['some'], config['seeds'])} for other trainings."
    )


def _shares(summary: Json, state: str, measures: Sequence[str]) -> str:
    """Mean and interval of every row."""
    results = {name: found["rows"] for name, found in summary["results"][state].items() if name in measures}
    shown = [name for name in measures if name in results]
    lines = [[row, *(_cell(results[name].get(row)) for name in shown)] for row in summary["rows"]]
    return table(["row", *(TITLES.get(name, name) for name in shown)], lines) + _refused(summary)


def _harm(summary: Json) -> str:
    """What must not get worse, with the perplexity of plain text."""
    results, shown = summary["results"][_CHOSEN], (AGREEMENT, CLOSED, ASKED, UNSEEN)
    base = np.mean(summary["rows"][BASE]["perplexity"])
    lines = []
    for row, about in summary["rows"].items():
        found = about["perplexity"]
        spread = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
        change = "" if row == BASE else f", {np.mean(found) / base - 1:+.1%}"
        cells = [_cell(results[name]["rows"].get(row)) for name in shown]
        lines.append([row, *cells, f"{np.mean(found):.2f}{spread}{change}"])
    return table(["row", *(TITLES[name] for name in shown), "perplexity of plain text"], lines)


def _gaps(summary: Json, kind: str) -> str:
    """Paired differences; against the routed row with Holm's p."""
    results = {name: summary["results"][_CHOSEN][name][kind] for name in COMPARED}
    listed = [row for row in summary["rows"] if any(row in rows for rows in results.values())]
    lines = [[row, *(_gap(rows.get(row)) for rows in results.values())] for row in listed]
    return table(["row", *(TITLES.get(name, name) for name in results)], lines)


def _trainings(summary: Json) -> str:
    """Learning rates, steps, parameters, and in what a row is not equal."""
    lines = []
    for row, about in summary["rows"].items():
        if about["rate"] is None:
            if row != BASE:
                lines.append([row, about["seeds"], "", "", "", "", "", about["unlike"]])
            continue
        grid = ", ".join(f"{rate}: {value:.3f}" for rate, value in about["rates"].items())
        early = f"; {about['stopped']} stopped early" if about["stopped"] else ""
        lost = f"; {about['skipped']} steps skipped" if about["skipped"] else ""
        lines.append(
            [
                row,
                about["seeds"],
                f"{about['rate']:g} ({grid})",
                ", ".join(map(str, about["best"])) + early + lost,
                _range(about["parameters"]),
                "" if about["cosine"] is None else f"{about['cosine']:+.2f}",
                f"{np.mean(about['seconds']):.0f}",
                about["unlike"],
            ]
        )
    header = ["row", "seeds", "learning rate (development harmonic mean of each)", "chosen steps", "parameters"]
    return table([*header, "cosine of L_a and L_r", "seconds", "not equal in"], lines)


def _classes(summary: Json) -> str:
    """Share of each class per third of the layers, mined and random, and how alike the sets rank."""
    found = summary["classes"]
    lines = []
    for name, count in found["sizes"].items():
        for which in ("mined", "random"):
            shares = found[which][name]
            lines.append([f"{name}, {which}", count, *(f"{share:.0%}" for share in shares)])
    rho = found["reliability"]
    text = (
        f"{found['layers']} layers; tau {found['tau']:g}, gamma {found['gamma']:.2f}. Spearman's rho between two "
        f"halves of the conflicts {rho['a']:.2f}, of the noise {rho['r']:.2f}; between conflicts and noise "
        f"{rho['between']:.2f}. A "
        "depth-matched partition has the mined shares."
    )
    return f"{table(['class', 'units', 'first third', 'middle', 'last'], lines)}\n\n{text}"


def _curves(summary: Json) -> str:
    """The pictures of a run, beside the page."""
    label = summary["label"]
    names = {"curves-adherence": "R_Ad over training", "curves-robustness": "R_Ro over training", "units": "classes"}
    return "\n\n".join(f"![{title}]({label}/{name}.svg)" for name, title in names.items())


def _short(summary: Json) -> str:
    """One model in a few lines: the rows that decide, and what differs from them."""
    results = summary["results"][_CHOSEN]
    shown = (ADHERENCE, ROBUSTNESS, HARMONIC, CLOSED, UNSEEN)
    lines = []
    for row in (BASE, PLAIN, KAFT, ROUTED, NO_BOUNDARY):
        if row in summary["rows"]:
            found = [_cell(results[name]["rows"].get(row)) for name in shown]
            lines.append([row, *found, f"{np.mean(summary['rows'][row]['perplexity']):.2f}"])
    for row in summary["rows"]:
        if row not in (BASE, ROUTED):
            gaps = [_gap(results[name]["routed minus"].get(row)) for name in shown]
            lines.append([f"routed minus {row}", *gaps, ""])
    rho, sizes = summary["classes"]["reliability"], summary["classes"]["sizes"]
    classes = ", ".join(f"{name} {count}" for name, count in sizes.items())
    facts = (
        f"{summary['config']['model']}: classes {classes}; Spearman's rho {rho['a']:.2f} within the conflicts, "
        f"{rho['r']:.2f} within the noise, {rho['between']:.2f} between them. {_sizes(summary)}"
    )
    header = ["row", *(TITLES.get(name, name) for name in shown), "perplexity"]
    return f"{facts}\n\n{table(header, lines)}{_refused(summary)}"


def _made(summary: Json) -> str:
    made = summary["made"]
    machine = ", ".join(f"{name} {value}" for name, value in made["machine"].items())
    return (
        f"`{made['command']}`; model {made['model']}, fingerprint `{summary['config']['fingerprint']}`; "
        + ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        + f"; {machine}; {made['date'][:10]}."
    )


def _refused(summary: Json) -> str:
    """Rows that could not be made, and why."""
    return "".join(f"\n\nNot run: {row}. {why}" for row, why in summary["refused"].items())


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _cell(row: Mapping[str, float] | None) -> str:
    return "" if row is None else interval(row)


def _gap(row: Mapping[str, float] | None) -> str:
    if row is None:
        return ""
    p = f", p {row['p_holm']:.3f}" if "p_holm" in row else ""
    return f"{interval(row, signed=True)}{p}"
