"""Markdown tables out of the summary of `headwater.evaluate.pear_job`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater.evaluate.pear.questions import ASKED, CLOSED, CONFLICT, FEW, FIRST, LAST, MANY, MIDDLE, NOISE
from headwater.evaluate.pear.rows import PEAR, RANDOM, SEQUENCE_MEAN, VANILLA
from headwater.evaluate.pear.summary import COMPARED, DOCUMENT, ELSE, F1, LENGTH, REGRESSION, REMEMBERED, SUBSPAN
from headwater.evaluate.tables import table

Json = Mapping[str, Any]
MAIN = "pear"  # the folder whose tables have their plain names on a page


def tables(summary: Json) -> dict[str, str]:
    """Every table of a summary by name.

    sizes, reading, places, memory, known, gains, controls, harm, sweep, heads, short, made. Those of a run in a folder
    FOLDER other than "pear" are named FOLDER-sizes and so on, so that a page can hold several models.
    """
    found = {
        "sizes": _sizes(summary),
        "reading": _shares(summary, (FEW, F1, SUBSPAN, MANY)),
        "places": _shares(summary, (FIRST, MIDDLE, LAST)),
        "memory": _shares(summary, (DOCUMENT, REMEMBERED, ELSE)),
        "known": _shares(summary, (ASKED, CLOSED, NOISE, REGRESSION)),
        "gains": _differences(summary, "minus vanilla"),
        "controls": _differences(summary, "PEAR minus"),
        "harm": _harm(summary),
        "sweep": _sweep(summary),
        "heads": _heads(summary),
        "short": _short(summary),
        "made": _made(summary),
    }
    label = summary["label"]
    return found if label == MAIN else {f"{label}-{name}": text for name, text in found.items()}


def _titles(summary: Json) -> dict[str, str]:
    """Column titles."""
    few, many = summary["documents"]["few"], summary["documents"]["many"]
    return {
        FEW: f"gold among {few}",
        F1: "the same, F1",
        SUBSPAN: "the same, answer anywhere in what is said",
        MANY: f"gold among {many}",
        FIRST: f"gold first of {many}",
        MIDDLE: "in the middle",
        LAST: "last",
        DOCUMENT: "conflict: says the document's",
        REMEMBERED: "says memory's",
        ELSE: "says something else",
        ASKED: "without documents, any fact",
        CLOSED: "without documents, known facts",
        NOISE: f"beside {summary['config']['noise']} noise documents",
        REGRESSION: "of those right alone, wrong beside a harmless document",
        LENGTH: "words of an answer",
    }


def _sizes(summary: Json) -> str:
    known, config, k = summary["known"], summary["config"], summary["k"]
    return (
        f"K = {k['reported']} of {k['of']} heads (default {k['default']}; the best on development questions was "
        f"{summary['sweep']['best']}). {config['seeds']} seeds of detection and learning. Of {known['asked']} "
        f"facts about known countries {known['tested'] + known['development']} were said right without documents in "
        f"another wording, the most frequent answer of a relation not counted: {known['tested']} to test with, "
        f"{known['development']} to choose with. Counted so, {known['guessed']:.1%} of facts about held-out countries, "
        f"which no one can know, were said right. Rows marked * were asked {config['questions']} questions of every "
        f"test at most ({config['long']} with the long list), the others the first {config['first']}, those that "
        f"share no batch the first {config['alone']}."
    )


def _shares(summary: Json, measures: Sequence[str]) -> str:
    """Mean, interval and number of questions of every row."""
    results = {name: summary["results"][name]["rows"] for name in measures if name in summary["results"]}
    if not results:
        return "Not measured: the model knows none of these facts."
    titles = _titles(summary)
    listed = [row for row in summary["rows"] if any(row in rows for rows in results.values())]
    lines = [
        [_name(summary, row), *(_cell(rows.get(row)) for rows in results.values()), _counts(results, row)]
        for row in listed
    ]
    return table(["row", *(titles[name] for name in results), "questions"], lines)


def _differences(summary: Json, kind: str) -> str:
    """Paired differences of the main measures; against PEAR with Holm's p."""
    results = {name: summary["results"][name][kind] for name in COMPARED if name in summary["results"]}
    titles = _titles(summary)
    listed = [row for row in summary["rows"] if any(row in rows for rows in results.values())]
    lines = [[_name(summary, row), *(_gap(rows.get(row)) for rows in results.values())] for row in listed]
    return table(["row", *(titles[name] for name in results)], lines)


def _harm(summary: Json) -> str:
    """Text KL, length of answers, cost, coefficients below one."""
    lengths = summary["results"].get(LENGTH, {"rows": {}})["rows"]
    lines = []
    for row, about in summary["rows"].items():
        treated = summary["treatments"].get(row, [])
        moved = [one["text_kl"] for one in treated]
        below = [one["below_one"] for one in treated if one["below_one"] is not None]
        length = lengths.get(row)
        lines.append(
            [
                _name(summary, row),
                f"{np.mean(moved):.4f} ({min(moved):.4f} to {max(moved):.4f})" if moved else "",
                "" if length is None else f"{length['mean']:.2f} [{length['low']:.2f}, {length['high']:.2f}]",
                f"{np.mean(below):.0%}" if below else "",
                about["cost"],
            ]
        )
    return table(
        ["row", "text KL, nats per token (seeds)", "words of an answer", "coefficients below 1", "cost of inference"],
        lines,
    )


def _sweep(summary: Json) -> str:
    """Numbers of heads on development questions."""
    shares, tests = summary["sweep"]["shares"], (FEW, CONFLICT, ASKED, CLOSED, NOISE)
    titles = {**_titles(summary), CONFLICT: "conflict: says the document's"}
    shown = [test for test in tests if test in shares[VANILLA]]
    rows = [[VANILLA, *(f"{shares[VANILLA][test]:.3f}" for test in shown)]]
    for k in summary["sweep"]["sizes"]:
        for name in (PEAR, RANDOM):
            rows.append([f"{name}, K = {k}", *(f"{shares[f'{name} {k}'][test]:.3f}" for test in shown)])
    text = table(["row", *(titles[test] for test in shown)], rows)
    weights = ", ".join(
        f"{weight}: " + " and ".join(f"{share:.3f}" for share in found.values())
        for weight, found in summary["weights"]["shares"].items()
    )
    return f"{text}\n\nContext-aware decoding, weight: {weights}."


def _heads(summary: Json) -> str:
    """What PEAR found and learned in each seed, with either mean in the place of a head."""
    rows = []
    for row, ablation in ((PEAR, "batch_mean"), (SEQUENCE_MEAN, "sequence_mean")):
        for seed, one in enumerate(summary["treatments"][row]):
            pairs = zip(one["heads"].split(","), one["coefficients"], strict=True)
            found = summary["detected"][ablation][seed]
            copies = " to ".join(
                f"{share:.2f}" for share in sorted({min(found["copy_accuracy"]), max(found["copy_accuracy"])})
            )
            listed = ", ".join(f"{h} ({c:.3f})" for h, c in pairs)
            listed = listed if found["suppressing"] else f"none suppresses; the nearest: {listed}"
            rows.append([ablation, seed, listed, copies, f"{one['below_one']:.0%}"])
    return table(["ablation", "seed", "heads (coefficients)", "copies right", "below 1"], rows)


def _short(summary: Json) -> str:
    """One model in a few lines: what its page shows where several models stand."""
    names = [row for row, about in summary["rows"].items() if about["decisive"]]
    shown = [name for name in (FEW, MANY, DOCUMENT, ASKED, CLOSED, NOISE) if name in summary["results"]]
    titles, results = _titles(summary), summary["results"]
    lines = []
    for row in names:
        cells = []
        for name in shown:
            gap = results[name]["minus vanilla"].get(row)
            cells.append(_cell(results[name]["rows"].get(row)) if gap is None else _gap(gap))
        lines.append([row if row == VANILLA else f"{row}{_none(summary, row)}, minus vanilla", *cells])
    known, k = summary["known"], summary["k"]
    facts = (
        f"{summary['config']['model']}: K = {k['reported']} of {k['of']}, PEAR's heads {_first(summary)}; "
        f"{known['asked']} facts asked, known {known['tested']} to test with and {known['development']} to choose "
        f"with; guessed right of held-out facts {known['guessed']:.1%}."
    )
    return f"{facts}\n\n{table(['row', *(titles[name] for name in shown)], lines)}"


def _first(summary: Json) -> str:
    """The heads of the first seed with their coefficients."""
    one = summary["treatments"][PEAR][0]
    return ", ".join(f"{h} ({c:.2f})" for h, c in zip(one["heads"].split(","), one["coefficients"], strict=True))


def _made(summary: Json) -> str:
    made = summary["made"]
    machine = ", ".join(f"{name} {value}" for name, value in made["machine"].items())
    return (
        f"`{made['command']}`; model {made['model']}, fingerprint `{summary['config']['fingerprint']}`; "
        + ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        + f"; {machine}; {made['date'][:10]}."
    )


def _name(summary: Json, row: str) -> str:
    named = row + _none(summary, row)
    return f"{named} *" if summary["rows"][row]["decisive"] else named


def _none(summary: Json, row: str) -> str:
    """The mark of PEAR's rows where in some seed no head suppresses, and the nearest one was taken."""
    if row not in (PEAR, SEQUENCE_MEAN) and not row.startswith(f"{PEAR} (K="):
        return ""
    found = summary["detected"]["sequence_mean" if row == SEQUENCE_MEAN else "batch_mean"]
    seeds = sum(not one["suppressing"] for one in found)
    return f" (no head suppresses in {seeds} of {len(found)} seeds)" if seeds else ""


def _counts(results: Mapping[str, Json], row: str) -> str:
    """How many; for what a harmless document spoils there are fewer, those that the row gets right alone."""
    found = sorted({rows[row]["n"] for name, rows in results.items() if row in rows and name != REGRESSION})
    if not found:
        return ""
    return " to ".join(str(n) for n in dict.fromkeys((found[0], found[-1])))


def _cell(row: Mapping[str, float] | None) -> str:
    return "" if row is None else f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _gap(row: Mapping[str, float] | None) -> str:
    if row is None:
        return ""
    p = f", p {row['p_holm']:.3f}" if "p_holm" in row else ""
    return f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]{p}"
