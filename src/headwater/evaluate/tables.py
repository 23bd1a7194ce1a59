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
            _interval(row["nDCG@10"]),
            _interval(row["R@1"]),
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
        "ranking": _table(["ranker", "nDCG@10", "recall@1", "layers run"], rows),
        "differences": _table(
            ["paired difference", "nDCG@10", "recall@1"],
            [[name, _interval(row["nDCG@10"]), _interval(row["R@1"])] for name, row in ranking["differences"].items()],
        ),
        "reading": _table(
            ["answer from", "normalised exact match"],
            [[name, _interval(row)] for name, row in reading["systems"].items()],
        ),
        "made": _table(["what", "value"], facts),
        "sizes": (
            f"{ranking['n']} questions about {ranking['groups']} held-out countries with {ranking['candidates']} "
            f"candidates each; {reading['n']} questions about {reading['groups']} held-out countries to read."
        ),
    }


def fill_page(path: str | Path, summary: Json | None) -> Path:
    """Write the tables of a summary between the markers `<!-- begin: name -->` and `<!-- end: name -->` of a page.

    Args:
        path: an existing markdown file.
        summary: of the main job (None: only check that the page can be filled).

    Raises:
        InputError: when there is no such page, it has no markers, or a marker names no table.
    """
    page = Path(path)
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the page {page}: {error}.") from error
    marked = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)
    if not marked.search(text):
        raise InputError(f"{page} has no place for tables: lines <!-- begin: ranking --> and <!-- end: ranking -->.")
    if summary is None:
        return page
    tables = markdown(summary)

    def fill(match: re.Match[str]) -> str:
        if match[2] not in tables:
            raise InputError(f"{page} asks for the table {match[2]!r}; there are {', '.join(tables)}.")
        return f"{match[1]}{tables[match[2]]}\n{match[3]}"

    return write_page(page, marked.sub(fill, text))


def _interval(row: Json) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
