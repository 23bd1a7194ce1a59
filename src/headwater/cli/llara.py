"""`headwater llara`: a language model becomes a dense retriever: adapted to texts, then tuned on queries."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress

app = typer.Typer(
    help="Make a dense retriever of a language model: adapt it to texts, mine negatives, tune it.",
    no_args_is_help=True,
)

ADAPT_EXAMPLES = """
Examples:

  headwater llara adapt --texts notes/ --output adapted --dry-run

  headwater llara adapt --model my/model --texts corpus.jsonl --output adapted --max-length 1024 --batch 256

  headwater llara adapt --model my/model --texts notes/ --output control --w-ae 0 --w-ar 0   (language modelling only)

The texts are a file, a folder or a BEIR folder; long ones are best, because a chunk learns from the next.
"""


@app.command("adapt", epilog=ADAPT_EXAMPLES)
def adapt(
    texts: Annotated[Path, typer.Option("--texts", "-t", help="A text file, a folder of files, or a BEIR folder.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the adapted model; started again, the training goes on.")
    ],
    model: options.Model = "tiny",
    slots: Annotated[str, typer.Option("--slots", help="single (the end token) or eight (eight added tokens).")] = (
        "single"
    ),
    wording: Annotated[str, typer.Option("--wording", help="Of a single slot's prompts: v2 or v1.")] = "v2",
    pair: Annotated[
        str, typer.Option("--pair", help="Roles of query and document when embedding: n2s, s2s or n2n.")
    ] = "n2s",
    objective: Annotated[
        str, typer.Option("--objective", help="code (with the language-model loss) or paper (without).")
    ] = "code",
    w_lm: Annotated[float | None, typer.Option("--w-lm", help="Weight of the language-model loss.")] = None,
    w_ae: Annotated[float | None, typer.Option("--w-ae", help="Weight of naming the text itself.")] = None,
    w_ar: Annotated[float | None, typer.Option("--w-ar", help="Weight of naming the next passage.")] = None,
    permute_targets: Annotated[
        bool, typer.Option("--permute-targets", help="A control: every chunk gets the targets of another text.")
    ] = False,
    stopwords: Annotated[
        str, typer.Option("--stopwords", help="Left out of the targets: en, german, french, ..., or none.")
    ] = "en",
    chunk_words: Annotated[int, typer.Option("--chunk-words", min=1, help="Words of a chunk.")] = 490,
    max_length: Annotated[int, typer.Option("--max-length", min=1, help="Tokens of a chunk with its prompts.")] = 512,
    trainable: Annotated[str, typer.Option("--trainable", help="lora or full.")] = "lora",
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the adapter.")] = 64,
    alpha: Annotated[float, typer.Option("--alpha", help="The adapter is scaled by alpha / rank.")] = 16.0,
    dropout: Annotated[float, typer.Option("--dropout", help="Of the adapter's input.")] = 0.1,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Default: 1e-4 for lora, 1e-5 for full.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the chunks.")] = 1,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps, instead of epochs.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Chunks of a step.")] = 32,
    micro_batch: Annotated[int, typer.Option("--micro-batch", min=1, help="Chunks of a forward pass.")] = 8,
    packing: Annotated[bool, typer.Option("--packing", help="Short chunks share a row.")] = False,
    joint: Annotated[
        str, typer.Option("--joint", help="How both prompts are read: mask4d, flex, branch or separate.")
    ] = "mask4d",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.")] = False,
    held_out: Annotated[int, typer.Option("--held-out", min=0, help="Chunks of other texts to look at.")] = 32,
    every: Annotated[int, typer.Option("--every", min=1, help="Steps between looks and checkpoints.")] = 50,
    seed: options.Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and do nothing.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Teach a model to say, in one state, what a text holds and what follows it; no labels needed."""
    from headwater.data.files import find_files

    for line in find_files(texts)[1]:
        note(line, quiet)
    if not dry_run:
        options.writable_folder(output.parent)
    from headwater.model.adapter import require_peft

    require_peft()
    from headwater.adapt.llara import Llara

    method = Llara(
        slots=slots,
        wording=wording,
        pair=pair,
        max_length=max_length,
        objective=objective,
        w_lm=w_lm,
        w_ae=w_ae,
        w_ar=w_ar,
        permute_targets=permute_targets,
        stopwords=None if stopwords == "none" else stopwords,
        chunk_words=chunk_words,
        trainable=trainable,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        learning_rate=learning_rate,
        epochs=epochs,
        steps=steps,
        batch=batch,
        micro_batch=micro_batch,
        packing=packing,
        joint=joint,
        checkpointing=checkpointing,
        held_out=held_out,
        every=every,
        seed=seed,
    )
    lm = options.load_model(model, device, dtype, quiet)
    if dry_run:
        plan = asdict(method.plan(lm, texts))
        if json_output:
            emit(plan)
        else:
            _planned(plan)
        return
    with progress("adapting", quiet) as step:
        folder = method.adapt(lm, texts, output, progress=step)
    record = json.loads((folder / "tuning.json").read_text(encoding="utf-8"))
    config, result = record["config"], record["result"]
    looks = [
        {key.removeprefix("eval_"): value for key, value in row.items() if key == "step" or key.startswith("eval_")}
        for row in result["log"]
        if "eval_total" in row
    ]
    note(f"Adapted model written to {folder}.", quiet)
    if json_output:
        emit({"path": str(folder), "config": config, "plan": result["plan"], "steps": result["steps"], "looks": looks})
        return
    plan = result["plan"]
    out.print(
        f"{plan['chunks']:,} chunks of {plan['texts']:,} texts, {plan['with_next']:,} with a following one; "
        f"{result['steps']:,} steps of {config['batch']}",
        markup=False,
        soft_wrap=True,
    )
    _looks(looks)


def _planned(plan: dict[str, Any]) -> None:
    """A plan, line by line."""
    for name, value in plan.items():
        shown = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
        out.print(f"{name:12} {shown}", markup=False)


def _looks(looks: list[dict[str, float]]) -> None:
    """Losses on held-out chunks by step."""
    from rich.table import Table

    if not looks:
        out.print(
            "No chunks were held out (that takes ten texts or more, and --held-out above 0): no losses to show.",
            markup=False,
            soft_wrap=True,
        )
        return
    heads = {
        "lm": "language model",
        "excess_summarize": "the text itself, above the least",
        "excess_predict": "the next passage, above the least",
        "total": "total",
    }
    shown = [name for name in heads if name in looks[0]]
    table = Table(box=None, pad_edge=False, header_style="dim", title="nats on held-out chunks", title_justify="left")
    for head in ("step", *(heads[name] for name in shown)):
        table.add_column(head, justify="right")
    for look in looks:
        table.add_row(f"{look['step']:.0f}", *(f"{look[name]:.3f}" if name in look else "" for name in shown))
    out.print(table)
