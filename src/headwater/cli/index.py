"""`headwater index`: documents on disk, found again by words."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import clean, emit, note, out, progress

if TYPE_CHECKING:
    from headwater.search.sync import Added

app = typer.Typer(help="Keep documents in an index on disk.", no_args_is_help=True)

ADD_EXAMPLES = """
Examples:

  headwater index add notes/ --index notes.index

  headwater index add minutes.jsonl --index notes.index --prefix minutes/
"""
SEARCH_EXAMPLES = """
Examples:

  headwater index search "annual budget" --index notes.index --top-k 5
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
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Read files into an index; run again, it takes in what changed and drops what is gone."""
    from headwater.data.files import find_files
    from headwater.search.index import Index

    find_files(path)  # a typo in the path must not leave an empty index behind
    with Index.open(index, passage_chars=passage_chars) as opened, progress("reading files", quiet) as step:
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
    json_output: options.Json = False,
) -> None:
    """List the passages that match best (BM25)."""
    from headwater.search.index import Index

    with Index.open(index, create=False) as opened:
        hits = opened.search(query, k=top_k)
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
        note("No word of the query stands in the index.")
    for place, hit in enumerate(hits, 1):
        where = f"{hit.document.id}, from character {hit.document.metadata['passage_start']}"
        out.print(f"{place:>3}  {hit.score:.2f}  {clean(where)}", markup=False, style="dim", soft_wrap=True)
        text = " ".join(hit.document.text.split())
        out.print(f"     {clean(text if len(text) <= 200 else text[:199] + '…')}", markup=False)


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
    vectors = found.embedder["name"] if found.embedder else "none"
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
