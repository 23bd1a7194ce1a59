"""`headwater heads stability`: would other examples, fewer examples or another seed have given the same heads?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.headset.stability import Stability

EXAMPLES = """
Examples:

  headwater heads stability --seeds 2

  headwater heads stability --model Qwen/Qwen3-0.6B --examples mine.jsonl --top-k 16 --plot curve.png

Examples of one group ("group" in the file: a document, a country, a needle) are resampled together.
"""
STOP = 0.9  # bootstrap overlap at which detectors stop asking for examples (qrhead.md 5)


def stability(
    model: options.Model = "tiny",
    examples: Annotated[
        Path | None,
        typer.Option("--examples", help="Examples (JSONL) as for `heads find`. Default: the built-in ones."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="Number of heads. Default: by size.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="The detector, as for `heads find`.")] = "query-focused",
    switches: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, any other switch of the detector; repeatable.")
    ] = None,
    sets: Annotated[int, typer.Option("--sets", min=2, help="Disjoint sets of examples.")] = 3,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Run the detector with so many seeds.")] = 3,
    seed: options.Seed = 0,
    template: options.Template = "auto",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw overlap against examples (.png, .svg or .pdf).")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """How far the heads depend on the examples: bootstrap, halves, disjoint sets, seeds, and how many are needed."""
    from headwater.heads import DETECTORS

    if method not in DETECTORS:
        raise InputError(f"There is no detector {method!r}; there are {', '.join(DETECTORS)}.")
    from headwater.heads.knobs import configured

    switched = options.pairs(switches or [], "--set") | ({} if template == "auto" else {"template": template})
    detectors = [configured(DETECTORS[method], switched, seed=seed + number) for number in range(seeds)]
    given = None if examples is None else detectors[0].read_examples(examples)
    if plot is not None:
        options.picture(plot)
    lm = options.load_model(model, device, dtype, quiet)
    from headwater.heads.detector import default_top_k
    from headwater.headset.stability import stability as measured

    runs = []
    for number, detector in enumerate(detectors):
        with progress(f"seed {seed + number}", quiet) as step:
            runs.append(detector.score(lm, given, progress=step))
    wanted = default_top_k(lm.anatomy) if top_k is None else top_k
    found = measured(runs[0], wanted, sets=sets, seed=seed, others=runs[1:])
    if plot is not None:
        _draw(found, plot)
        note(f"Curve drawn to {plot}.", quiet)
    if json_output:
        emit({"model": lm.name, "method": method, "seeds_run": seeds, **found.as_dict()})
    else:
        _tables(found, f"{method} heads of {lm.name}", sets, seeds)


def _tables(found: Stability, title: str, sets: int, seeds: int) -> None:
    from rich.table import Table

    grouped = "" if found.groups == found.examples else f" in {found.groups} groups"
    out.print(
        f"The best {found.k} of {found.scored} {title}, from {found.examples} examples{grouped}\n",
        markup=False,
        soft_wrap=True,
    )
    heads = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("rank", "head", "score", "95 % interval", "in bootstrap sets"):
        heads.add_column(name, justify="right")
    for place, member in enumerate(found.bootstrap.members, 1):
        interval = f"{member.low:.4f} to {member.high:.4f}"
        layer, head = member.head
        heads.add_row(str(place), f"{layer}-{head}", f"{member.score:.4f}", interval, f"{member.membership:.0%}")
    out.print(heads)
    out.print("")
    chance, boot = found.chance, found.bootstrap
    rows: list[tuple[str, str, str, str]] = [
        ("by chance, two sets of this size", f"{chance.overlap:.2f}", f"≤ {chance.overlap_high:.2f}", "0.00"),
        (f"bootstrap, {boot.draws} draws", f"{boot.overlap:.2f}", f"noise alone {boot.noise:.2f}", ""),
        _row("halves of the examples" + (" that share no group" if grouped else ""), found.halves),
    ]
    if found.halves_of_examples is not None:
        rows.append(_row("halves that may share groups", found.halves_of_examples))
    if found.disjoint is not None:
        sizes = ", ".join(map(str, found.disjoint.sizes))
        rows.append(_row(f"{sets} disjoint sets ({sizes} examples)", found.disjoint.agreement))
    if found.seeds is not None:
        rows.append(_row(f"{seeds} seeds, same examples", found.seeds))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("how far sets agree", "overlap", "range", "Spearman"):
        table.add_column(name, justify="left" if name.startswith("how") else "right")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    if found.disjoint is not None:
        shared = " ".join(f"{layer}-{head}" for layer, head in found.disjoint.shared) or "none"
        out.print(f"In all {sets} disjoint sets ({len(found.disjoint.shared)}): {shared}\n", markup=False)
    curve = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("examples", "overlap with all examples", "between disjoint sets of so many"):
        curve.add_column(name, justify="right")
    for point in found.curve:
        between = "" if point.between is None else _interval(point.between)
        curve.add_row(str(point.n), _interval(point.full), between)
    out.print(curve)
    reached = "at least" if boot.overlap >= STOP else "below"
    out.print(f"\nBootstrap overlap {boot.overlap:.2f}: {reached} the {STOP} at which a set counts as settled.")


def _row(name: str, found: Any) -> tuple[str, str, str, str]:
    together = "" if found.spearman != found.spearman else f"{found.spearman:.2f}"
    return name, f"{found.overlap:.2f}", f"{found.overlap_low:.2f} to {found.overlap_high:.2f}", together


def _interval(spread: dict[str, float]) -> str:
    return f"{spread['mean']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]"


def _draw(found: Stability, path: Path) -> None:
    from headwater.plots import curve, save

    chance = {"mean": found.chance.overlap, "low": found.chance.overlap, "high": found.chance.overlap_high}
    lines: dict[str, dict[str, Any]] = {
        "with the set of all examples": {str(point.n): point.full for point in found.curve},
        "between sets without a common group": {str(p.n): p.between for p in found.curve if p.between is not None},
        "by chance, up to its 95 % quantile": {str(point.n): chance for point in found.curve},
    }
    save(curve(lines, "examples", f"overlap of the best {found.k} heads"), path)
