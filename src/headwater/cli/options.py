"""Options that several commands share, and what they turn into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.data.documents import Document
    from headwater.model.lm import LanguageModel
    from headwater.rank.qr import QRRetriever

Model = Annotated[str, typer.Option("--model", "-m", help="'tiny' (ships with headwater), a hub id, or a path.")]
Heads = Annotated[
    str | None,
    typer.Option(
        "--heads",
        help="A head set file, a published set (llama-3.1-8b-instruct/qr-nq), heads written 13-18,13-21, or 'all'. "
        "Default: the model's own set.",
    ),
]
NoDetect = Annotated[
    bool, typer.Option("--no-detect", help="Fail where the model's heads are not known, instead of finding them.")
]
Device = Annotated[str | None, typer.Option("--device", help="For example cpu or cuda. Default: cuda if there is one.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is drawn.")]
Template = Annotated[str, typer.Option("--template", help="Prompt template: auto, chat or base.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")]
Docs = Annotated[
    Path | None,
    typer.Option(
        "--docs", "-d", help="A file or folder of documents (.txt .md .jsonl .csv .tsv .pdf .html), or a BEIR folder."
    ),
]


def load_model(name: str, device: str | None, dtype: str | None, quiet: bool) -> LanguageModel:
    """The model, with the loading chatter of other libraries kept off the screen."""
    from headwater.cli.console import note, speak

    speak(quiet)
    note(f"Loading {name} ...", quiet)
    from huggingface_hub.utils import logging as retries
    from transformers.utils import logging as chatter

    retries.set_verbosity_error()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    from headwater.model.lm import load

    return load(name, device=device, dtype=dtype)


def load_ranker(
    lm: LanguageModel,
    heads: str | None,
    template: str,
    quiet: bool,
    *,
    detect: bool = True,
    overflow: str = "raise",
    window: int | None = None,
) -> QRRetriever:
    """A ranker with the heads asked for; a model without known heads is searched once, with progress."""
    from headwater.cli.console import progress
    from headwater.rank.default_heads import default_heads
    from headwater.rank.qr import QRRetriever

    if heads is not None:
        return QRRetriever(lm, heads=heads, template=template, overflow=overflow, window=window)
    with progress("finding heads", quiet) as step:
        found = default_heads(lm, template, progress=step, detect=detect)
    return QRRetriever(lm, heads=found, template=template, overflow=overflow, window=window)


def writable_folder(folder: Path) -> None:
    """Make the folder that results go to, before any work is done for them.

    Raises:
        InputError: when it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot use the folder {folder}: {error.strerror or error}.") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"Cannot write to the folder {folder}.")


def documents_at(path: Path, quiet: bool) -> list[Document]:
    """Documents of a file or folder; what was left out is said on standard error."""
    from headwater.cli.console import note
    from headwater.data.files import read_documents

    loaded = read_documents(path)
    for line in loaded.notes:
        note(line, quiet)
    return loaded.documents
