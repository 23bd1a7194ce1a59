"""`headwater heads compare`: what head sets share, beside what chance would share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli import options
from headwater.cli.console import clean, emit, note, out
from headwater.cli.names import named, read_set
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.headset.compare import Comparison
    from headwater.headset.headset import HeadSet

EXAMPLES = """
Examples:

  headwater heads compare llama-3.1-8b-instruct/qr-lme llama-3.1-8b-instruct/qr-nq

  headwater heads compare mine.json yours.json --top-k 8 --top-k 16 --plot maps.png

  headwater heads compare qrhead.yaml 13-18,13-21,8-11 --shape 32x32 --json
"""


def compare(
    sets: Annotated[
        list[str],
        typer.Argument(help="Head sets, published names, QRHead yaml, Retrieval_Head json, or heads 13-18,13-21."),
    ],
    top_k: Annotated[
        list[int] | None,
        typer.Option("--top-k", "-k", min=1, help="Compare the best so many; may be repeated. Default: 4, 8, 16, ..."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Layers x query heads (32x32) of sets that do not say.")
    ] = None,
    query_heads: Annotated[
        int | None, typer.Option("--query-heads", min=1, help="Query heads per layer, for DuoAttention patterns.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw the maps side by side (.png, .svg or .pdf).")
    ] = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Overlap of head sets of one model beside chance, correlation of their scores, heads per layer."""
    if len(sets) < 2:
        raise InputError("Give at least two head sets to compare.")
    if plot is not None:
        options.picture(plot)
    known = _shape(shape)
    given = {name: read_set(text, query_heads) for name, text in named(sets).items()}
    from headwater.headset.compare import compare as compared

    found = compared(given, top_k or None, known)
    models = {str(heads.provenance["model"]) for heads in given.values() if heads.provenance.get("model")}
    if len(models) > 1:
        note(f"The sets were found on different models: {', '.join(sorted(models))}.", quiet)
    if plot is not None:
        _draw(found, given, plot)
        note(f"Maps drawn to {plot}.", quiet)
    if json_output:
        emit({"sets": {name: [list(head) for head in heads.heads] for name, heads in given.items()}, **found.as_dict()})
    else:
        _tables(found)


def _shape(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})[x×]([1-9]\d{0,4})", text.strip())
    if match is None:
        raise InputError(f"--shape {text!r} is not layers x heads; write for example 32x32.")
    return int(match[1]), int(match[2])


def _draw(found: Comparison, given: dict[str, HeadSet], path: Path) -> None:
    from headwater.plots import head_maps, save

    if found.shape is None:
        raise InputError("None of these sets says how many heads the model has; say --shape, for example 32x32.")
    save(head_maps({name: (heads.scores, heads.heads) for name, heads in given.items()}, found.shape), path)


def _tables(found: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("sets", "best", "shared", "overlap", "by chance (95 %)"):
        table.add_column(title, justify="left" if title == "sets" else "right", overflow="fold")
    last, compared = "", {row.k for row in found.overlaps}
    for row in found.overlaps:
        lists = found.sizes[row.first], found.sizes[row.second]
        if row.k is None and lists[0] == lists[1] in compared:
            continue
        both = clean(f"{row.first} and {row.second}")
        sizes = str(row.k) if row.k is not None else f"all {lists[0]}, {lists[1]}"
        chance = "?" if row.chance is None else f"{row.chance.overlap:.2f} (≤ {row.chance.overlap_high:.2f})"
        shown = Text("" if both == last else both)
        table.add_row(shown, sizes, str(len(row.shared)), f"{row.overlap:.2f}", chance)
        last = both
    out.print(table)
    for pair in found.correlations:
        out.print(clean(f"Spearman of all scores, {pair.first} and {pair.second}: {pair.spearman:.2f}"), markup=False)
    listed = " ".join(f"{layer}-{head}" for layer, head in found.shared) or "none"
    out.print(f"\nIn {'both' if len(found.sizes) == 2 else 'all'} lists ({len(found.shared)}): {listed}", markup=False)
    if found.shape is None:
        out.print("No set says how many heads the model has: --shape 32x32 adds what chance would share.", style="dim")
    bars = Table(box=None, pad_edge=False, header_style="dim")
    bars.add_column("layer", justify="right")
    for name in found.layers:
        bars.add_column(Text(clean(name)), overflow="fold")
    widest = max(max(row) for row in found.layers.values())
    scale = min(1.0, 24 / max(widest, 1))
    rows = list(zip(*found.layers.values(), strict=True))
    for layer, counts in enumerate(rows):
        if any(counts):
            bars.add_row(str(layer), *(f"{'█' * max(round(n * scale), n > 0)} {n}" if n else "" for n in counts))
    out.print("")
    out.print(bars)
