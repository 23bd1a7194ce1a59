"""`headwater demo`: the main job offline, with a report to look at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.cli import options
from headwater.cli.console import emit, out, progress

EXAMPLES = """
Examples:

  headwater demo

  headwater demo --output demo-out --questions 120 --seed 1
"""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report.html and result.json.")] = Path(
        "demo-out"
    ),
    questions: Annotated[int, typer.Option("--questions", min=2, help="Held-out questions to rank and to read.")] = 60,
    model: options.Model = "tiny",
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the heads that read, rank and read documents about countries the model never saw, and write a report.

    Works offline: model and documents (World Factbook, public domain) ship with headwater.
    """
    options.writable_folder(output)
    lm = options.load_model(model, device, dtype, quiet)
    from headwater.evaluate import demo as job
    from headwater.evaluate.files import write_json
    from headwater.evaluate.report import write_report

    with stages(quiet) as stage:
        result = job.run(lm, questions, seed, stage, f"headwater demo --questions {questions} --seed {seed}")
    write_json(output / "result.json", result)
    write_report(result, output / "report.html")
    if json_output:
        emit(result)
    else:
        _summary(result)
        out.print(f"\nReport: {output / 'report.html'}", markup=False, soft_wrap=True)


class stages:
    """One progress bar after the other: call with a label, get a function of (done, total)."""

    def __init__(self, quiet: bool) -> None:
        """Nothing is shown when quiet, or when standard error is not a terminal."""
        self.quiet = quiet
        self._open = ExitStack()

    def __enter__(self) -> Callable[[str], Callable[[int, int], None]]:
        """Start."""

        def stage(label: str) -> Callable[[int, int], None]:
            self._open.close()
            return self._open.enter_context(progress(label, self.quiet))

        return stage

    def __exit__(self, *_: Any) -> None:
        """Take the last bar off the screen."""
        self._open.close()


def _summary(result: dict[str, Any]) -> None:
    from rich.table import Table

    ranking, reading, heads = result["ranking"], result["reading"], result["heads"]
    listed = " ".join(f"{layer}-{head}" for layer, head in heads["chosen"])
    total = sum(len(row) for row in heads["scores"])
    out.print(
        f"Query-focused heads (layer-head): {listed}\n"
        f"  {len(heads['chosen'])} of {total}, found on {heads['examples']} questions about development countries\n",
        markup=False,
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"{ranking['candidates']} documents per question")
    for name in ("gold first", "95 % interval", "nDCG@10", "layers"):
        table.add_column(name, justify="right")
    for name, row in ranking["systems"].items():
        first = row["R@1"]
        table.add_row(
            name,
            f"{100 * first['mean']:.0f} %",
            f"{100 * first['low']:.0f}-{100 * first['high']:.0f}",
            f"{row['nDCG@10']['mean']:.3f}",
            f"{row['layers']} of {ranking['layers']}" if row["layers"] else "none",
        )
    out.print(table)
    out.print(f"  {ranking['n']} questions about {ranking['groups']} held-out countries\n", style="dim", markup=False)
    said = reading["systems"]
    out.print(
        f"Answers read from 5 documents: {100 * said['model']['mean']:.0f} % right "
        f"(majority answer {100 * said['majority answer']['mean']:.0f} %, "
        f"random document {100 * said['random document']['mean']:.0f} %)\n",
        markup=False,
    )
    for question in result["questions"][:3]:
        answer = question["answer"]
        out.print(f"  {question['text']}", markup=False)
        where = "".join(f"  [{c['document_id']}: “{c['quote']}”]" for c in answer["citations"])
        out.print(f"  → {answer['text'] or '(no answer)'}{where or '  [not supported]'}", markup=False)
