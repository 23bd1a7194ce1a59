"""`headwater heads tune`: train the heads that rank."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress

EXAMPLES = """
Examples:

  headwater heads tune --output tuned --dry-run

  headwater heads tune --model my-model --examples mine.jsonl --development dev.jsonl --output tuned

  headwater rank "capital of Algeria" --docs notes/ --model tuned

A line of an examples file: {"query": "...", "documents": ["...", {"text": "...", "id": "d2"}], "relevant": ["d2"]}
"""


def tune(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the adapter; started again, the training goes on.")
    ],
    model: options.Model = "tiny",
    heads: options.Heads = None,
    examples: Annotated[
        Path | None, typer.Option("--examples", help="Ranking examples (JSONL). Default: the built-in ones.")
    ] = None,
    development: Annotated[
        Path | None,
        typer.Option("--development", help="Examples to choose the best step on. Default: a tenth of the others."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps at most.")] = 120,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Examples of a step.")] = 8,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the adapter.")] = 8,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="The highest one.")] = 5e-4,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Of the softmax over document scores, in the loss.")
    ] = 0.01,
    every: Annotated[int, typer.Option("--every", min=1, help="Steps between validations and checkpoints.")] = 20,
    seed: options.Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and do nothing.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the heads that rank: an adapter on the query and key projections up to the deepest of them."""
    from headwater.data.formats import read_examples

    given = None if examples is None else read_examples(examples)
    checks = None if development is None else read_examples(development)
    if not dry_run:
        options.writable_folder(output.parent)
    from headwater.model.adapter import require_peft

    require_peft()
    lm = options.load_model(model, device, dtype, quiet)
    from headwater.adapt.ranker import RankerTuning

    tuning = RankerTuning(
        heads=heads,
        steps=steps,
        batch=batch,
        rank=rank,
        learning_rate=learning_rate,
        temperature=temperature,
        every=every,
        seed=seed,
    )
    if dry_run:
        plan = tuning.plan(lm, given, checks)
        if json_output:
            emit(asdict(plan))
        else:
            for name, value in asdict(plan).items():
                out.print(f"{name:12} {value:,}" if isinstance(value, int) else f"{name:12} {value}", markup=False)
        return
    with progress("training", quiet) as step:
        folder = tuning.fit(lm, given, output, checks, progress=step)
    record = json.loads((folder / "tuning.json").read_text(encoding="utf-8"))
    config, result = record["config"], record["result"]
    checked = [row for row in result["log"] if "eval_ndcg@10" in row]
    note(f"Adapter and heads written to {folder}.", quiet)
    if json_output:
        emit({"path": str(folder), "config": config, "steps": result["steps"], "best": result["best"], "log": checked})
        return
    out.print(f"{config['examples']} examples, {result['steps']} steps", markup=False)
    for row in checked:
        mark = " *" if row["step"] == result["best"] else ""
        out.print(
            f"step {row['step']:5}   development nDCG@10 {row['eval_ndcg@10']:.3f}   loss {row['eval_loss']:.3f}{mark}",
            markup=False,
        )
