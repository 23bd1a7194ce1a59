"""`headwater heads mask`: what a model can no longer do without some of its heads."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import command_line, emit, note, out
from headwater.cli.demo import stages
from headwater.cli.names import named
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.headset.headset import HeadSet
    from headwater.model.lm import LanguageModel

EXAMPLES = """
Examples:

  headwater heads mask --task reading --task closed-book --output runs/mask

  headwater heads mask --heads qr.json --versus wu.json --task needle --task perplexity:novel.txt --k 1,2,4,8

  headwater heads mask --task reading --phase decode --no-controls --limit 20 --plot mask.png
"""


class Mode(str, Enum):
    """What becomes of a head's output."""

    zero = "zero"
    reference_mean = "reference_mean"
    sequence_mean = "sequence_mean"
    uniform = "uniform"


class Phase(str, Enum):
    """Where heads are taken out."""

    all = "all"
    decode = "decode"


def mask(
    heads: options.Heads = None,
    versus: Annotated[
        list[str] | None, typer.Option("--versus", help="Another head set, whose top K is masked too; repeatable.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            help="reading, two-hop, needle, closed-book, perplexity, or a task of `headwater eval list` that reads or "
            "predicts; repeatable. Default: reading.",
        ),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option("--k", help="How many heads, such as 1,2,4. Default: 1, 2 and 4 % of all.")
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option("--mode", help="What a head's output becomes. uniform is no removal: the mean of values stays."),
    ] = Mode.zero,
    phase: Annotated[
        Phase,
        typer.Option("--phase", help="Everywhere, or at the last prompt token and those after it."),
    ] = Phase.all,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Also random, layer-matched and bottom heads.")
    ] = True,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many draws of random heads.")] = 5,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Examples per task at most, a fixed sample.")] = 100,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Texts for reference_mean: a file or folder. Default: the fact world's."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data sets, for tasks that need one.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; running again goes on there.")
    ] = Path("mask-out"),
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw scores over K (.png, .svg or .pdf); one file per task where there are more."),
    ] = None,
    model: options.Model = "tiny",
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Take the top heads of a set out and measure tasks, beside as many random, layer-matched and bottom heads."""
    wanted = None if sizes is None else options.numbers(sizes, "--k")
    if wanted is not None and not all(k.is_integer() for k in wanted):
        raise InputError(f"--k takes whole numbers such as 1,2,4, got {sizes!r}.")
    if plot is not None:
        options.picture(plot)
    if reference is not None and mode is not Mode.reference_mean:
        raise InputError("--reference goes with --mode reference_mean.")
    from headwater.evaluate.masking.run import run
    from headwater.evaluate.masking.settings import Settings, built_in_reference, masked_task

    texts = None
    if mode is Mode.reference_mean:
        given = () if reference is None else options.documents_at(reference, quiet)
        texts = tuple(document.text for document in given) or built_in_reference()
    settings = Settings(
        tasks=tuple(task or ["reading"]),
        sizes=None if wanted is None else tuple(int(k) for k in wanted),
        mode=mode.value,
        phase=phase.value,
        controls=controls,
        seeds=tuple(range(seed, seed + seeds)),
        limit=limit,
        data=None if data is None else str(data),
        reference=texts,
    )
    for name in settings.tasks:  # what is wrong with a task shows before a model is loaded
        masked_task(name, settings)
    options.writable_folder(output)
    lm = options.load_model(model, device, dtype, quiet)
    sets = _sets(lm, heads, versus or [], quiet)
    with stages(quiet) as stage:
        summary = run(lm, sets, output, settings, stage, command_line())
    if plot is not None:
        _draw(summary, plot, quiet)
    if json_output:
        emit(summary)
        return
    _tables(summary)
    for gap in summary["not_run"]:
        note(f"Not run: {gap['task']}, {gap['system']}: {gap['why']}", quiet)
    note(f"Everything is in {output}; tables and plots of it: headwater eval report {output}", quiet)


def _sets(lm: LanguageModel, heads: str | None, versus: list[str], quiet: bool) -> dict[str, HeadSet]:
    """The sets by short names, the controlled one first."""
    given = named(([] if heads is None else [heads]) + versus)
    found = {} if heads is not None else {"own": options.load_ranker(lm, None, "auto", quiet).heads}
    if set(found) & set(given):
        raise InputError("The model's own set is called 'own'; rename that file.")
    return found | {name: options.load_ranker(lm, text, "auto", quiet).heads for name, text in given.items()}


def _tables(summary: Mapping[str, Any]) -> None:
    """Per task: what was taken out, the score, and its differences to the whole model and to the first set's top."""
    from rich.table import Table

    from headwater.evaluate.bench.layout import Cell, p_value, with_interval
    from headwater.evaluate.masking.rows import label

    def written(cell: Cell) -> str:
        return f"{cell.text} {cell.interval}".strip()

    first = next(iter(summary["sets"]))
    for task, about in summary["tasks"].items():
        rows = [row for row in summary["rows"] if row["task"] == task]
        metric = f"{rows[0]['metric']}{' ↓' if rows[0]['lower_is_better'] else ''}"
        out.print(
            f"{task}: {about['n']} examples of {about['groups']} groups; heads taken out with mode={rows[0]['mode']}, "
            f"phase={rows[0]['phase']}\n",
            markup=False,
            soft_wrap=True,
        )
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("without", no_wrap=True)
        for title in ("K", metric, "- unmasked", "p (Holm)", f"- top of {first}", "p (Holm)"):
            table.add_column(title, justify="right")
        for row in rows:
            cells = [label(row), str(row["k"]), written(with_interval(row))]
            for gap in (row["minus_unmasked"], row["minus_top"]):
                cells += [written(with_interval(gap, signed=True)), p_value(gap["p_holm"])] if gap else ["", ""]
            table.add_row(*cells)
        out.print(table, width=None if out.is_terminal else 140)
        out.print()


def _draw(summary: Mapping[str, Any], path: Path, quiet: bool) -> None:
    """A picture per task: a line per set and control over K."""
    from headwater.evaluate.masking.rows import lines
    from headwater.plots import curve, save

    for task in summary["tasks"]:
        rows = [row for row in summary["rows"] if row["task"] == task]
        about = f"heads taken out ({rows[0]['mode']}, {rows[0]['phase']})"
        place = path if len(summary["tasks"]) == 1 else path.with_name(f"{path.stem}-{task}{path.suffix}")
        save(curve(lines(rows), about, f"{task}: {rows[0]['metric']}"), place)
        note(f"Picture drawn to {place}.", quiet)
