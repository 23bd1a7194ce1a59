"""Options that several commands share, and what they turn into."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.data.documents import Document
    from headwater.model.lm import LanguageModel
    from headwater.rank.qr import QRRetriever
    from headwater.search.embedder import Embedder


class Order(str, Enum):
    """Orders of the documents in the prompt."""

    reversed = "reversed"
    given = "given"
    shuffled = "shuffled"


class Tail(str, Enum):
    """The tokens behind the documents that attention is averaged over."""

    full = "full"
    query_suffix = "query+suffix"
    query = "query"
    core = "core"


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
Template = Annotated[str, typer.Option("--template", help="Prompt template: auto, chat, base or bare.")]
Orders = Annotated[
    list[Order] | None,
    typer.Option(
        "--order", help="Of the documents in the prompt; repeated: the mean of several. Default: reversed (best last)."
    ),
]
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
    _hush()
    from headwater.model.lm import load

    return load(name, device=device, dtype=dtype)


def _hush() -> None:
    """Keep what the hub client and transformers say off the screen."""
    from huggingface_hub.utils import logging as retries
    from transformers.utils import logging as chatter

    retries.set_verbosity_error()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()


def load_embedder(name: str, device: str | None, dtype: str | None, quiet: bool, **switches: Any) -> Embedder:
    """The embedder, with the loading chatter of other libraries kept off the screen; `switches` are its keywords."""
    from headwater.cli.console import note, speak

    speak(quiet)
    note(f"Loading {name} ...", quiet)
    _hush()
    from headwater.search.embedder import Embedder

    return Embedder(name, device=device, dtype=dtype, **switches)


def load_ranker(
    lm: LanguageModel,
    heads: str | None,
    template: str,
    quiet: bool,
    *,
    detect: bool = True,
    order: Sequence[Order] | None = None,
    **switches: Any,
) -> QRRetriever:
    """A ranker with the heads asked for; a model without known heads is searched once, with progress.

    `switches` are further keywords of `QRRetriever`.
    """
    from headwater.cli.console import progress
    from headwater.rank.default_heads import default_heads
    from headwater.rank.qr import QRRetriever

    if order:
        switches["order"] = [each.value for each in order]
    if heads is not None:
        return QRRetriever(lm, heads=heads, template=template, **switches)
    with progress("finding heads", quiet) as step:
        found = default_heads(lm, template, progress=step, detect=detect)
    return QRRetriever(lm, heads=found, template=template, **switches)


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE, several times, as a mapping.

    Raises:
        InputError: a part without a name or an equals sign, or a name given twice.
    """
    out: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise InputError(f"{option} takes NAME=VALUE, got {text!r}.")
        if name.strip() in out:
            raise InputError(f"{option} {name.strip()} is given twice.")
        out[name.strip()] = value
    return out


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        InputError: a part that is no number, or nothing.
    """
    parts = [part for part in text.replace(",", " ").split() if part]
    try:
        out = tuple(float(part) for part in parts)
    except ValueError:
        out = ()
    if not out:
        raise InputError(f"{option} takes numbers with commas between them, got {text!r}.")
    return out


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


def picture(path: Path) -> None:
    """Refuse a picture that could not be written, before any work is done for it.

    Raises:
        InputError: another type than .png, .svg or .pdf, or a folder that cannot be written.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"Pictures are written as .png, .svg or .pdf, not {path.suffix or 'without a suffix'}.")
    writable_folder(path.parent)


def documents_at(path: Path, quiet: bool) -> list[Document]:
    """Documents of a file or folder; what was left out is said on standard error."""
    from headwater.cli.console import note
    from headwater.data.files import read_documents

    loaded = read_documents(path)
    for line in loaded.notes:
        note(line, quiet)
    return loaded.documents
