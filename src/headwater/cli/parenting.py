"""`headwater parent tune` and `headwater parent merge`: train each part of a model on its own losses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress

if TYPE_CHECKING:
    from headwater.adapt.parenting.classes import UnitMap
    from headwater.adapt.parenting.method import Parenting

TUNE_EXAMPLES = """
Examples:

  headwater parent tune --data sets --units mined --output tuned --dry-run

  headwater parent tune --model my/model --data sets --units mined --output tuned --micro-batch 4

  headwater parent tune --data sets --output plain --mode mixture --train all --normalise token   (to compare with)
"""
MERGE_EXAMPLES = """
Examples:

  headwater parent merge tuned --output stock

  headwater ask "capital of Algeria" --docs notes/ --model stock
"""


def tune(
    data: Annotated[Path, typer.Option("--data", help="Folder of `headwater parent data`.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the adapter; started again, the training goes on.")
    ],
    units: Annotated[
        Path | None,
        typer.Option("--units", help="Folder of `headwater parent mine`, or its units.json. Default: mined first."),
    ] = None,
    model: options.Model = "tiny",
    mode: Annotated[
        str,
        typer.Option("--mode", help="routed (the paper), merge (the released code), unified or mixture (to compare)."),
    ] = "routed",
    schedule: Annotated[str, typer.Option("--schedule", help="joint, or sequential: class after class.")] = "joint",
    order: Annotated[str, typer.Option("--order", help="Of the classes, where sequential.")] = "E,A,R",
    delta: Annotated[float, typer.Option("--delta", help="Share of conflicts and noise; the rest: extraction.")] = 0.8,
    leak: Annotated[float, typer.Option("--leak", help="Share of the other side's loss in A and R.")] = 0.0,
    train: Annotated[
        str, typer.Option("--train", help="Units of 'classes' E, A and R, or 'all' (unified and mixture).")
    ] = "classes",
    sets: Annotated[str, typer.Option("--sets", help="Of a mixture: some of a,r,c,agree,empty.")] = "a,r,c",
    normalise: Annotated[
        str, typer.Option("--normalise", help="Of a mixture: every set ('loss') or every 'token' counts the same.")
    ] = "loss",
    merge_weights: Annotated[str, typer.Option("--merge-weights", help="code or thirds.")] = "code",
    merge_space: Annotated[str, typer.Option("--merge-space", help="concat (exact) or factors.")] = "concat",
    merge_other: Annotated[str, typer.Option("--merge-other", help="mix, or zero: class O as in the base.")] = "mix",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps.")] = 250,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Items of each set in a step.")] = 16,
    micro_batch: Annotated[
        int | None, typer.Option("--micro-batch", min=1, help="Items of a forward. Default: the batch.")
    ] = None,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the adapter.")] = 8,
    alpha: Annotated[float, typer.Option("--alpha", help="The adapter is scaled by alpha / rank.")] = 16.0,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="The highest one.")] = 5e-5,
    warmup: Annotated[float, typer.Option("--warmup", help="Share of the steps before the highest rate.")] = 0.05,
    max_norm: Annotated[float, typer.Option("--max-norm", help="Gradients are scaled down to this norm.")] = 1.0,
    clip: Annotated[str, typer.Option("--clip", help="Gradient norms by 'class', or 'global'.")] = "class",
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Of AdamW.")] = 0.0,
    every: Annotated[
        int, typer.Option("--every", min=1, help="Steps between looks at the development items, and checkpoints.")
    ] = 50,
    looked_at: Annotated[
        int, typer.Option("--looked-at", min=1, help="Development items of each set to look at.")
    ] = 200,
    keep: Annotated[
        float, typer.Option("--keep", help="Closed-book accuracy that a step which is kept may have lost.")
    ] = 0.01,
    stop: Annotated[float, typer.Option("--stop", help="Closed-book accuracy lost at which training stops.")] = 0.05,
    checkpointing: Annotated[
        str, typer.Option("--checkpointing", help="Less memory, more time: none, non-reentrant or reentrant.")
    ] = "none",
    preset: Annotated[
        str | None, typer.Option("--preset", help="Every switch as in the 'paper' or in the released 'code'.")
    ] = None,
    template: options.Template = "auto",
    seed: options.Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and load no model.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train: adherence units on conflicts, robustness units on noise, entangled ones on both, all on extraction."""
    from headwater.adapt.parenting.artefact import read_record
    from headwater.adapt.parenting.classes import UnitMap
    from headwater.adapt.parenting.method import Parenting
    from headwater.adapt.parenting.processes import first_process
    from headwater.data.parenting.folder import read_data

    found = None if units is None else UnitMap.load(units / "units.json" if units.is_dir() else units)
    method = Parenting(
        units=found,
        mode=mode,  # type: ignore[arg-type]
        schedule=schedule,  # type: ignore[arg-type]
        order=_names(order),
        delta=delta,
        leak=leak,
        train=train,  # type: ignore[arg-type]
        sets=_names(sets),
        normalise=normalise,  # type: ignore[arg-type]
        merge_weights=merge_weights,
        merge_space=merge_space,  # type: ignore[arg-type]
        merge_other=merge_other,  # type: ignore[arg-type]
        steps=steps,
        batch=batch,
        micro_batch=micro_batch,
        rank=rank,
        alpha=alpha,
        learning_rate=learning_rate,
        warmup=warmup,
        max_norm=max_norm,
        clip=clip,  # type: ignore[arg-type]
        weight_decay=weight_decay,
        every=every,
        looked_at=looked_at,
        keep=keep,
        stop=stop,
        checkpointing=checkpointing,  # type: ignore[arg-type]
        template=template,
        seed=seed,
        preset=preset,  # type: ignore[arg-type]
    )
    given = read_data(data)
    if dry_run:
        counts = {name: len(items) for name, items in given.train.items()}
        _plan(method, found, counts, json_output)
        return
    from headwater.model.adapter import require_peft

    require_peft()
    options.writable_folder(output)
    quiet = quiet or not first_process()
    lm = options.load_model(model, device, dtype, quiet)
    with progress("training", quiet) as step:
        folder = method.fit(lm, given, output, progress=step)
    if not first_process():
        return
    note(f"Written to {folder}.", quiet)
    record = read_record(folder)
    if json_output:
        emit({"path": str(folder), **{name: value for name, value in record.items() if name != "units"}})
        return
    _curve(record["result"])


def merge(
    adapter: Annotated[Path, typer.Argument(help="Folder of an adapter, for example of `headwater parent tune`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the checkpoint; new or empty.")],
    device: options.Device = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add an adapter to the weights of its base model: an ordinary checkpoint that every serving engine runs."""
    from headwater.adapt.parenting.merge import merge_adapter, refuse_taken
    from headwater.errors import InputError
    from headwater.model.adapter import adapter_base

    if adapter_base(adapter) is None:
        raise InputError(f"{adapter} is not the folder of an adapter: it has no adapter_config.json of its own.")
    refuse_taken(output)
    options.writable_folder(output)
    folder = merge_adapter(options.load_model(str(adapter), device, "float32", quiet), output)
    note(f"Checkpoint written to {folder}.", quiet)
    if json_output:
        emit({"path": str(folder), "adapter": str(adapter)})


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _plan(method: Parenting, found: UnitMap | None, counts: dict[str, int], json_output: bool) -> None:
    """What would be trained on what."""
    weights: dict[str, dict[str, float]] | None = None
    if found is not None and method.mode == "routed":
        weights = found.mixture(method.delta, method.leak)
    sizes = None if found is None else found.sizes
    if json_output:
        emit({"mode": method.mode, "steps": method.steps, "items": counts, "classes": sizes, "weights": weights})
        return
    out.print(f"{method.mode}, {method.steps:,} steps of {method.batch} items of each set", markup=False)
    out.print("items     " + ", ".join(f"{name} {count:,}" for name, count in counts.items()), markup=False)
    if sizes is None:
        out.print("classes   none given: mined first, where the mode needs them", markup=False)
        return
    out.print("classes   " + ", ".join(f"{name} {count:,}" for name, count in sizes.items()), markup=False)
    for name, row in (weights or {}).items():
        told = ", ".join(f"{loss} {k:.2f}" for loss, k in row.items())
        out.print(f"losses    {name}: {told}", markup=False)


def _curve(result: dict[str, Any]) -> None:
    """What the development items said, step by step."""
    from rich.table import Table

    if result["curve"]:
        table = Table(box=None, pad_edge=False, header_style="dim")
        names = ("step", "R_Ad", "R_Ro", "harmonic", "closed_book")
        for name in names:
            table.add_column(name, justify="right")
        for point in result["curve"]:
            kept = "*" if point["step"] == result["best"] else ""
            table.add_row(f"{kept}{point['step']:,}", *(f"{point[name]:.3f}" for name in names[1:]))
        out.print(table)
        out.print("R_Ad: documents against memory, R_Ro: noise, *: kept", style="dim", markup=False)
    out.print(f"{result['steps']:,} steps, weights of step {result['best']:,}", markup=False)
    if result["stopped"]:
        out.print(result["stopped"], markup=False, soft_wrap=True)
