"""`headwater parent`: tune adherence to documents and robustness to noise apart from each other (Parenting)."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.read.parenting_data import Prepared

app = typer.Typer(
    help="Follow documents against memory, and ignore those that do not help: data and tuning for both.",
    no_args_is_help=True,
)

DATA_EXAMPLES = """
Examples:

  headwater parent data --output sets --questions 60

  headwater parent data --model my/model --train nq-train-00-qed.jsonlines --evaluate dev-v2.0.json --output sets

  headwater parent data --model my/model --train mine.jsonl --conflict both --items train=2000 --output sets --dry-run

A line of a question file of one's own: {"question": "..." or ["...", "..."], "answers": ["..."], "document": "..." or
{"text": "...", "title": "..."}, "others": ["..."], "group": "..."}
"""


class Conflict(str, Enum):
    """Where documents contradict memory."""

    auto = "auto"
    edited = "edited"
    wrong = "wrong"
    both = "both"


class Robust(str, Enum):
    """What noise is."""

    known = "known"
    unanswerable = "unanswerable"
    both = "both"


@app.command("data", epilog=DATA_EXAMPLES)
def data(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the sets; started again, it goes on.")],
    model: options.Model = "tiny",
    train: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            help="Questions dealt to train, development and test: a SQuAD-format, QED or JSONL file, or 'world'; "
            "repeatable. Default: world, where there is no --evaluate.",
        ),
    ] = None,
    evaluate: Annotated[
        list[str] | None, typer.Option("--evaluate", help="Questions for development and test only; repeatable.")
    ] = None,
    questions: Annotated[
        int | None, typer.Option("--questions", min=1, help="Ask at most so many, in all splits. Default: all.")
    ] = None,
    items: Annotated[
        list[str] | None,
        typer.Option("--items", help="Items of each set at most: train=4000, development=400, test=1000 (repeatable)."),
    ] = None,
    shares: Annotated[str, typer.Option("--shares", help="Of groups: train, development, test.")] = "0.6,0.1,0.3",
    documents: Annotated[str, typer.Option("--documents", help="Least and most documents of a prompt.")] = "1,6",
    conflict: Annotated[
        Conflict,
        typer.Option(
            "--conflict",
            help="Documents against memory: where the model is wrong, in edited paragraphs of what it knows, both. "
            "auto: edited for the world, else wrong.",
        ),
    ] = Conflict.auto,
    robust: Annotated[
        Robust, typer.Option("--robust", help="Noise beside what it knows, beside unanswerable questions, or both.")
    ] = Robust.known,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Sampled answers per question.")] = 8,
    wordings: Annotated[int, typer.Option("--wordings", min=1, help="Wordings asked, where there are several.")] = 1,
    instruction: Annotated[
        str, typer.Option("--instruction", help="A sentence before the question; 'auto': for chat models; '': none.")
    ] = "auto",
    avoid: Annotated[
        list[Path] | None,
        typer.Option("--avoid", help="Documents (file, folder, BEIR) that must not train; repeatable."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Questions asked at once.")] = 16,
    template: options.Template = "auto",
    seed: options.Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked, and load no model.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask a model questions without documents, and build the sets that mining and tuning need from what it knows."""
    from headwater.cli.console import speak
    from headwater.data.parenting.build import SIZES, ParentingSets
    from headwater.read.parenting_data import make_data, prepare, take_folder

    speak(quiet)
    sizes = SIZES | {name: _whole(text, "--items") for name, text in options.pairs(items or [], "--items").items()}
    bounds = [_whole(text, "--documents") for text in documents.split(",")]
    if len(bounds) != 2:
        raise InputError(f"--documents takes two numbers, the least and the most, such as 1,6; got {documents!r}.")
    sets = ParentingSets(conflict.value, robust.value, (bounds[0], bounds[1]), sizes, seed)
    texts = [each for path in avoid or [] for each in options.documents_at(path, quiet)]
    parts = options.numbers(shares, "--shares")
    own = train if train is not None else ([] if evaluate else ["world"])
    prepared = prepare(own, evaluate or [], sets, questions, parts, texts)
    for name, count in prepared.record["left_out"].items():
        if count:
            note(f"Left out of training: {count:,} {name}.", quiet)
    if dry_run:
        _plan(prepared, json_output)
        return
    from headwater.read.probe import ClosedBookProbe

    probe = ClosedBookProbe(
        samples=samples, wordings=wordings, batch=batch, template=template, instruction=instruction, seed=seed
    )
    take_folder(output)
    lm = options.load_model(model, device, dtype, quiet)
    with progress("asking without documents", quiet) as step:
        record = make_data(lm, prepared, output, probe, sets, step)
    note(f"Sets written to {output}.", quiet)
    if json_output:
        emit({"path": str(output), **{name: value for name, value in record.items() if name != "groups"}})
        return
    _table(record)


def _plan(prepared: Prepared, json_output: bool) -> None:
    asked = {split: len(each) for split, each in prepared.questions.items()}
    record = {name: value for name, value in prepared.record.items() if name != "groups"}
    if json_output:
        emit({**record, "asked": asked})
        return
    for source in record["sources"]:
        told = f"{source['questions']:,} questions, {source['groups']:,} groups, {source['passages']:,} passages"
        out.print(f"{source['name']} ({source['use']}): {told}", markup=False, soft_wrap=True)
    for split, count in asked.items():
        groups = sum(len(each) for each in prepared.record["groups"].get(split, {}).values())
        out.print(f"{split:12} {count:,} questions to ask, of {groups:,} groups", markup=False)


def _table(record: dict[str, Any]) -> None:
    """What was known, and how many items there are."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    labels = ("known", "wrong", "unknown")
    kinds = list(dict.fromkeys(kind for each in record["counts"].values() for kind in each))
    for name in (*labels, *kinds):
        table.add_column(name, justify="right")
    for split, counts in record["counts"].items():
        said = record["probe"]["labels"].get(split, {})
        cells = [f"{said.get(name, 0):,}" for name in labels]
        table.add_row(split, *cells, *("" if kind not in counts else f"{counts[kind]:,}" for kind in kinds))
    out.print(table)
    out.print(
        "a: documents against memory, r: noise, c: document extraction, agree: documents say what is remembered, "
        "empty: known questions alone, asked: all questions alone",
        style="dim",
        markup=False,
        soft_wrap=True,
    )


def _whole(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} takes whole numbers, got {text!r}.") from None
