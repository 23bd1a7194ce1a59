"""`headwater models`: which architectures work, with what, and what stands in the way of the others."""

from __future__ import annotations

from headwater.cli import options
from headwater.cli.console import emit, out

EXAMPLES = """
Examples:

  headwater models

  headwater models --json
"""
OUTSIDE = "computes attention outside transformers' attention interface"


def models(json_output: options.Json = False) -> None:
    """List the supported architectures: what can be read, ranked with, scaled and folded."""
    from headwater.model.anatomy import FAMILIES

    rows = [
        {
            "family": name,
            "attention_rows": family.interface,
            "head_outputs": True,
            "fold": True,
            "why_not": None if family.interface else OUTSIDE,
        }
        for name, family in sorted(FAMILIES.items())
    ]
    if json_output:
        emit(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("family", "find heads, rank, explain", "scale, ablate", "fold", "why not"):
        table.add_column(title)
    for row in rows:
        marks = ["yes" if row[key] else "no" for key in ("attention_rows", "head_outputs", "fold")]
        table.add_row(str(row["family"]), *marks, str(row["why_not"] or ""))
    out.print(table)
    out.print("\nThe family is `model_type` in a checkpoint's config.json. Any other is refused when it is loaded.")
