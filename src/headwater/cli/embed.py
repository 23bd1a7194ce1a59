"""`headwater embed`: documents or queries into vectors on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.cli import options
from headwater.cli.console import emit, note, out, progress
from headwater.errors import InputError

EXAMPLES = """
Examples:

  headwater embed --docs notes/ --output vectors

  headwater embed --docs corpus/ --model my-embedder --dtype bfloat16 --output vectors --shard-rows 50000

  headwater embed --queries queries.tsv --model my-embedder --output query-vectors

Started again with the same options, it goes on behind the last whole shard. `headwater.search.shards.read_vectors`
reads the folder.
"""


def embed(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the vectors.")],
    docs: options.Docs = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="Queries instead: .jsonl, or lines of id, tab, text.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "--embedder", "-m", help="'tiny', the folder of an embedder, or any other model.")
    ] = "tiny",
    dimension: Annotated[
        int | None, typer.Option("--dimension", min=1, help="Keep the first so many dimensions, re-normalised.")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of one forward pass.")] = 8192,
    shard_rows: Annotated[int, typer.Option("--shard-rows", min=1, help="Rows of one file.")] = 50_000,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Embed a collection with a tuned model, shard by shard (float16 files with their ids)."""
    if (docs is None) == (queries is None):
        raise InputError("Give either documents with --docs or queries with --queries.")
    from headwater.data.documents import Document
    from headwater.data.formats import read_queries

    if queries is not None:
        given = [Document(text, name) for name, text in read_queries(queries).items()]
    else:
        assert docs is not None
        given = options.documents_at(docs, quiet)
    options.writable_folder(output.parent)
    embedder = options.load_embedder(model, device, dtype, quiet, dimension=dimension, tokens_per_batch=tokens)
    from headwater.search.shards import write_vectors

    with progress("embedding", quiet) as step:
        kind = "document" if queries is None else "query"
        found = write_vectors(embedder, given, output, kind, shard_rows, step)
    note(f"Written to {output}.", quiet)
    if json_output:
        emit({"path": str(output), **found.manifest})
    else:
        out.print(f"{len(found.ids)} vectors of {embedder.dimension} dimensions", markup=False)
