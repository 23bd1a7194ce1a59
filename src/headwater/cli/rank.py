"""`headwater rank`: documents for a query, ordered by the model's query-focused heads; or a whole TREC run again."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import clean, command_line, emit, note, out, progress
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

ONE = "one prompt"  # the strategy of a list that fits


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
        work = _Rerun(run, queries, docs, output, depth, top_k, quiet)
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


class _Rerun:
    """A TREC run that is ranked again, query by query."""

    def __init__(
        self, run: Path, queries: Path, docs: Path, output: Path, depth: int, top_k: int | None, quiet: bool
    ) -> None:
        """Read everything and check that it fits together, before a model is loaded."""
        from headwater.data.formats import read_queries, read_run

        if output.is_dir():
            raise InputError(f"--output {output} is a folder; name a file, such as {output / 'ranked.trec'}.")
        options.writable_folder(output.parent)
        self.run = {name: [i for i, _ in ranked[:depth]] for name, ranked in read_run(run).items()}
        self.queries = read_queries(queries)
        unknown = next((name for name in self.run if name not in self.queries), None)
        if unknown is not None:
            raise InputError(f"The run {run} has the query {unknown!r}, which {queries} does not hold.")
        wanted = {i for ids in self.run.values() for i in ids}
        self.documents = {d.id: d for d in options.documents_at(docs, quiet) if d.id in wanted}
        missing = next((i for ids in self.run.values() for i in ids if i not in self.documents), None)
        if missing is not None:
            raise InputError(
                f"The run {run} has the document {missing!r}, which {docs} does not hold (or holds empty)."
            )
        self.output, self.depth, self.top_k, self.quiet = output, depth, top_k, quiet
        self.files = {"run": run, "queries": queries, "docs": docs}

    def longest(self) -> tuple[str, list[Document]]:
        """The query with the most text to read."""
        size = {name: sum(len(self.documents[i].text) for i in ids) for name, ids in self.run.items()}
        name = max(size, key=lambda each: size[each])
        return self.queries[name], [self.documents[i] for i in self.run[name]]

    def rank(self, ranker: QRRetriever, settings: dict[str, Any]) -> None:
        """Rank every query; what an interrupted run finished is kept beside the output and not done again."""
        from headwater.atomic import write_text
        from headwater.evaluate.files import Lines, made_with, same_run, write_json

        made = self.output.with_name(self.output.name + ".part.json")
        model = {"model": ranker.lm.fingerprint, "heads": str(ranker.heads), "queries": self.queries}
        same_run(made, {**model, **settings})
        part = self.output.with_name(self.output.name + ".part.jsonl")
        lines = Lines(part)
        with progress("ranking", self.quiet) as step:
            for done, (name, ids) in enumerate(self.run.items()):
                step(done, len(self.run))
                if name in lines.done and lines.done[name].get("of") == ids:
                    continue
                ranking = ranker.rank(self.queries[name], [self.documents[i] for i in ids], self.top_k)
                # scores of windows are not comparable, so the run holds what its order says
                scores = [r.score for r in ranking] if ranking.windows == 1 else list(range(len(ranking), 0, -1))
                ranked = [[r.id, s] for r, s in zip(ranking, scores, strict=True)]
                lines.add({"id": name, "of": ids, "strategy": ranking.strategy, "ranked": ranked})
        rows = [
            f"{name} Q0 {document} {place} {score:.6f} headwater"
            for name in self.run
            for place, (document, score) in enumerate(lines.done[name]["ranked"], 1)
        ]
        lists = Counter(lines.done[name].get("strategy", ONE) for name in self.run)
        write_text(self.output, "\n".join(rows) + "\n")
        record = {
            "made": made_with(command_line(), ranker.lm.name, settings["seed"]),
            **{name: str(path) for name, path in self.files.items()},
            "depth": self.depth,
            "fingerprint": ranker.lm.fingerprint,
            "dtype": str(ranker.lm.dtype),
            "heads": [list(head) for head in ranker.heads.heads],
            "coefficients": ranker.heads.coefficients,
            "order": ranker.orders,
            "settings": asdict(ranker.settings),
            **{name: settings[name] for name in ("overflow", "window", "top_k")},
            "strategies": dict(lists),
        }
        write_json(self.output.with_name(self.output.name + ".json"), record)
        part.unlink()
        made.unlink()
        windows = "".join(
            f"; {n} of them by {how}, as they do not fit one prompt" for how, n in lists.items() if how != ONE
        )
        note(f"{len(self.run)} queries ranked into {self.output}{windows}.", self.quiet)


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
