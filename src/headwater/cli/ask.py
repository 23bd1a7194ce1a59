"""`headwater ask`: a question, a folder of documents, a cited answer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli import options
from headwater.cli.console import clean, emit, note, out, progress
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.pipeline import Answer
    from headwater.search.embedder import Embedder

EXAMPLES = """
Examples:

  headwater ask "What is the capital of Algeria?" --docs notes/

  headwater ask "Who signed it?" --index minutes.index --model meta-llama/Llama-3.2-1B-Instruct --json

  headwater ask "Who signed it?" --docs minutes/ --model Qwen/Qwen3-8B --ranker-model Qwen/Qwen3-0.6B

  headwater ask "Who signed it?" --docs minutes/ --retrieve hybrid --embedder my-embedder
"""


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    docs: options.Docs = None,
    index: Annotated[
        Path | None,
        typer.Option("--index", "-i", help="Folder of the index. Default: one in the cache for each --docs."),
    ] = None,
    model: options.Model = "tiny",
    ranker_model: Annotated[
        str | None, typer.Option("--ranker-model", help="Another, smaller model that ranks for the one that reads.")
    ] = None,
    heads: options.Heads = None,
    no_detect: options.NoDetect = False,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many of the best passages are read.")] = 5,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="How many candidates are ranked.")] = 20,
    retrieve: Annotated[
        str | None,
        typer.Option(
            "--retrieve",
            help="Candidates by bm25 (words), dense (vectors) or hybrid. Default: as --index has them, else bm25.",
        ),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            "--embedder", help="Of dense and hybrid: 'tiny', a folder, any model. Default: the index's; tiny."
        ),
    ] = None,
    order: options.Orders = None,
    support: Annotated[
        float | None,
        typer.Option("--support", min=0, max=1, help="How sure the model has to be. Default: as calibrated, else 0."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First measure how sure this model has to be, once (64 questions).")
    ] = False,
    template: options.Template = "auto",
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer a question from your documents, with the sentence the answer stands in.

    --docs is read into an index the first time; later only what changed in it.
    """
    if docs is None and index is None:
        raise InputError("Give documents with --docs FOLDER, or an index with --index FOLDER.")
    if docs is not None:
        from headwater.data.files import find_files

        find_files(docs)
    if retrieve not in (None, "bm25", "dense", "hybrid"):
        raise InputError(f"Unknown --retrieve {retrieve!r}; use bm25, dense or hybrid.")
    if embedder is not None and retrieve in (None, "bm25"):
        raise InputError("--embedder goes with --retrieve dense or hybrid.")
    if not question.strip():
        raise InputError("The question is blank; give a question.")
    if docs is None and index is not None:
        from headwater.search.index import Index

        Index.open(index, create=False).close()
    vectors = _embedder(index, docs, retrieve, embedder, device, dtype, quiet)
    lm = options.load_model(model, device, dtype, quiet)
    ranker_lm = lm if ranker_model is None else options.load_model(ranker_model, device, dtype, quiet)
    ranker = options.load_ranker(ranker_lm, heads, template, quiet, detect=not no_detect, order=order)
    if calibrate:
        from headwater.read import support as supporting

        with progress("calibrating", quiet) as step:
            found = supporting.calibrate(lm, template=template, progress=step)
        note(
            f"Answers of {lm.name} count as supported from a confidence of {found.threshold:.2f}: right ones kept "
            f"{100 * found.kept:.0f} %, answers without a source refused {100 * found.refused:.0f} %.",
            quiet,
        )
    from headwater.pipeline import Pipeline, passage_chars
    from headwater.search.index import Index
    from headwater.search.store import META

    chars = min(passage_chars(each, candidates) for each in (lm, ranker_lm))
    new = index is None or not (index / META).is_file()
    folder = index or _cached(docs, chars, vectors)
    with Index.open(folder, embedder=vectors, passage_chars=chars if new else None) as opened:
        if docs is not None:
            from headwater.cli.index import report, summary

            with progress("reading files", quiet) as step:
                added = opened.add_path(docs, progress=step)
            report(added, quiet)
            if added.files or added.removed:
                note(summary(added), quiet)
        if opened.info().documents == 0:
            raise InputError(f"{docs or index} holds no documents with any text.")
        pipeline = Pipeline(
            lm,
            opened,
            ranker,
            candidates=candidates,
            read=top_k,
            template=template,
            support=support,
            retrieve=retrieve,
        )
        live = out.is_terminal and not json_output
        answer = pipeline.ask(question, _live if live else None)
    if json_output:
        emit(_record(answer, lm.name))
    else:
        _show(answer, live)


def _embedder(
    index: Path | None,
    docs: Path | None,
    retrieve: str | None,
    name: str | None,
    device: str | None,
    dtype: str | None,
    quiet: bool,
) -> Embedder | None:
    """What makes vectors, where any are made: for --retrieve, or because the index has them."""
    from headwater.cli.index import embedder_of

    if retrieve in ("dense", "hybrid"):
        own = None if index is None or name is not None else embedder_of(index, None, device, dtype, quiet)
        return own or options.load_embedder(name or "tiny", device, dtype, quiet)
    if index is None or (retrieve == "bm25" and docs is None):
        return None
    return embedder_of(index, None, device, dtype, quiet)


def _cached(docs: Path | None, chars: int, vectors: Embedder | None) -> Path:
    """The index in the cache for a folder of documents."""
    from headwater.cache import cache_folder

    made = "" if vectors is None else f"\x1f{vectors.fingerprint}"
    key = hashlib.sha256(f"{(docs or Path()).resolve()}\x1f{chars}{made}".encode()).hexdigest()[:16]
    return cache_folder() / "indexes" / key


def _live(piece: str) -> None:
    out.print(clean(piece), style="bold", markup=False, end="", soft_wrap=True)


def _record(answer: Answer, model: str) -> dict[str, object]:
    return {
        "question": answer.question,
        "answer": answer.text,
        "supported": answer.supported,
        "confidence": answer.confidence,
        "citations": [citation._asdict() for citation in answer.citations],
        "ranking": [
            {
                "rank": place,
                "id": ranked.id,
                "score": ranked.score,
                "start": ranked.document.metadata.get("passage_start", 0),
                "text": ranked.document.text,
                "read": place <= answer.read,
            }
            for place, ranked in enumerate(answer.ranking, 1)
        ],
        "notes": list(answer.notes),
        "model": model,
    }


def _show(answer: Answer, shown: bool) -> None:
    if shown and answer.text:
        out.print()
    else:
        out.print(clean(answer.text) or "(no answer)", style="bold", markup=False)
    for citation in answer.citations:
        out.print(f"  “{clean(citation.quote)}”", markup=False)
        where = f"{clean(citation.document_id)}, characters {citation.start}-{citation.end}"
        out.print(f"  {where}", style="dim", markup=False)
    if not answer.supported:
        out.print(f"  Not supported by the documents{_why(answer)}.", style="yellow", markup=False)


def _why(answer: Answer) -> str:
    from headwater.read.citation import cite

    if not answer.text:
        return ""
    read = [ranked.document for ranked in answer.ranking[: answer.read]]
    if cite(answer.text, read, answer.question) is None:
        return ": these words stand in none of the passages read"
    return f": the words stand there, but the model was not sure of them (confidence {answer.confidence:.2f})"
