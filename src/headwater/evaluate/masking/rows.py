"""The figures of a masking experiment that one wants first: a row per task and cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.evaluate.masking.cells import RANDOM, TOP, Cell
from headwater.evaluate.masking.settings import Settings

UNMASKED = "unmasked"


def compared(names: Mapping[str, Cell]) -> list[list[str]]:
    """For each K the top of the first set, then all others."""
    sizes = list(dict.fromkeys(cell.k for cell in names.values()))
    return [[name for name, cell in names.items() if cell.k == k] for k in sizes]


def against_random(names: Mapping[str, Cell]) -> list[list[str]]:
    """For each K the random heads, then all others; no K of which none could be drawn."""
    found = []
    for group in compared(names):
        drawn = [name for name in group if names[name].role == RANDOM]
        if drawn:
            found.append([*drawn, *(name for name in group if name not in drawn)])
    return found


def rows(task: str, found: Mapping[str, Any], names: Mapping[str, Cell], settings: Settings) -> list[dict[str, Any]]:
    """The headline metric of each cell, with its differences to the whole model, to the first set's top and to random.

    Random heads are as many.
    """
    metric = found["metrics"][0]
    tops = {group[0] for group in compared(names)}
    random_of = {names[group[0]].k: group[0] for group in against_random(names)}
    gaps = {(row["system"], row["baseline"]): row for row in found["differences"] if row["metric"] == metric}
    out = []
    for name, system in found["systems"].items():
        cell = names.get(name)
        top = None if cell is None else next(group[0] for group in compared(names) if name in group)
        out.append(
            {
                "task": task,
                "metric": metric,
                "lower_is_better": metric in found["lower_is_better"],
                "role": UNMASKED if cell is None else cell.role,
                "of": None if cell is None else cell.of,
                "k": 0 if cell is None else cell.k,
                "mode": settings.mode,
                "phase": settings.phase,
                "seeds": system["seeds"],
                **system["metrics"][metric],
                "minus_unmasked": gaps.get((name, UNMASKED)),
                "minus_top": None if name in tops else gaps.get((name, str(top))),
                "minus_random": None if cell is None else gaps.get((name, random_of.get(cell.k, ""))),
            }
        )
    return out


def label(row: Mapping[str, Any]) -> str:
    """A row's name for tables and pictures, without its K."""
    role = row["role"]
    drawn = len(row["seeds"])
    if role in (TOP, UNMASKED):
        return f"top of {row['of']}" if role == TOP else UNMASKED
    return f"{role} ({drawn} draw{'s' if drawn > 1 else ''})" if drawn else str(role)


def lines(rows_of: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of one task for `headwater.plots.curve`: a line per set and control over K, from K = 0 on."""
    whole = next(row for row in rows_of if row["role"] == UNMASKED)
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(rows_of, key=lambda row: int(row["k"])):
        if row["role"] != UNMASKED:
            out.setdefault(label(row), {"0": whole})[str(row["k"])] = row
    return out
