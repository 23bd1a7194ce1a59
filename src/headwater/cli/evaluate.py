"""`headwater eval`: measured experiments, with everything they were made of beside the numbers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from headwater.cli import options
from headwater.cli.console import command_line, emit, note, out
from headwater.cli.demo import stages

app = typer.Typer(help="Run measured experiments.", no_args_is_help=True)

EXAMPLES = """
Examples:

  headwater eval run --suite main --output runs/main

  headwater eval run --suite main --output docs/results/main --page docs/results/main.md
"""


class Suite(str, Enum):
    """The experiments there are."""

    main = "main"


@app.command("run", epilog=EXAMPLES)
def run(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; running again goes on there.")],
    suite: Annotated[Suite, typer.Option("--suite", help="Which experiment.")] = Suite.main,
    questions: Annotated[int, typer.Option("--questions", min=2, help="Held-out questions to rank and to read.")] = 600,
    page: Annotated[
        list[Path] | None,
        typer.Option("--page", help="A markdown page whose marked tables are written from the summary; repeatable."),
    ] = None,
    model: options.Model = "tiny",
    seed: options.Seed = 0,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="Number of heads. Default: by size.")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run an experiment: per-query JSONL, head sets, configuration and summary.json in one folder."""
    from headwater.evaluate.tables import check_page, fill_page, markdown

    for each in page or []:
        check_page(each)
    options.writable_folder(output)
    lm = options.load_model(model, device, dtype, quiet)
    from headwater.evaluate import main_job

    settings = main_job.Settings(questions=questions, readings=questions, top_k=top_k, seed=seed)
    with stages(quiet) as stage:
        summary = main_job.run(lm, output, settings, stage, command_line())
    for each in page or []:
        fill_page(each, markdown(summary))
        note(f"Tables of {each} written.", quiet)
    if json_output:
        emit(summary)
    else:
        for name, table in markdown(summary).items():
            out.print(f"{name}\n\n{table}\n", markup=False, soft_wrap=True)
        note(f"Everything is in {output}.", quiet)
