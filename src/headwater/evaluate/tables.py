"""Markdown tables out of a summary, written between markers of a page so that no number is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.errors import InputError
from headwater.evaluate.files import write_page

Json = Mapping[str, Any]


def markdown(summary: Json) -> dict[str, str]:
    """Every table of a main-job summary by name: ranking, differences, reading, made."""
    ranking, reading, made = summary["ranking"], summary["reading"], summary["made"]
    random_sets = ranking["systems"].get("random heads", {}).get("R@1 of each set", [])
    spread = (
        f" (mean of {len(random_sets)} sets, {min(random_sets):.3f} to {max(random_sets):.3f})" if random_sets else ""
    )
    rows = [
        [
            name + (spread if name == "random heads" else ""),
            interval(row["nDCG@10"]),
            interval(row["R@1"]),
            f"{row['layers']} of {ranking['layers']}" if row["layers"] else "no model",
        ]
        for name, row in ranking["systems"].items()
    ]
    versions = made["versions"]
    facts = [
        ["command", f"`{made['command']}`"],
        ["model", f"{made['model']}, fingerprint `{summary['config']['fingerprint']}`"],
        ["heads", f"`{summary['heads']['QR heads']}`"],
        ["found on", f"{summary['config']['examples']} questions about development countries"],
        ["seed", made["seed"]],
        ["BM25", f"k1 {ranking['bm25']['k1']}, b {ranking['bm25']['b']}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in versions.items())],
        ["machine", ", ".join(f"{name} {value}" for name, value in made["machine"].items())],
        ["date", made["date"]],
    ]
    return {
        "ranking": table(["ranker", "nDCG@10", "recall@1", "layers run"], rows),
        "differences": table(
            ["paired difference", "nDCG@10", "recall@1"],
            [[name, interval(row["nDCG@10"]), interval(row["R@1"])] for name, row in ranking["differences"].items()],
        ),
        "reading": table(
            ["answer from", "normalised exact match"],
            [[name, interval(row)] for name, row in reading["systems"].items()],
        ),
        "made": table(["what", "value"], facts),
        "headline": _headline(ranking),
        "sizes": (
            f"{ranking['n']} questions about {ranking['groups']} held-out countries with {ranking['candidates']} "
            f"candidates each; {reading['n']} questions about {reading['groups']} held-out countries to read."
        ),
    }


def _headline(ranking: Json) -> str:
    """The result in one sentence."""
    scores = {name: f"{row['nDCG@10']['mean']:.3f}" for name, row in ranking["systems"].items()}
    gain = interval(ranking["differences"]["QR heads - all heads"]["nDCG@10"])
    return (
        f"On {ranking['n']} questions about {ranking['groups']} countries that the model never saw, its query-focused "
        f"heads rank {ranking['candidates']} documents at nDCG@10 {scores['QR heads']}, all heads together at "
        f"{scores['all heads']} (difference {gain}), random heads at {scores['random heads']}, BM25 at "
        f"{scores['BM25']}."
    )


_MARKED = re.compile(r"(<!-- begin: ([\w-]+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def check_page(path: str | Path) -> str:
    """The text of a markdown page that has places for tables.

    Raises:
        InputError: when there is no such page, or it has no markers.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the page {path}: {error}.") from error
    if not _MARKED.search(text):
        raise InputError(f"{path} has no place for tables: lines <!-- begin: ranking --> and <!-- end: ranking -->.")
    return text


def fill_page(path: str | Path, tables: Mapping[str, str]) -> Path:
    """Write tables between the markers `<!-- begin: name -->` and `<!-- end: name -->` of a page; others stay.

    Raises:
        InputError: when there is no such page, or it has no marker of any of these tables.
    """
    text = check_page(path)
    if not any(match[2] in tables for match in _MARKED.finditer(text)):
        raise InputError(f"{path} has no place for any of the tables {', '.join(tables)}.")

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}{tables[match[2]]}\n{match[3]}" if match[2] in tables else match[0]

    return write_page(path, _MARKED.sub(fill, text))


def speed(report: Json) -> dict[str, str]:
    """The table of `benchmarks.capture_speed`'s report: speed."""
    made = report["made"]
    rows = [
        [f"{int(length):,}", name, f"{row['median_s']:.3f}", f"{row['min_s']:.3f} to {row['max_s']:.3f}", _ratio(row)]
        for length, contestants in report["lengths"].items()
        for name, row in contestants.items()
    ]
    machine = made["machine"]
    facts = (
        f"{made['parameters'] / 1e6:.0f} M random Llama, {made['dtype']}, {made['heads']} heads, {made['rows']} rows, "
        f"{made['repeats']} interleaved rounds, {machine['threads']} threads on {machine['cores']} cores, "
        f"torch {made['versions']['torch']}, transformers {made['versions']['transformers']}, {made['date'][:10]}."
    )
    header = ["tokens", "what", "median s", "range s", "ratio to the plain prefill, median [range]"]
    return {"speed": f"{facts}\n\n{table(header, rows)}"}


def _ratio(row: Json) -> str:
    return f"{row['ratio']:.2f} [{row['ratio_min']:.2f}, {row['ratio_max']:.2f}]"


def interval(row: Json, signed: bool = False) -> str:
    """A mean with its interval, three digits each; a difference with its sign."""
    mark = "+" if signed else ""
    return f"{row['mean']:{mark}.3f} [{row['low']:{mark}.3f}, {row['high']:{mark}.3f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
