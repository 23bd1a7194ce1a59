"""Entry point of the `headwater` command."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
import typer.core

from headwater import __version__
from headwater.cli import (
    ask,
    demo,
    embed,
    evaluate,
    heads,
    index,
    llara,
    models,
    needle,
    parent,
    parent_mine,
    parenting,
    pear,
    rank,
    retriever,
    tune,
)
from headwater.cli.console import clean, err
from headwater.errors import HeadwaterError, InputError


class Group(typer.core.TyperGroup):
    """Turns our errors into one sentence and an exit code: 1 the work failed, 2 wrong usage."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (HeadwaterError, OSError) as error:
            err.print(clean(f"Error: {error}"), style="red", markup=False, soft_wrap=True)
            raise typer.Exit(2 if isinstance(error, InputError) else 1) from None


app = typer.Typer(
    cls=Group,
    name="headwater",
    help="Better retrieval-augmented generation from inside the model: find the heads that read, rank with them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headwater {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


app.command("demo", epilog=demo.EXAMPLES)(demo.demo)
app.command("ask", epilog=ask.EXAMPLES)(ask.ask)
app.command("rank", epilog=rank.EXAMPLES)(rank.rank)
app.command("needle", epilog=needle.EXAMPLES)(needle.needle)
app.command("models", epilog=models.EXAMPLES)(models.models)
heads.app.command("tune", epilog=tune.EXAMPLES)(tune.tune)
app.add_typer(heads.app, name="heads")
app.add_typer(pear.app, name="pear")
parent.app.command("mine", epilog=parent_mine.EXAMPLES)(parent_mine.mine)
parent.app.command("tune", epilog=parenting.TUNE_EXAMPLES)(parenting.tune)
parent.app.command("merge", epilog=parenting.MERGE_EXAMPLES)(parenting.merge)
app.add_typer(parent.app, name="parent")
llara.app.command("mine", epilog=retriever.MINE_EXAMPLES)(retriever.mine)
llara.app.command("tune", epilog=retriever.TUNE_EXAMPLES)(retriever.tune)
app.add_typer(llara.app, name="llara")
app.command("embed", epilog=embed.EXAMPLES)(embed.embed)
app.add_typer(index.app, name="index")
app.add_typer(evaluate.app, name="eval")


def main() -> None:
    """Run the command line."""
    app()
