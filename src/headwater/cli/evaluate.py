"""`headwater eval`: measured experiments, with everything they were made of beside the numbers."""

from __future__ import annotations

from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import command_line, emit, note, out, progress
from headwater.cli.demo import stages
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.evaluate.bench.config import BenchConfig

app = typer.Typer(help="Run measured experiments, and report them.", no_args_is_help=True)

EXAMPLES = """
Examples:

  headwater eval run --task world-ranking --method qr --method icr --method bm25 --output runs/ranking

  headwater eval run --task dl19 --task squad2 --data my/data --limit 100 --output runs/bench

  headwater eval run --task rerank:my/beir --method first-stage --method cross-encoder:my/model --output runs/mine

  headwater eval run --task world-gold-5 --task world-conflict --method read --method read@my/folded --output runs/fold

  headwater eval run --config bench.yaml --output runs/bench

  headwater eval run --suite main --output docs/results/main --page docs/results/main.md

  headwater eval run --suite heads --data my/data --output docs/results/heads --page docs/results/heads.md

  headwater eval run --suite parenting --model my/model --questions 20 --output runs/parenting

  headwater eval run --suite long --scorer my/small-model --output runs/long
"""


class Suite(str, Enum):
    """The experiments there are."""

    main = "main"
    heads = "heads"
    pear = "pear"
    parenting = "parenting"
    long = "long"


@app.command("run", epilog=EXAMPLES)
def run(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; running again goes on there.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="YAML with tasks, methods, model, data, seeds, limit, baselines."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="A task (see `headwater eval list`), FORM:PATH, or 'all'; repeatable."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method; repeatable. Default: every one that fits and needs no model id."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data sets, for tasks that need one.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Examples per task, a fixed sample.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, for methods that draw.")] = 3,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", help="A method that others are compared with; repeatable. Default: the first."),
    ] = None,
    suite: Annotated[Suite | None, typer.Option("--suite", help="A fixed experiment instead of tasks.")] = None,
    questions: Annotated[
        int | None,
        typer.Option(
            "--questions", min=2, help="Of a suite: questions (main 600, pear 1,000, parenting 150, else 300)."
        ),
    ] = None,
    scorer: Annotated[
        str | None, typer.Option("--scorer", help="Of --suite long: a smaller model whose heads rank too.")
    ] = None,
    page: Annotated[
        list[Path] | None,
        typer.Option("--page", help="A markdown page whose marked tables are written from the summary; repeatable."),
    ] = None,
    model: options.Model = "tiny",
    seed: options.Seed = 0,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", "-k", min=1, help="Of --suite main, long, pear: number of heads. Default: by size; pear: chosen."
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run methods on tasks, or a fixed experiment: per-query files, configuration and summary.json in one folder."""
    from headwater.evaluate.tables import check_page, fill_page

    if sum((config is not None, bool(task), suite is not None)) != 1:
        raise InputError("Say what to run: --task (repeatable), --config FILE, or --suite NAME.")
    own_data = suite is Suite.heads  # the collections that it ranks lie there
    chosen_elsewhere: dict[str, Any] = {"--method": method, "--limit": limit, "--baseline": baseline}
    chosen_elsewhere |= {} if own_data else {"--data": data}
    stray = [name for name, value in chosen_elsewhere.items() if value and not task]
    if config is not None and (model != "tiny" or device or dtype):
        stray.append("--model, --device or --dtype")
    if stray:
        raise InputError(f"{stray[0]} goes with --task; with --config write it into the file, --suite takes none.")
    if suite is Suite.heads and top_k is not None:
        raise InputError("--suite heads measures several numbers of heads; leave --top-k out.")
    if suite is Suite.parenting and top_k is not None:
        raise InputError("--suite parenting tunes no heads; leave --top-k out.")
    if scorer is not None and suite is not Suite.long:
        raise InputError("--scorer goes with --suite long.")
    for each in page or []:
        check_page(each)
    if suite is None:
        seeds_of = tuple(range(seed, seed + seeds))
        chosen = _config(config, task or [], method, model, data, seeds_of, limit, tuple(baseline or ()), device, dtype)
        summary, tables = _bench(output, chosen, quiet)
    else:
        options.writable_folder(output)
        lm = options.load_model(model, device, dtype, quiet)
        ranking = None if scorer is None else options.load_model(scorer, device, dtype, quiet)
        jobs: dict[Suite, Any] = {Suite.main: _main_job, Suite.heads: partial(_heads_job, data), Suite.pear: _pear_job}
        jobs |= {Suite.parenting: _parenting_job, Suite.long: partial(_long_job, ranking)}
        summary, tables = jobs[suite](output, questions, top_k, seed, lm, quiet)
    for each in page or []:
        fill_page(each, tables)
        note(f"Tables of {each} written.", quiet)
    if json_output:
        emit(summary)
        return
    for name, table in tables.items():
        out.print(f"{name}\n\n{table}\n", markup=False, soft_wrap=True)
    note(f"Everything is in {output}.", quiet)
    if suite is None:
        note(f"Tables, plots and a page of it: headwater eval report {output}", quiet)


@app.command("report", epilog="Example:\n\n  headwater eval report runs/bench")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write report.html, tables.md, tables.tex, tables.csv and plots of a run made with --task or --config."""
    from headwater.evaluate.bench.report import write_bench_report

    with progress("drawing", quiet) as step:
        written = write_bench_report(folder, step)
    if json_output:
        emit([str(path) for path in written])
        return
    for path in written:
        out.print(str(path), markup=False, soft_wrap=True)


@app.command("list", epilog="Example:\n\n  headwater eval list --data my/data")
def list_all(
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of data sets; says which tasks it can run.")
    ] = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List tasks and methods."""
    from headwater.evaluate.bench.catalogue import FORMS, METHODS, TASKS

    tasks = {
        name: {"kind": FORMS[task.form].kind, "about": task.about, "needs": task.needs, "ready": _ready(task, data)}
        for name, task in TASKS.items()
    }
    methods = {
        name + (f":{method.argument}" if method.argument else ""): {
            "kinds": sorted(method.kinds),
            "about": method.about,
        }
        for name, method in METHODS.items()
    }
    if json_output:
        emit({"tasks": tasks, "forms": sorted(FORMS), "methods": methods})
        return
    out.print("Tasks\n", markup=False)
    for name, task in tasks.items():
        mark = " " if task["ready"] else "-"
        out.print(f"{mark} {name:<18} {task['kind']:<8} {task['about']}", markup=False, soft_wrap=True)
    out.print(
        "\n- needs --data. With data of your own: rerank:FOLDER, search:FOLDER (BEIR), squad:FILE, perplexity:FILE."
    )
    out.print("\nMethods\n", markup=False)
    for name, entry in methods.items():
        out.print(f"  {name:<18} {', '.join(entry['kinds']):<16} {entry['about']}", markup=False, soft_wrap=True)
    out.print(
        "\nWith another model than --model: METHOD@MODEL, for example read@my/model.", markup=False, soft_wrap=True
    )


def _ready(task: Any, data: Path | None) -> bool:
    return all(data is not None and (data / need).exists() for need in task.needs)


def _config(
    path: Path | None,
    tasks: list[str],
    methods: list[str] | None,
    model: str,
    data: Path | None,
    seeds: tuple[int, ...],
    limit: int | None,
    baselines: tuple[str, ...],
    device: str | None,
    dtype: str | None,
) -> BenchConfig:
    """The configuration of the file, or of the flags."""
    from headwater.evaluate.bench.catalogue import METHODS, TASKS, build_task
    from headwater.evaluate.bench.config import BenchConfig, read_config

    if path is not None:
        return read_config(path)
    if "all" in tasks:
        tasks = [name for name, task in TASKS.items() if _ready(task, data)]
    if methods is None:
        kinds = {build_task(name, data).kind for name in tasks}
        methods = [name for name, method in METHODS.items() if not method.argument and kinds & method.kinds]
    given = None if data is None else str(data)
    return BenchConfig(tuple(tasks), tuple(methods), model, given, seeds, limit, baselines, device, dtype)


def _bench(output: Path, config: BenchConfig, quiet: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Summary of a benchmark, and its headline figures."""
    from headwater.evaluate.bench import run as bench
    from headwater.evaluate.bench.tables import headlines

    def load(model: str) -> Any:
        return options.load_model(model, config.device, config.dtype, quiet)

    with stages(quiet) as stage:
        summary = bench.run(config, output, load, stage, command_line())
    return summary, {"bench": headlines(summary)}


def _main_job(
    output: Path, questions: int | None, top_k: int | None, seed: int, lm: Any, quiet: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Summary and tables of the main experiment."""
    from headwater.evaluate import main_job
    from headwater.evaluate.tables import markdown

    settings = main_job.Settings(questions=questions or 600, readings=questions or 600, top_k=top_k, seed=seed)
    with stages(quiet) as stage:
        summary = main_job.run(lm, output, settings, stage, command_line())
    return summary, markdown(summary)


def _heads_job(
    data: Path | None, output: Path, questions: int | None, top_k: int | None, seed: int, lm: Any, quiet: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Summary and tables of the experiments on head sets."""
    from headwater.evaluate import heads_job
    from headwater.evaluate.heads_settings import Settings
    from headwater.evaluate.heads_tables import tables

    settings = Settings(seed=seed) if questions is None else Settings.of_size(questions, seed)
    with stages(quiet) as stage:
        summary = heads_job.run(lm, output, settings, stage, command_line(data="DATA"), data)
    return summary, tables(summary)


def _pear_job(
    output: Path, questions: int | None, top_k: int | None, seed: int, lm: Any, quiet: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Summary and tables of the PEAR experiment."""
    from headwater.evaluate import pear_job
    from headwater.evaluate.pear.settings import Settings
    from headwater.evaluate.pear_tables import tables

    with stages(quiet) as stage:
        summary = pear_job.run(lm, output, Settings.of_size(questions, top_k, seed), stage, command_line())
    return summary, tables(summary)


def _parenting_job(
    output: Path, questions: int | None, top_k: int | None, seed: int, lm: Any, quiet: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Summary and tables of the Parenting experiment."""
    from headwater.evaluate import parenting_job
    from headwater.evaluate.parenting.settings import Settings
    from headwater.evaluate.parenting_tables import tables

    with stages(quiet) as stage:
        summary = parenting_job.run(lm, output, Settings.of_size(questions, seed), stage, command_line())
    return summary, tables(summary)


def _long_job(
    scorer: Any, output: Path, questions: int | None, top_k: int | None, seed: int, lm: Any, quiet: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Summary and tables of the experiment on long texts."""
    from headwater.evaluate import long_job
    from headwater.evaluate.long_tables import tables

    settings = long_job.Settings(questions=questions or 300, top_k=top_k, seed=seed)
    with stages(quiet) as stage:
        summary = long_job.run(lm, output, settings, stage, command_line(), scorer)
    return summary, tables(summary)
