"""`headwater heads`: find a model's query-focused heads, look at a head set."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli import compare, explore, mask, options, stability
from headwater.cli.console import emit, note, out, progress
from headwater.errors import InputError
from headwater.heads import DETECTORS

if TYPE_CHECKING:
    from headwater.headset.headset import HeadSet

app = typer.Typer(help="Find the heads that read, and look at head sets.", no_args_is_help=True)

FIND_EXAMPLES = """
Examples:

  headwater heads find --output tiny-heads.json

  headwater heads find --model Qwen/Qwen3-0.6B --examples mine.jsonl --top-k 16 --output qwen-heads.json

  headwater heads find --method retrieval --set lengths=512,1024 --set stop_when_stable=true --output copying.json

  headwater heads find --method juice --set boost=2 --set cut=1 --output juice.json

A line of an examples file: {"query": "...", "documents": ["...", {"text": "...", "id": "d2"}], "relevant": ["d2"]}

For retrieval heads: {"statement": "The code is 7 red foxes.", "question": "What is ...?", "answer": "7 red foxes"}

For ph3 and juice: {"question": "...", "documents": ["..."], "context": "what they say", "memory": "what is true"}
"""
SHOW_EXAMPLES = """
Examples:

  headwater heads show tiny-heads.json

  headwater heads show tiny-heads.json --plot map.png

  headwater heads show qrhead.yaml --output heads.json

  headwater heads show full_attention_heads.tsv --query-heads 32 --top-k 16
"""
PUBLISHED_EXAMPLES = """
Examples:

  headwater heads published

  headwater heads published --json
"""


class Metric(str, Enum):
    """How a head is scored on an example."""

    mass = "mass"
    ndcg = "ndcg"


@app.command("find", epilog=FIND_EXAMPLES)
def find(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the head set is written (JSON).")],
    model: options.Model = "tiny",
    examples: Annotated[
        Path | None,
        typer.Option("--examples", help="Examples (JSONL), as below for each method. Default: the built-in ones."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="Number of heads. Default: the method's own.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help=f"The detector: {', '.join(DETECTORS)}.")] = "query-focused",
    metric: Annotated[
        Metric | None, typer.Option("--metric", help="Of query-focused heads: mass on gold documents, or nDCG@10.")
    ] = None,
    switches: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, any other switch of the detector; repeatable. A wrong name lists all."),
    ] = None,
    seed: options.Seed = 0,
    template: options.Template = "auto",
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find heads: those whose attention goes from a question to the documents that answer it, or by another method."""
    if method not in DETECTORS:
        raise InputError(f"There is no detector {method!r}; there are {', '.join(DETECTORS)}.")
    from headwater.heads.knobs import configured

    given = options.pairs(switches or [], "--set")
    if metric is not None:
        given["metric"] = metric.value
    if template != "auto":
        given["template"] = template
    detector = configured(DETECTORS[method], given, top_k=top_k, seed=seed)
    used = None if examples is None else detector.read_examples(examples)
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; name a file, such as {output / 'heads.json'}.")
    options.writable_folder(output.parent)
    lm = options.load_model(model, device, dtype, quiet)
    with progress("finding heads", quiet) as step:
        found = detector.find(lm, used, progress=step)
    found.save(output)
    note(f"{len(found.heads)} heads written to {output}.", quiet)
    if json_output:
        emit(_record(found, output))
    else:
        _table(found)


@app.command("show", epilog=SHOW_EXAMPLES)
def show(
    head_set: Annotated[
        Path,
        typer.Argument(help="A head set, a published name, a QRHead yaml, Retrieval_Head json or DuoAttention tsv."),
    ],
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, help="List so many heads. Default: all.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write it as a head set (JSON).")] = None,
    query_heads: Annotated[
        int | None, typer.Option("--query-heads", min=1, help="Query heads per layer, for DuoAttention patterns.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw the map (.png, .svg or .pdf).")] = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the heads of a set, best first, with a map of all scores."""
    from headwater.errors import InputError
    from headwater.headset.headset import HeadSet
    from headwater.headset.importers import read_duo_attention

    if query_heads is not None:
        scores = read_duo_attention(head_set, query_heads)
        found = scores.top(top_k or scores.scores.size)
    else:
        found = HeadSet.load(head_set)
    if top_k is not None:
        found = found.top(min(top_k, len(found.heads)))
    if output is not None:
        found.save(output)
        note(f"{len(found.heads)} heads written to {output}.", quiet)
    if plot is not None:
        if found.scores is None:
            raise InputError(f"{head_set} lists heads without scores; there is no map to draw.")
        from headwater.plots import head_map, save

        save(head_map(found.scores, found.heads), plot)
        note(f"Map drawn to {plot}.", quiet)
    if json_output:
        emit(_record(found, head_set))
    else:
        _table(found)
        _map(found)


@app.command("published", epilog=PUBLISHED_EXAMPLES)
def published_sets(json_output: options.Json = False) -> None:
    """List the head sets of real models that come with headwater; use one with --heads NAME."""
    from headwater.headset.published import load_published, published

    rows = [
        {**{key: value for key, value in entry.items() if key != "scores"}, "heads": str(load_published(name))}
        for name, entry in published().items()
    ]
    if json_output:
        emit(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("name", "heads", "found on", "source (licence)"):
        table.add_column(title, no_wrap=title == "name", overflow="fold")
    for row in rows:
        count = str(len(row["heads"].split(",")))
        table.add_row(row["name"], count, row["found_on"], f"{row['source']} ({row['licence']}), {row['paper']}")
    out.print(table)


app.command("mask", epilog=mask.EXAMPLES)(mask.mask)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("stability", epilog=stability.EXAMPLES)(stability.stability)
app.command("explore", epilog=explore.EXAMPLES)(explore.explore)


def _record(found: HeadSet, path: Path) -> dict[str, object]:
    return {
        "path": str(path),
        "heads": [list(head) for head in found.heads],
        "coefficients": found.coefficients,
        "scores": found.scores,
        "provenance": dict(found.provenance),
    }


def _table(found: HeadSet) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("rank", "head", "score"):
        table.add_column(name, justify="right")
    if found.coefficients is not None:
        table.add_column("coefficient", justify="right")
    for place, (layer, head) in enumerate(found.heads):
        score = "" if found.scores is None else f"{found.scores[layer, head]:.4f}"
        row = [str(place + 1), f"{layer}-{head}", score]
        if found.coefficients is not None:
            row.append(f"{found.coefficients[place]:.3f}")
        table.add_row(*row)
    out.print(table)
    source = [f"{key}: {found.provenance[key]}" for key in ("model", "method", "seed") if key in found.provenance]
    out.print(", ".join(source), style="dim", markup=False)


def _map(found: HeadSet) -> None:
    """Layers downwards, heads to the right, five shades; chosen heads in brackets."""
    if found.scores is None:
        return
    import numpy as np

    scores = np.asarray(found.scores, float)
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    chosen = set(found.heads)
    out.print("\nmap (layer by head; chosen heads in brackets)", style="dim")
    for layer, row in enumerate(scores):
        cells = []
        for head, score in enumerate(row):
            share = (score - low) / (high - low) if np.isfinite(score) and high > low else 0.0
            shade = " ░▒▓█"[min(4, int(share * 5))]
            cells.append(f"[{shade}]" if (layer, head) in chosen else f" {shade} ")
        out.print(f"{layer:>4} {''.join(cells)}", markup=False, soft_wrap=True)
