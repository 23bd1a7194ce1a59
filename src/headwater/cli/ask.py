"""`headwater ask`: a question, a folder of documents, a cited answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.cli import options
from headwater.cli.console import clean, emit, note, out

EXAMPLES = """
Examples:

  headwater ask "What is the capital of Algeria?" --docs notes/

  headwater ask "Who signed it?" --docs minutes.jsonl --model meta-llama/Llama-3.2-1B-Instruct --json
"""


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    docs: Annotated[Path, typer.Option("--docs", "-d", help="A folder or file of .txt, .md or .jsonl documents.")],
    model: options.Model = "tiny",
    heads: options.Heads = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many of the best passages are read.")] = 5,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="How many BM25 candidates are ranked.")] = 20,
    template: options.Template = "auto",
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer a question from your documents, with the sentence the answer stands in."""
    documents = options.documents_at(docs, quiet)
    lm = options.load_model(model, device, dtype, quiet)
    from headwater.pipeline import Pipeline

    ranker = options.load_ranker(lm, heads, template, quiet)
    pipeline = Pipeline(lm, documents, ranker, candidates=candidates, read=top_k, template=template)
    answer = pipeline.ask(question)
    if json_output:
        emit(
            {
                "question": question,
                "answer": answer.text,
                "supported": answer.supported,
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
                "model": lm.name,
            }
        )
        return
    out.print(clean(answer.text) or "(the model gave no answer)", style="bold", markup=False)
    for citation in answer.citations:
        out.print(f"  “{clean(citation.quote)}”", markup=False)
        where = f"{clean(citation.document_id)}, characters {citation.start}-{citation.end}"
        out.print(f"  {where}", style="dim", markup=False)
    if not answer.supported:
        note("Not supported: these words stand in none of the passages read.")
