"""Markdown tables out of the summary of `headwater.evaluate.heads_job`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headwater.evaluate.heads_job import ALL, EXAMPLES, QR
from headwater.evaluate.tables import table


def tables(summary: Mapping[str, Any]) -> dict[str, str]:
    """Every table of a summary by name: methods-20, methods-50, counts, examples, lengths, overlap, stability, made."""
    results, k = summary["results"], summary["top_k"]
    found = {f"methods-{label.split()[0]}": _methods(results[label]) for label in ("20 candidates", "50 candidates")}
    one = results["20 candidates"]["sets"]
    counts = [[name.removeprefix("top "), *_cells(row)] for name, row in one.items() if name.startswith("top ")]
    found["counts"] = table(["heads", "nDCG@10", "recall@1"], [*counts, ["all", *_cells(one[ALL])]])
    rows = []
    for count in EXAMPLES:
        drawn = [row for name, row in one.items() if name.startswith(f"{count} examples")]
        cells = []
        for measure in ("nDCG@10", "R@1"):
            means = [row[measure]["mean"] for row in drawn]
            cells.append(f"{np.mean(means):.3f} ({min(means):.3f} to {max(means):.3f})")
        rows.append([count, *cells])
    found["examples"] = table(["examples", "nDCG@10 (least to most of the draws)", "recall@1"], rows)
    lengths = results["lengths"]
    names = list(next(iter(lengths.values()))["sets"])
    found["lengths"] = table(
        ["heads found on", *(f"ranking {count} documents" for count in lengths)],
        [[name, *(f"{row['sets'][name]['nDCG@10']['mean']:.3f}" for row in lengths.values())] for name in names],
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
    made = summary["made"]
    found["made"] = (
        f"`{made['command']}`; model {made['model']}, fingerprint `{summary['config']['fingerprint']}`; "
        + ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        + f"; {made['date'][:10]}."
    )
    return found


def _methods(result: Mapping[str, Any]) -> str:
    """Every detector's set and the controls, with the paired difference to the query-focused heads."""
    shown = [name for name in result["sets"] if not name.startswith(("top ", *(f"{n} examples" for n in EXAMPLES)))]
    rows = []
    for name in shown:
        gap = result["differences"].get(name)
        rows.append([name, *_cells(result["sets"][name]), "" if gap is None else _cell(gap["nDCG@10"], signed=True)])
    return table(["heads", "nDCG@10", "recall@1", f"{QR} minus this, nDCG@10"], rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [_cell(row["nDCG@10"]), _cell(row["R@1"])]


def _cell(row: Mapping[str, float], signed: bool = False) -> str:
    mark = "+" if signed else ""
    return f"{row['mean']:{mark}.3f} [{row['low']:{mark}.3f}, {row['high']:{mark}.3f}]"
