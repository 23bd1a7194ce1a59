"""`headwater needle`: does a model find a fact again, wherever it stands in a long text?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.evaluate.needle_grid import NeedleGrid

EXAMPLES = """
Examples:

  headwater needle --lengths 256,512 --depths 0,0.5,1

  headwater needle --model Qwen/Qwen3-0.6B --template book --haystack novels/ --plot grid.png

  headwater needle --needles mine.jsonl --haystack notes/ --lengths 1024 --json

A line of a needle file: {"statement": "The code is 7 red foxes.", "question": "What is ...?", "answer": "7 red foxes"}
"""


def needle(
    model: options.Model = "tiny",
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths", help="In tokens, with commas. Default: eight from 256 to 8,192 or the model's window."
        ),
    ] = None,
    depths: Annotated[
        str, typer.Option("--depths", help="Shares of the text before the fact, 0 to 1, with commas.")
    ] = "0,0.25,0.5,0.75,1",
    needles: Annotated[
        Path | None, typer.Option("--needles", help="Facts to hide (JSONL). Default: six about invented countries.")
    ] = None,
    haystack: Annotated[
        Path | None,
        typer.Option("--haystack", help="File or folder with the text around them. Default: facts of real countries."),
    ] = None,
    template: Annotated[
        str, typer.Option("--template", help="auto, chat or base (headwater's answer prompt), or book (the published).")
    ] = "auto",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Of an answer.")] = 50,
    seed: options.Seed = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw the grid as a heat map (.png, .svg or .pdf).")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Hide facts at every depth of texts of every length and ask for them (needle in a haystack)."""
    from headwater.data.needle import (
        LONGEST,
        built_in_haystack,
        built_in_needles,
        lengths_for,
        needle_cases,
        read_haystack,
        read_needles,
    )

    given = options.numbers(lengths, "--lengths") if lengths is not None else ()
    if not all(value.is_integer() for value in given):
        raise InputError(f"--lengths takes whole numbers of tokens, got {lengths!r}.")
    asked = [int(value) for value in given]
    shares = options.numbers(depths, "--depths")
    hidden = built_in_needles("testing") if needles is None else read_needles(needles)
    text = built_in_haystack("testing") if haystack is None else read_haystack(haystack)
    needle_cases(hidden, text, asked or [1], shares, seed)  # what is wrong shows before a model is loaded
    if plot is not None:
        if plot.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise InputError(f"Pictures are written as .png, .svg or .pdf, not {plot.suffix or 'without a suffix'}.")
        options.writable_folder(plot.parent)
    lm = options.load_model(model, device, dtype, quiet)
    if not asked:
        asked = list(lengths_for(lm.max_length, max_new_tokens))
        if asked[-1] < LONGEST:
            note(f"Lengths end at {asked[-1]:,} tokens: {lm.name} reads {lm.max_length:,}.", quiet)
    from headwater.evaluate.metrics import require
    from headwater.evaluate.needle_grid import measure_needles

    require()
    cases = needle_cases(hidden, text, asked, shares, seed)
    with progress("asking", quiet) as step:
        found = measure_needles(lm, cases, template, max_new_tokens, progress=step)
    if plot is not None:
        _draw(found, plot)
        note(f"Grid drawn to {plot}.", quiet)
    if json_output:
        emit(found.as_dict())
    else:
        _table(found, quiet)


def _table(found: NeedleGrid, quiet: bool) -> None:
    """Lengths downwards, depths to the right: recall in per cent, with a shade."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("tokens", justify="right")
    for depth in found.depths:
        table.add_column(f"{depth:.0%}", justify="right")
    for length, row in zip(found.lengths, found.cells(), strict=True):
        table.add_row(f"{length:,}", *(f"{' ░▒▓█'[min(4, int(value * 5))]} {100 * value:3.0f}" for value in row))
    out.print("Words of the answer that came back (ROUGE-1 recall, %), by length and depth\n", style="dim")
    out.print(table)
    record = found.as_dict()
    lines = [f"recall {_with_interval(record['recall'])}", f"letter by letter {_with_interval(record['exact'])}"]
    names = len(found.settings["needles"])
    out.print(f"\n{', '.join(lines)}; {found.passed:.0%} of the cells at 50 or more")
    out.print(
        f"{len(found.results)} questions, {names} needles, model {found.settings['model']}", style="dim", markup=False
    )
    wrong = [result for result in found.results if result.recall <= 0.5]
    for result in wrong[:3]:
        note(f"{result.case}: {result.response[:80]!r} instead of {result.answer!r}", quiet)


def _with_interval(measure: dict[str, object]) -> str:
    """A mean in per cent with its interval over needles."""
    interval = measure["interval"]
    text = f"{100 * float(str(measure['mean'])):.0f}"
    return (
        text
        if not isinstance(interval, dict)
        else f"{text} [{100 * interval['low']:.0f}, {100 * interval['high']:.0f}]"
    )


def _draw(found: NeedleGrid, path: Path) -> None:
    from headwater.plots import heat, save

    rows, columns = [f"{length:,}" for length in found.lengths], [f"{depth:.0%}" for depth in found.depths]
    figure = heat({str(found.settings["model"]): found.cells()}, rows, columns, "tokens", "depth", "ROUGE-1 recall")
    save(figure, path)
