"""Markdown tables out of the summary of `headwater.evaluate.heads_job`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headwater.evaluate.heads_settings import ALL, EXAMPLES, QR, RANDOM
from headwater.evaluate.masking.rows import UNMASKED, label
from headwater.evaluate.questions import KEYWORDS
from headwater.evaluate.tables import interval, table


def tables(summary: Mapping[str, Any]) -> dict[str, str]:
    """Every table of a summary by name.

    methods-20, methods-50, counts, examples, lengths, overlap, stability, cost, masks-all, masks-decode, made; and,
    where the collections were there, collections and orders.
    """
    results, k = summary["results"], summary["top_k"]
    found = {f"methods-{label.split()[0]}": _methods(results[label]) for label in ("20 candidates", "50 candidates")}
    one = results["20 candidates"]["sets"]
    counts = [[name.removeprefix("top "), *_cells(row)] for name, row in one.items() if name.startswith("top ")]
    found["counts"] = table(["heads", "nDCG@10", "recall@1"], [*counts, ["all", *_cells(one[ALL])]])
    rows = []
    for count in EXAMPLES:
        drawn = [row for name, row in one.items() if name.startswith(f"{count} examples")]
        if not drawn:
            continue
        cells = []
        for measure in ("nDCG@10", "R@1"):
            means = [row[measure]["mean"] for row in drawn]
            cells.append(f"{np.mean(means):.3f} ({min(means):.3f} to {max(means):.3f})")
        rows.append([count, *cells])
    found["examples"] = table(["examples", "nDCG@10 (least to most of the draws)", "recall@1"], rows)
    lengths = results["lengths"]
    names = list(next(iter(lengths.values()))["sets"])
    found["lengths"] = table(
        ["heads found", *(_length(*pair) for pair in lengths.items())],
        [[_found_where(name), *(interval(row["sets"][name]["nDCG@10"]) for row in lengths.values())] for name in names],
    )
    chance = summary["overlap"]["chance"]
    pairs = [
        [name.replace(" | ", ", "), row["shared"], "" if row["spearman"] is None else f"{row['spearman']:.2f}"]
        for name, row in summary["overlap"]["pairs"].items()
    ]
    found["overlap"] = (
        table(["detectors", f"shared of {k}", "Spearman, all heads"], pairs)
        + f"\n\nBy chance {chance['mean']:.1f} of {k} are shared, and more than {chance['high']} in less than one case "
        "in twenty."
    )
    found["stability"] = table(
        ["detector", "examples (groups)", "bootstrap overlap", "halves", "three disjoint sets"],
        [
            [
                name,
                f"{row['examples']} ({row['groups']})",
                f"{row['bootstrap']['overlap']:.2f}",
                f"{row['halves']['overlap']:.2f}",
                "" if row["disjoint"] is None else f"{row['disjoint']['agreement']['overlap']:.2f}",
            ]
            for name, row in summary["stability"].items()
        ],
    )
    machine = ", ".join(f"{name} {value}" for name, value in summary["made"]["machine"].items())
    found["cost"] = f"{_cost(summary['cost'])}\n\nMeasured on: {machine}."
    found |= {f"masks-{phase}": _masks(masked) for phase, masked in summary["masked"].items()}
    if summary["collections"]:
        found["collections"] = "\n\n".join(_collection(*pair) for pair in summary["collections"].items())
        found["orders"] = _orders(summary["collections"])
    made = summary["made"]
    found["made"] = (
        f"`{made['command']}`; model {made['model']}, fingerprint `{summary['config']['fingerprint']}`; "
        + ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        + f"; {made['date'][:10]}."
        + "".join(f" Not run: {name}: {why}" for name, why in summary["not_run"].items())
    )
    return found


def _length(count: str, row: Mapping[str, Any]) -> str:
    """Header of the lists of a length."""
    return f"{count} tokens ({row['documents']:.0f} documents, {row['known']:.0%} of known countries)"


def _found_where(name: str) -> str:
    """What the rows of the table of lengths are."""
    if name == QR:
        return "on lists of 20"
    return name.removeprefix(QR + " ") if name.startswith(QR) else name


def _cost(cost: Mapping[str, Any]) -> str:
    """Layers, operations and seconds of each set."""
    header = ["heads", "layers run"]
    header += [f"{kind} ({row['tokens']:,.0f} tokens)" for kind, row in cost["lists"].items()]
    rows = []
    for name, layers in cost["layers"].items():
        found = [row["sets"][name] for row in cost["lists"].values()]
        cells = [f"{each['flops'] / 1e9:.1f} G, {each['seconds']:.2f} s" for each in found]
        rows.append([RANDOM if name.startswith(RANDOM) else name, layers, *cells])
    return table(header, rows)


def _collection(name: str, found: Mapping[str, Any]) -> str:
    """One collection: each set beside BM25's order and all heads, with the best candidate last and shuffled."""
    facts = (
        f"**{name}**: {found['n']} queries, {found['found']:.0%} with a relevant passage among the candidates; "
        f"prompts of {found['tokens']:,.0f} tokens in the mean; {found['cut']} lists had to be cut "
        f"({found['cut documents']:.1f} passages of a list in the mean)."
    )
    rows = [["BM25's order", "", interval(found[KEYWORDS]), "", "", ""]]
    for heads, row in found["sets"].items():
        for order, gaps in found["minus"][heads].items():
            cells = [interval(gaps[base], signed=True) if base in gaps else "" for base in (KEYWORDS, ALL, QR)]
            rows.append([heads, "best last" if order == "reversed" else order, interval(row[order]), *cells])
    header = ["heads", "prompt", "nDCG@10", "minus BM25", "minus all heads", f"{QR} minus this"]
    return f"{facts}\n\n{table(header, rows)}"


def _orders(collections: Mapping[str, Any]) -> str:
    """What the order of the candidates in the prompt does to each set."""
    rows = []
    for name, found in collections.items():
        for heads, gaps in found["orders"].items():
            scores = [f"{found['sets'][heads][order]['mean']:.3f}" for order in ("given", "reversed", *_others(gaps))]
            cells = [interval(gap, signed=True) for gap in gaps.values()]
            taus = ["-" if gap["tau"] is None else f"{gap['tau']:.2f}" for gap in gaps.values()]
            rows.append([name, heads, *scores, *cells, " / ".join(taus)])
    gaps = next(iter(next(iter(collections.values()))["orders"].values()))
    header = ["list", "heads", "best first", "best last", *_others(gaps)]
    header += [f"best last minus {'best first' if order == 'given' else order}" for order in gaps]
    return table([*header, "Kendall's tau of these pairs"], rows)


def _others(gaps: Mapping[str, Any]) -> list[str]:
    return [order for order in gaps if order != "given"]


def _masks(masked: Mapping[str, Any]) -> str:
    """What is left without the top K of each set, and how much less that is than without K random heads."""
    rows = masked["rows"]
    sizes = sorted({row["k"] for row in rows} - {0})
    scores, gaps = [], []
    for task, about in masked["tasks"].items():
        own = {(label(row), row["k"]): row for row in rows if row["task"] == task}
        whole = own[UNMASKED, 0]
        title = f"{task} ({whole['metric']}, {about['n']} questions)"
        scores.append([title, "none", *[f"{whole['mean']:.2f}"] * len(sizes)])
        for name in dict.fromkeys(name for name, _ in own if name != UNMASKED):
            found = [own.get((name, k)) for k in sizes]
            scores.append(["", name, *(_lost(row, "minus_unmasked", True) for row in found)])
            if any(row is not None and row["minus_random"] for row in found):
                gaps.append([title, name, *(_lost(row, "minus_random", False) for row in found)])
    counts = [f"K = {k}" for k in sizes]
    parts = [f"Score, and what is lost:\n\n{table(['task', 'without', *counts], scores)}"]
    if gaps:
        parts.append(f"Minus the score without K random heads:\n\n{table(['task', 'without', *counts], gaps)}")
    missing = [f"{gap['system']} ({gap['task']}): {gap['why']}" for gap in masked["not_run"]]
    return "\n\n".join([*parts, *(["Not run: " + " ".join(missing)] if missing else [])])


def _lost(row: Mapping[str, Any] | None, gap: str, score: bool) -> str:
    """A score with its difference, or the difference alone; empty where there is none."""
    if row is None or row[gap] is None:
        return ""
    difference = row[gap]
    found = f"{difference['mean']:+.2f} [{difference['low']:+.2f}, {difference['high']:+.2f}]"
    return f"{row['mean']:.2f}, {found}" if score else found


def _methods(result: Mapping[str, Any]) -> str:
    """Every detector's set and the controls, with the paired difference to the query-focused heads."""
    shown = [name for name in result["sets"] if not name.startswith(("top ", *(f"{n} examples" for n in EXAMPLES)))]
    rows = []
    for name in shown:
        gap = result["differences"].get(name)
        rows.append([name, *_cells(result["sets"][name]), "" if gap is None else interval(gap["nDCG@10"], signed=True)])
    return table(["heads", "nDCG@10", "recall@1", f"{QR} minus this, nDCG@10"], rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [interval(row["nDCG@10"]), interval(row["R@1"])]
