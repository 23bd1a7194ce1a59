"""`headwater rank`: documents for a query, ordered by the model's query-focused heads."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from headwater.cli import options
from headwater.cli.console import clean, emit, note, out
from headwater.errors import InputError

EXAMPLES = """
Examples:

  headwater rank "capital of Algeria" --docs notes/ --top-k 5

  cut -f2 candidates.tsv | headwater rank "capital of Algeria" --json

  headwater rank "capital of Algeria" --docs notes/ --heads all
"""


def rank(
    query: Annotated[str, typer.Argument(help="The query.")],
    docs: options.Docs = None,
    model: options.Model = "tiny",
    heads: options.Heads = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, help="Show so many. Default: all.")] = None,
    template: options.Template = "auto",
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Rank documents for a query. Without --docs they are read from standard input, one per line (text or JSON)."""
    if docs is not None:
        documents = options.documents_at(docs, quiet)
    elif sys.stdin.isatty():
        raise InputError("Give documents with --docs FOLDER, or one per line on standard input.")
    else:
        from headwater.data.formats import decode, parse_lines

        said = decode(sys.stdin.buffer.read(), "standard input", lambda text: note(text, quiet))
        documents = parse_lines(said)
    lm = options.load_model(model, device, dtype, quiet)
    ranker = options.load_ranker(lm, heads, template, quiet)
    ranking = ranker.rank(query, documents, top_k)
    if json_output:
        emit(
            {
                "query": query,
                "model": lm.name,
                "heads": [list(head) for head in ranker.heads.heads],
                "ranking": [
                    {
                        "rank": place,
                        "index": ranked.index,
                        "id": ranked.id,
                        "score": ranked.score,
                        "title": ranked.document.title,
                        "text": ranked.document.text,
                    }
                    for place, ranked in enumerate(ranking, 1)
                ],
            }
        )
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    room = max(24, out.width - 56)  # what the other columns leave; rich would shrink those first
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("id", no_wrap=True, overflow="ellipsis", max_width=32, style="dim")
    table.add_column("document", no_wrap=True)
    for place, ranked in enumerate(ranking, 1):
        shown = " · ".join(part for part in (ranked.document.title, " ".join(ranked.document.text.split())) if part)
        shown = clean(shown)
        shown = shown if len(shown) <= room else f"{shown[: room - 1]}…"
        table.add_row(str(place), f"{ranked.score:.4f}", Text(clean(str(ranked.id or ranked.index))), Text(shown))
    out.print(table)
