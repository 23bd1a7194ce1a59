"""`headwater index`: documents on disk, found again by words or by vectors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import clean, emit, note, out, progress
from headwater.errors import ModelError

if TYPE_CHECKING:
    from headwater.search.embedder import Embedder
    from headwater.search.sync import Added

app = typer.Typer(help="Keep documents in an index on disk.", no_args_is_help=True)

ADD_EXAMPLES = """
Examples:

  headwater index add notes/ --index notes.index

  headwater index add minutes.jsonl --index notes.index --prefix minutes/

  headwater index add notes/ --index dense.index --embed my-embedder
"""
SEARCH_EXAMPLES = """
Examples:

  headwater index search "annual budget" --index notes.index --top-k 5

  headwater index search "how much may we spend" --index dense.index --mode dense
"""
VECTORS_EXAMPLES = """
Examples:

  headwater index vectors --index dense.index --kind hnsw

  headwater index vectors --index dense.index --kind exact
"""
INFO_EXAMPLES = """
Examples:

  headwater index info --index notes.index --json
"""
DELETE_EXAMPLES = """
Examples:

  headwater index delete old.txt minutes.jsonl:3 --index notes.index
"""

Folder = Annotated[Path, typer.Option("--index", "-i", help="Folder of the index.")]


@app.command("add", epilog=ADD_EXAMPLES)
def add(
    path: Annotated[Path, typer.Argument(help="A file, a folder, or a BEIR folder.")],
    index: Folder,
    prefix: Annotated[
        str, typer.Option("--prefix", help="Put before every id, where folders use the same names.")
    ] = "",
    passage_chars: Annotated[
        int | None, typer.Option("--passage-chars", min=1, help="Longest passage of a new index. Default: 1000.")
    ] = None,
    embed: Annotated[
        str | None,
        typer.Option(
            "--embed",
            help="Vectors, too: 'tiny', the folder of an embedder, or any model; settled when the index is made. "
            "Default: as the index was made.",
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Read files into an index; run again, it takes in what changed and drops what is gone."""
    from headwater.data.files import find_files
    from headwater.search.index import Index

    find_files(path)  # a typo in the path must not leave an empty index behind
    embedder = embedder_of(index, embed, device, dtype, quiet)
    with (
        Index.open(index, embedder=embedder, passage_chars=passage_chars) as opened,
        progress("reading files", quiet) as step,
    ):
        added = opened.add_path(path, prefix, step)
    report(added, quiet)
    if json_output:
        emit(asdict(added))
    else:
        out.print(summary(added), markup=False)


@app.command("search", epilog=SEARCH_EXAMPLES)
def search(
    query: Annotated[str, typer.Argument(help="Words or a question.")],
    index: Folder,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many passages.")] = 10,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="bm25 (words), dense (vectors) or hybrid. Default: hybrid if there are vectors."),
    ] = None,
    embed: Annotated[str | None, typer.Option("--embed", help="The index's embedder, where it has moved.")] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the passages that match best."""
    from headwater.search.index import Index

    embedder = None if mode == "bm25" else embedder_of(index, embed, device, dtype, quiet)
    with Index.open(index, embedder=embedder, create=False) as opened:
        hits = opened.search(query, k=top_k, mode=mode or "hybrid")
    if json_output:
        emit(
            [
                {
                    "rank": place,
                    "id": hit.document.id,
                    "start": hit.document.metadata["passage_start"],
                    "score": hit.score,
                    "title": hit.document.title,
                    "text": hit.document.text,
                }
                for place, hit in enumerate(hits, 1)
            ]
        )
        return
    if not hits:
        note("No word of the query stands in the index.", quiet)
    for place, hit in enumerate(hits, 1):
        where = f"{hit.document.id}, from character {hit.document.metadata['passage_start']}"
        out.print(f"{place:>3}  {hit.score:.3g}  {clean(where)}", markup=False, style="dim", soft_wrap=True)
        text = " ".join(hit.document.text.split())
        out.print(f"     {clean(text if len(text) <= 200 else text[:199] + '…')}", markup=False)


@app.command("vectors", epilog=VECTORS_EXAMPLES)
def vectors(
    index: Folder,
    kind: Annotated[str, typer.Option("--kind", help="exact, ivf-pq or hnsw.")],
    json_output: options.Json = False,
) -> None:
    """Choose how vectors are searched, and measure what that finds."""
    from headwater.search.index import Index

    with Index.open(index, create=False) as opened:
        found = opened.index_vectors(kind)
    if json_output:
        emit(asdict(found))
    elif found.kind == "exact":
        out.print("exact: every vector is compared", markup=False)
    else:
        share = f"{100 * found.recall:.1f} %"
        out.print(f"{found.kind}: finds {share} of the ten nearest passages ({found.sample} tried)", markup=False)


@app.command("info", epilog=INFO_EXAMPLES)
def info(index: Folder, json_output: options.Json = False) -> None:
    """Say what an index holds."""
    from headwater.model.memory import size
    from headwater.search.index import Index

    with Index.open(index, create=False) as opened:
        found = opened.info()
    if json_output:
        emit(asdict(found))
        return
    vectors = f"{found.embedder['name']}, {found.vector_index}" if found.embedder else "none"
    lines = {
        "documents": found.documents,
        "passages": f"{found.passages}, at most {found.passage_chars} characters each",
        "files": found.files,
        "vectors": vectors,
        "on disk": size(found.bytes),
    }
    for name, value in lines.items():
        out.print(f"{name:<10} {value}", markup=False)


@app.command("delete", epilog=DELETE_EXAMPLES)
def delete(
    ids: Annotated[list[str], typer.Argument(help="Document ids.")],
    index: Folder,
    json_output: options.Json = False,
) -> None:
    """Delete documents by id."""
    from headwater.search.index import Index

    with Index.open(index, create=False) as opened:
        count = opened.delete(ids)
    if json_output:
        emit({"deleted": count})
    else:
        out.print(f"{count} of {len(set(ids))} documents deleted.", markup=False)


def embedder_of(index: Path, name: str | None, device: str | None, dtype: str | None, quiet: bool) -> Embedder | None:
    """The embedder asked for, or the one that an index was made with; None where it has no vectors."""
    from headwater.search.store import META, read_meta

    made_with = read_meta(index / META)["embedder"] if (index / META).is_file() else None
    if name is not None:
        return options.load_embedder(name, device, dtype, quiet)
    if made_with is None:
        return None
    try:
        return options.load_embedder(made_with["name"], device, dtype, quiet)
    except ModelError as error:
        raise ModelError(
            f"The embedder of {str(index)!r} cannot be loaded; search by words (bm25), or say where it is now "
            f"(--embed, --embedder). {error}"
        ) from error


def summary(added: Added) -> str:
    """One line: what was read and what changed."""
    counts = {"new": added.new, "changed": added.changed, "unchanged": added.unchanged, "removed": added.removed}
    changes = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing to do"
    return f"{added.files} files read, {added.skipped} as before; documents: {changes}."


def report(added: Added, quiet: bool) -> None:
    """What was left out or guessed, on standard error."""
    shown: list[Any] = added.notes[:8]
    for line in shown:
        note(str(line), quiet)
    if len(added.notes) > len(shown):
        note(f"... and {len(added.notes) - len(shown)} more such notes.", quiet)
