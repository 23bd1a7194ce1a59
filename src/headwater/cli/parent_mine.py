"""`headwater parent mine`: which parameters matter for following documents, which for ignoring noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress

if TYPE_CHECKING:
    from headwater.adapt.parenting.classes import UnitMap

EXAMPLES = """
Examples:

  headwater parent mine --data sets --output mined --plot units.png

  headwater parent mine --model my/model --data sets --output mined --steps 400 --micro-batch 2 --checkpointing

  headwater parent mine --data sets --output mined --tau 1 --force   (sorts again what was mined)
"""


def mine(
    data: Annotated[Path, typer.Option("--data", help="Folder of `headwater parent data`.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the unit map, units.json; started again, it goes on.")
    ],
    model: options.Model = "tiny",
    unit: Annotated[str, typer.Option("--unit", help="pair, factor, rank or matrix.")] = "pair",
    targets: Annotated[
        list[str] | None,
        typer.Option("--target", help="attention, mlp, or a module such as q_proj; repeatable. Default: all."),
    ] = None,
    split_fused: Annotated[
        bool, typer.Option("--split-fused", help="Query, key and value of one projection are units of their own.")
    ] = False,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of each of the four runs.")] = 200,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Items of a step.")] = 16,
    micro_batch: Annotated[
        int | None, typer.Option("--micro-batch", min=1, help="Items of a forward. Default: the batch.")
    ] = None,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.")] = False,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of the throw-away adapter.")] = 1e-4,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the throw-away adapter.")] = 8,
    alpha: Annotated[float, typer.Option("--alpha", help="The adapter is scaled by alpha / rank.")] = 16.0,
    reduce: Annotated[
        str | None, typer.Option("--reduce", help="Averages per entry or per unit. Default: unit for matrices.")
    ] = None,
    mining_order: Annotated[
        str, typer.Option("--mining-order", help="Scores before the step, or after it as in the released code.")
    ] = "before",
    aggregate: Annotated[
        str, typer.Option("--aggregate", help="Scores of the last 'half' of the steps, or of the 'last' one.")
    ] = "half",
    forward: Annotated[
        str, typer.Option("--forward", help="Layer weights from open gates: probability, code_counts or none.")
    ] = "probability",
    rule: Annotated[str, typer.Option("--rule", help="Classes by 'z', or by the rule of the released 'code'.")] = "z",
    tau: Annotated[float, typer.Option("--tau", help="A unit matters where its z-score is above it.")] = 0.0,
    score_transform: Annotated[
        str, typer.Option("--score-transform", help="Before the z-scores: log, or none as in the paper.")
    ] = "log",
    gamma: Annotated[
        float | None, typer.Option("--gamma", help="Share of the conflict loss in class E. Default: by the z-scores.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Every switch as in the 'paper' or in the released 'code'.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take the map even where two halves disagree.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the unit map (.png, .svg or .pdf).")] = None,
    template: options.Template = "auto",
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find out which parameters matter for following documents, which for ignoring noise, and sort them."""
    from headwater.adapt.parenting.mining import Mining
    from headwater.data.parenting.folder import read_data

    if plot is not None:
        options.picture(plot)
    mining = Mining(
        unit=unit,  # type: ignore[arg-type]
        targets=targets,
        split_fused=split_fused,
        rank=rank,
        alpha=alpha,
        learning_rate=learning_rate,
        batch=batch,
        micro_batch=micro_batch,
        steps=steps,
        reduce=reduce,  # type: ignore[arg-type]
        mining_order=mining_order,  # type: ignore[arg-type]
        aggregate=aggregate,  # type: ignore[arg-type]
        forward=forward,  # type: ignore[arg-type]
        rule=rule,  # type: ignore[arg-type]
        tau=tau,
        score_transform=score_transform,  # type: ignore[arg-type]
        gamma=gamma,
        template=template,
        checkpointing=checkpointing,
        seed=seed,
        force=force,
        preset=preset,  # type: ignore[arg-type]
    )
    sets = read_data(data)
    from headwater.model.adapter import require_peft

    require_peft()
    options.writable_folder(output)
    lm = options.load_model(model, device, dtype, quiet)
    with progress("mining", quiet) as step:
        found = mining.mine(lm, sets, output, step)
    path = found.save(output / "units.json")
    note(f"Unit map written to {path}.", quiet)
    if plot is not None:
        from headwater.plots import save, unit_map

        rows = [(each.layer, each.projection, name) for each, name in zip(found.units, found.classes, strict=True)]
        line = found.tau if found.rule == "z" else None
        save(unit_map(rows, found.z_a, found.z_r, line, lm.name), plot)
        note(f"Picture drawn to {plot}.", quiet)
    if json_output:
        emit({"path": str(path), **found.record()})
        return
    _table(found)


def _table(found: UnitMap) -> None:
    """Sizes of the classes, and whether the scores repeat."""
    from rich.table import Table

    meaning = {"E": "both", "A": "documents against memory", "R": "noise", "O": "neither (stays frozen)"}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, side in (("class", "left"), ("units", "right"), ("matters for", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for name, count in found.sizes.items():
        table.add_row(name, f"{count:,}", meaning[name])
    out.print(table)
    rho = found.provenance["reliability"]
    out.print(
        f"Spearman's rho between two halves of the conflicts {rho['a']:.2f}, of the noise {rho['r']:.2f}; between "
        f"conflicts and noise {rho['between']:.2f}; gamma {found.gamma:.2f}",
        markup=False,
        soft_wrap=True,
    )
