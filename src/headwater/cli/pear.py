"""`headwater pear`: learn coefficients for the heads that talk over the context, fold them, check the result."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.headset.headset import HeadSet

app = typer.Typer(
    help="Re-weight heads that talk over the context, and fold that into the weights.", no_args_is_help=True
)

FIT_EXAMPLES = """
Examples:

  headwater pear fit --output pear.json

  headwater pear fit --model my/model --heads suppressing.json --steps 60 --plot curve.png --output pear.json

  headwater pear fit --model my/model --heads all --select heldout --steps 200 --output all.json
"""
FOLD_EXAMPLES = """
Example:

  headwater pear fold --model my/model --heads pear.json --output my/folded
"""
CHECK_EXAMPLES = """
Examples:

  headwater pear check --model my/folded --heads pear.json

  headwater pear check --model my/folded --heads pear.json --base my/model --json
"""
Set = Annotated[Path, typer.Option("--heads", help="A head set with coefficients, from `headwater pear fit`.")]


@app.command("fit", epilog=FIT_EXAMPLES)
def fit(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the head set is written (JSON).")],
    model: options.Model = "tiny",
    heads: Annotated[
        str | None,
        typer.Option("--heads", help="A head set, heads written 13-18,13-21, or 'all'. Default: found first."),
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, help="The first so many of them.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 60,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=0.0, help="Peak rate of AdamW.")] = 5e-3,
    select: Annotated[
        str, typer.Option("--select", help="'fixed': after all steps; 'heldout': best look within --max-text-kl.")
    ] = "fixed",
    max_text_kl: Annotated[
        float, typer.Option("--max-text-kl", min=0.0, help="Nats per token that plain text may move by.")
    ] = 0.02,
    preset: Annotated[str | None, typer.Option("--preset", help="'official': the released code's switches.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw coefficients by step (.png, .svg or .pdf).")] = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn one coefficient for each head on random-token copying; no documents, no labels."""
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; name a file, such as {output / 'pear.json'}.")
    options.writable_folder(output.parent)
    if plot is not None:
        options.picture(plot)
    from headwater.cli.names import read_set

    given = heads if heads is None or heads == "all" else read_set(heads)
    from headwater.adapt.pear import Pear

    method = Pear(
        given,  # type: ignore[arg-type]
        top_k,
        steps,
        seed,
        learning_rate=learning_rate,
        schedule=max(2500, steps),
        select=select,  # type: ignore[arg-type]
        max_text_kl=max_text_kl,
        preset=preset,  # type: ignore[arg-type]
    )
    lm = options.load_model(model, device, dtype, quiet)
    with progress("learning coefficients", quiet) as step:
        found = method.fit(lm, step)
    found.save(output)
    note(f"{len(found)} coefficients written to {output}.", quiet)
    if plot is not None:
        from headwater.plots import coefficient_paths, save

        save(coefficient_paths(found.provenance["curve"], [f"{layer}-{head}" for layer, head in found.heads]), plot)
        note(f"Curve drawn to {plot}.", quiet)
    if json_output:
        emit({"path": str(output), "heads": found.heads, "coefficients": found.coefficients, **found.provenance})
        return
    _table(found)
    held = found.provenance["heldout"]
    out.print(
        f"held-out copy loss {held['before']:.4f} -> {held['after']:.4f} at step {found.provenance['step']}; plain "
        f"text moved by {found.provenance['text_kl']:.5f} nats per token; share of coefficients below one "
        f"{found.provenance['below_one']:.2f}",
        markup=False,
        soft_wrap=True,
    )


@app.command("fold", epilog=FOLD_EXAMPLES)
def fold(
    heads: Set,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new checkpoint.")],
    model: options.Model = "tiny",
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Multiply the coefficients into the weights: an ordinary checkpoint of the same size and speed."""
    from headwater.headset.headset import HeadSet

    found = HeadSet.load(heads)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {output} is there already; name a new folder, so that no checkpoint is lost.")
    options.writable_folder(output.parent)
    lm = options.load_model(model, device, dtype, quiet)
    from headwater.headset.card import fold_card
    from headwater.instrument.fold import fold as fold_weights

    fold_weights(lm, found, zeros=True)  # into a new folder: nothing is lost
    lm.card = fold_card(found, lm.name, lm.card)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    lm.save(partial)
    found.save(partial / "heads-folded.json")
    partial.replace(output)  # whole or not at all
    if json_output:
        emit({"folder": str(output), "heads": found.heads, "coefficients": found.coefficients})
        return
    out.print(f"{len(found)} heads of {lm.name} folded; the checkpoint is in {output}.", markup=False, soft_wrap=True)


@app.command("check", epilog=CHECK_EXAMPLES)
def check(
    heads: Set,
    model: Annotated[str, typer.Option("--model", "-m", help="The folded checkpoint.")],
    base: Annotated[
        str | None, typer.Option("--base", help="The model before folding. Default: the one the head set names.")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare a folded checkpoint with its original: names, sizes, coefficients as stored, plain text.

    Exits with 1 where anything but the folded columns differs.
    """
    from headwater.headset.headset import HeadSet

    found = HeadSet.load(heads)
    origin = base or found.provenance.get("model")
    if origin is None:
        raise InputError("This head set does not say which model it was made for; name it with --base.")
    folded = options.load_model(model, device, dtype, quiet)
    original = options.load_model(str(origin), device, dtype, quiet)
    from headwater.adapt.pear_check import check_fold

    report = check_fold(folded, original, found)
    ordinary = all(report[key] for key in ("same_names", "same_shapes", "same_dtypes", "others_identical", "folded"))
    if json_output:
        emit({**report, "ordinary": ordinary})
    else:
        _report(report)
    if not ordinary:
        raise typer.Exit(1)


def _table(found: HeadSet) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("head", "coefficient", "after rounding"):
        table.add_column(name, justify="right")
    kept = found.provenance.get("effective") or [None] * len(found)
    for (layer, head), coefficient, effective in zip(found.heads, found.coefficients or [], kept, strict=True):
        table.add_row(f"{layer}-{head}", f"{coefficient:.4f}", "" if effective is None else f"{effective:.4f}")
    out.print(table)


def _report(report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    shown = {
        "tensor names": report["same_names"],
        "shapes": report["same_shapes"],
        "stored dtype": report["same_dtypes"],
        "all other weights": report["others_identical"],
        "coefficients": report["folded"],
    }
    for name, same in shown.items():
        table.add_row(name, "the same" if same else "DIFFERENT")
    table.add_row(
        "bytes of weights", " / ".join("not a folder" if s is None else f"{s:,}" for s in report["bytes"].values())
    )
    table.add_row("logits, folded against scaled", f"{report['logits']:.1e} of the largest")
    table.add_row("plain text moved by", f"{report['text_kl']:.5f} nats per token")
    out.print(table)
    for row in report["effective"]:
        line = f"{row['head']:>8}  asked {row['coefficient']:.4f}  stored {row['effective']:.4f}"
        out.print(line, markup=False)
