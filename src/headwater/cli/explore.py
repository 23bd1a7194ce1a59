"""`headwater heads explore`: a page to look at what single heads look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.cli import options
from headwater.cli.console import command_line, note, out
from headwater.cli.names import named
from headwater.errors import InputError

EXAMPLES = """
Examples:

  headwater heads explore "capital of Norland" --docs docs/example --output explore.html

  headwater heads explore "Who signed?" --docs notes/ --heads mine.json --heads 2-1,3-0 --gold signed.txt -o page.html
"""


def explore(
    query: Annotated[str, typer.Argument(help="The question that the heads read the documents for.")],
    docs: options.Docs = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page (.html).")] = Path("explore.html"),
    heads: Annotated[
        list[str] | None,
        typer.Option("--heads", help="A head set, published name or heads 13-18,13-21; may be repeated. Default: own."),
    ] = None,
    gold: Annotated[
        list[str] | None, typer.Option("--gold", help="Id of a document that answers; may be repeated.")
    ] = None,
    model: options.Model = "tiny",
    template: options.Template = "auto",
    device: options.Device = None,
    dtype: options.Dtype = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a page that shows, head by head, which words of the documents a question makes it look at."""
    if docs is None:
        raise InputError("Give documents with --docs, a file or a folder.")
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; name a file, such as {output / 'explore.html'}.")
    documents = options.documents_at(docs, quiet)
    from headwater.data.documents import RankingExample

    asked = RankingExample(query, documents, gold or [])
    options.writable_folder(output.parent)
    lm = options.load_model(model, device, dtype, quiet)
    from headwater.evaluate.explorer import explorer
    from headwater.evaluate.explorer_page import write_explorer
    from headwater.evaluate.files import made_with

    wanted: dict[str, str | None] = {**named(heads or [])} or {"query-focused": None}
    rankers = {name: options.load_ranker(lm, text, template, quiet) for name, text in wanted.items()}
    first = next(iter(rankers))
    settings = rankers[first].settings
    for name, ranker in rankers.items():
        if ranker.settings != settings:
            note(f"{name} was found with other switches than {first}; the page shows those of {first}.", quiet)
    data = explorer(lm, {name: ranker.heads for name, ranker in rankers.items()}, [asked], settings)
    write_explorer(data, made_with(command_line(), lm.name, 0), output)
    kept = len(data["questions"][0]["heads"])
    note(f"{kept} of {len(lm.anatomy.all_heads)} heads can be looked at, over {len(documents)} documents.", quiet)
    out.print(f"Page: {output}", markup=False, soft_wrap=True)
