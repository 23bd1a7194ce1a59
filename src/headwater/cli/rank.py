"""`headwater rank`: documents for a query, ordered by the model's query-focused heads; or a whole TREC run again."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import clean, emit, note, out
from headwater.cli.rerun import ONE, Rerun
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.data.documents import Document
    from headwater.rank.qr import QRRetriever
    from headwater.rank.ranked import Ranking

EXAMPLES = """
Examples:

  headwater rank "capital of Algeria" --docs notes/ --top-k 5

  cut -f2 candidates.tsv | headwater rank "capital of Algeria" --json

  headwater rank "capital of Algeria" --docs notes/ --order reversed --order shuffled

  headwater rank "capital of Algeria" --docs notes/ --dry-run

  headwater rank --run bm25.trec --queries queries.tsv --docs corpus.jsonl --output ranked.trec
"""


class Overflow(str, Enum):
    """What happens to a list that does not fit the model."""

    raise_ = "raise"
    truncate = "truncate"
    tournament = "tournament"
    anchors = "anchors"
    slide = "slide"


def rank(
    query: Annotated[str | None, typer.Argument(help="The query; left out with --run.")] = None,
    docs: options.Docs = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="A TREC run to rank again; needs --queries, --docs.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="Queries of the run: .jsonl (id, text), or lines of id, tab, text.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the new run goes (FILE.json: its settings). Again: it goes on."),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="How many documents of the run per query.")] = 100,
    model: options.Model = "tiny",
    heads: options.Heads = None,
    no_detect: options.NoDetect = False,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, help="Show so many. Default: all.")] = None,
    overflow: Annotated[
        Overflow, typer.Option("--overflow", help="For lists that do not fit the model.")
    ] = Overflow.tournament,
    window: Annotated[int | None, typer.Option("--window", min=2, help="Most documents of a window.")] = None,
    order: options.Orders = None,
    tail: Annotated[
        options.Tail | None,
        typer.Option(
            "--tail", help="Average attention over these tokens. Default: as the heads were found, else full."
        ),
    ] = None,
    null_query: Annotated[
        str | None,
        typer.Option("--null-query", help="Subtract the attention of this query. Default: as the heads, else N/A."),
    ] = None,
    max_doc_tokens: Annotated[
        int | None, typer.Option("--max-doc-tokens", min=1, help="Read so many tokens of each text. Default: all.")
    ] = None,
    seed: options.Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and do nothing.")] = False,
    template: options.Template = "auto",
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Rank documents for a query. Without --docs they are read from standard input, one per line (text or JSON)."""
    if run is not None:
        if query is not None or queries is None or docs is None or output is None:
            raise InputError("--run takes its queries from --queries and needs --docs and --output, but no query.")
        work = Rerun(run, queries, docs, output, depth, top_k, quiet)
    elif queries is not None or output is not None:
        raise InputError("--queries and --output belong to a TREC run; give it with --run.")
    elif query is None or not query.strip():
        raise InputError("The query is missing or blank; give a question, or a TREC run with --run.")
    else:
        documents = _given(docs, quiet)
    lm = options.load_model(model, device, dtype, quiet)
    settings: dict[str, Any] = {
        "detect": not no_detect,
        "overflow": overflow.value,
        "window": window,
        "order": order,
        "tail": None if tail is None else tail.value,
        "null_query": null_query,
        "max_doc_tokens": max_doc_tokens,
        "seed": seed,
    }
    ranker = options.load_ranker(lm, heads, template, quiet, **settings)
    if run is not None:
        if dry_run:
            _plan(ranker, *work.longest(), json_output)
        else:
            work.rank(ranker, {"template": template, "top_k": top_k, **settings})
        return
    assert query is not None
    if dry_run:
        _plan(ranker, query, documents, json_output)
        return
    ranking = ranker.rank(query, documents, top_k)
    said = _how(ranking)
    if json_output:
        emit(
            {
                "query": query,
                "model": lm.name,
                "heads": [list(head) for head in ranker.heads.heads],
                "strategy": ranking.strategy,
                "windows": ranking.windows,
                "shortened": ranking.shortened,
                "order": ranker.orders,
                "settings": asdict(ranker.settings),
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
    _table(ranking)
    if said:
        note(said, quiet)


def _given(docs: Path | None, quiet: bool) -> list[Document]:
    """Documents of --docs, else of standard input."""
    if docs is not None:
        return options.documents_at(docs, quiet)
    if sys.stdin.isatty():
        raise InputError("Give documents with --docs FOLDER, or one per line on standard input.")
    from headwater.data.formats import parse_lines
    from headwater.data.text import decode

    return parse_lines(decode(sys.stdin.buffer.read(), "standard input", lambda text: note(text, quiet)))


def _how(ranking: Ranking) -> str:
    """What was done to a list that did not fit; nothing for one that did."""
    if ranking.strategy == ONE:
        return f"{ranking.shortened} documents were shortened." if ranking.shortened else ""
    if ranking.strategy == "truncate":
        return f"The documents do not fit the model: {ranking.shortened} of them were shortened."
    return (
        f"The documents do not fit one prompt: ranked by {ranking.strategy} in {ranking.windows} prompts; scores are "
        "those of each document's last window and not comparable."
    )


def _plan(ranker: QRRetriever, query: str, documents: list[Document], json_output: bool) -> None:
    from headwater.model.memory import size

    plan = ranker.plan(query, documents)
    needed = plan.memory
    if json_output:
        emit(
            {
                "documents": plan.documents,
                "tokens": needed.tokens,
                "limit": plan.limit,
                "keys_values": needed.keys_values,
                "activations": needed.activations,
                "weights": needed.weights,
                "free": needed.free,
                "device": needed.device,
                "fits": plan.fits,
            }
        )
        return
    rows = {
        "documents": str(plan.documents),
        "tokens": f"{needed.tokens} of {plan.limit} that the model reads",
        "keys and values": size(needed.keys_values),
        "activations": f"about {size(needed.activations)}",
        "weights": f"{size(needed.weights)} (loaded)",
        "free memory": "unknown" if needed.free is None else f"{size(needed.free)} on {needed.device}",
        "fits one prompt": "yes" if plan.fits else "no; --overflow says what happens then",
    }
    for name, value in rows.items():
        out.print(f"{name:<16} {value}", markup=False)


def _table(ranking: Ranking) -> None:
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
