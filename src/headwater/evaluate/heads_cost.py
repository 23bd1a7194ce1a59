"""What ranking a list costs with each head set: tokens, operations, seconds; `QRRetriever` one list at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from headwater.data.documents import Document
from headwater.evaluate.bench.cost import measured
from headwater.evaluate.files import Lines
from headwater.evaluate.heads_settings import Settings
from headwater.evaluate.main_job import Progress
from headwater.headset import HeadSet
from headwater.rank.qr import QRRetriever

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

Listed = tuple[str, Sequence[Document]]


def costs(
    lm: LanguageModel,
    folder: Path,
    sets: Mapping[str, HeadSet],
    lists: Mapping[str, Sequence[Listed]],
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Rank a few lists of every kind with each set, the sets taking turns; each stops at its own deepest head.

    Args:
        lm: the model.
        folder: of the run; cost.jsonl keeps what was measured.
        sets: head sets by name.
        lists: kind of list -> queries with their documents, all of which fit or are cut to fit.
        settings: for the number of lists.
        progress: called with a label, gives a function of (done, total).

    Returns:
        "layers": set -> layers that run; "lists": kind -> "tokens" and "sets": name -> mean operations, median seconds.
    """
    lines, step = Lines(folder / "cost.jsonl"), progress("costs")
    rankers = {name: QRRetriever(lm, heads) for name, heads in sets.items()}
    cutter, warm = QRRetriever(lm, "all"), False
    asked = {f"{kind}/{place}": listed for kind, found in lists.items() for place, listed in enumerate(found)}
    for done, (name, (query, documents)) in enumerate(asked.items()):
        step(done, len(asked))
        if name in lines.done:
            continue
        shown = cutter.fitted(query, documents)
        if not warm:
            for ranker in rankers.values():  # the first ranking of a process pays for what is set up once
                ranker.rank(query, shown)
            warm = True
        record: dict[str, Any] = {"id": name, "sets": {}}
        for each, ranker in rankers.items():
            with measured(lm) as cost:
                ranker.rank(query, shown)
            record["sets"][each] = cost.as_dict()
        lines.add(record)
    step(len(asked), len(asked))
    out: dict[str, Any] = {"layers": {name: heads.last_layer + 1 for name, heads in sets.items()}, "lists": {}}
    for kind, found in lists.items():
        records = [lines.done[f"{kind}/{place}"]["sets"] for place in range(len(found))]
        if not records:
            continue
        out["lists"][kind] = {
            "n": len(records),
            "tokens": mean(next(iter(record.values()))["tokens"] for record in records),
            "sets": {
                name: {
                    "flops": mean(record[name]["flops"] for record in records),
                    "seconds": median(record[name]["seconds"] for record in records),
                }
                for name in sets
            },
        }
    return out
