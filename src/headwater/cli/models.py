"""`headwater models`: which architectures work, with what, and what stands in the way of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.cli import options
from headwater.cli.console import emit, out

if TYPE_CHECKING:
    from headwater.model.anatomy import Family

EXAMPLES = """
Examples:

  headwater models

  headwater models --json
"""
OUTSIDE = "rows are taken from whole attention maps: slow, in the model's dtype"


def models(json_output: options.Json = False) -> None:
    """List the supported architectures: what can be read, ranked with, scaled and folded."""
    from headwater.model.anatomy import FAMILIES

    rows = [
        {
            "family": name,
            "attention_rows": "yes" if family.interface else "slow",
            "head_outputs": "yes",
            "fold": "yes",
            "note": _note(name, family),
        }
        for name, family in sorted(FAMILIES.items())
    ]
    if json_output:
        emit(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("family", "find heads, rank, explain", "scale, ablate", "fold", "note"):
        table.add_column(title)
    for row in rows:
        table.add_row(*(str(row[key] or "") for key in ("family", "attention_rows", "head_outputs", "fold", "note")))
    out.print(table)
    out.print(
        "\nThe family is `model_type` in a checkpoint's config.json, of its text part for vision-language models. Any "
        "other is refused when it is loaded. Quantised weights (4 and 8 bit) rank, but are not folded."
    )


def _note(name: str, family: Family) -> str | None:
    """What is special about a family."""
    if family.hybrid:
        return f"{family.hybrid} layers have no heads and are skipped; documents are read again for every query"
    if name == "falcon":
        return f"{OUTSIDE}; with ALiBi no rows at all"
    return None if family.interface else OUTSIDE
