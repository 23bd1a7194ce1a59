"""Tasks with heads taken out: what a head set does, beside controls of the same size (retrieval_heads.md 3.5, 8).

The folder of a run is that of the benchmark (`headwater.evaluate.bench.run`), so `headwater eval report` draws it; a
system is a set of heads that is missing, and ``heads/`` says which heads each name stands for. Of `summary.json` the
part "rows" holds what one wants first: per task and cell the headline metric, what it has more than the whole model,
and what it has more than the top K of the first set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import headwater
from headwater.data.documents import Document
from headwater.errors import InputError, InsufficientMemoryError
from headwater.evaluate.bench.cost import Cost, measured
from headwater.evaluate.bench.records import file_stem
from headwater.evaluate.bench.run import record_of, run_items, write_items
from headwater.evaluate.bench.summary import Results, summarise_task
from headwater.evaluate.files import Lines, made_with, same_run, write_json
from headwater.evaluate.main_job import Progress, no_progress
from headwater.evaluate.masking.cells import Cell, cells, default_sizes
from headwater.evaluate.masking.rows import UNMASKED, against_random, compared, rows
from headwater.evaluate.masking.settings import CLOSED_BOOK, Settings, masked_task
from headwater.evaluate.metrics import require
from headwater.evaluate.systems.readers import FullContext, NoContext, PlainModel
from headwater.evaluate.systems.system import System
from headwater.evaluate.tasks.task import Task, sample
from headwater.headset import Head, HeadSet
from headwater.instrument.outputs import ablated, reference_means, replaced
from headwater.read.reader import Reader

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


def run(
    lm: LanguageModel,
    sets: Mapping[str, HeadSet],
    output: str | Path,
    settings: Settings | None = None,
    progress: Progress = no_progress,
    command: str = "headwater heads mask",
) -> dict[str, Any]:
    """Run a masking experiment, or what is left of it.

    Args:
        lm: the model.
        sets: head sets by name; controls are those of the first.
        output: folder of the run.
        settings: tasks, sizes, how heads are taken out (None: the defaults).
        progress: called with a label, gives a function of (done, total).
        command: written into the summary.

    Returns:
        The summary.

    Raises:
        InputError: an unknown task or one that cannot be masked, missing data, or a folder that holds another run.
        HeadSetError: K above the number of heads, or heads that the model does not have.
    """
    require()
    settings = Settings() if settings is None else settings
    folder = Path(output)
    tasks = [masked_task(wanted, settings) for wanted in settings.tasks]
    if len({task.name for task in tasks}) < len(tasks):
        raise InputError("Two tasks have one name; give each once.")
    if len({file_stem(name) for name in sets}) < len(sets):
        raise InputError(f"Two head sets have one name: {', '.join(sets)}.")
    sizes = default_sizes(lm.anatomy) if settings.sizes is None else settings.sizes
    made, missing = cells(lm, sets, sizes, settings.controls, settings.seeds)
    loaded = [(task, sample(task.load(), settings.limit, task.name)) for task in tasks]
    same_run(folder / "run.json", _identity(lm, settings))
    names = {_name(cell, settings): cell for cell in made}
    masks = _masks(names)
    for stem, heads in masks.items():
        same_run(folder / "heads" / f"{stem}.json", {"heads": _written(heads)})
    means = _means(lm, masks, settings)
    summary: dict[str, Any] = {"tasks": {}, "not_run": [], "rows": []}
    for task, items in loaded:
        same_run(folder / "items" / f"{task.name}.json", task.definition)
        write_items(folder, task, items)
        if task.kind == "reading" and settings.mode == "zero" and not lm.anatomy.headless:
            records = _together(folder, task, items, masks, settings.phase, lm, progress)
        else:
            records = {}
            for stem, heads in masks.items():
                with _taken_out(lm, heads, settings, means):
                    records[stem] = _one(folder, task, items, stem, lm, progress)
        results = _results(names, records, settings)
        why = results[UNMASKED].records[0][0]["error"] if results[UNMASKED].failed_everywhere() else None
        if why is not None:
            summary["not_run"].append({"task": task.name, "system": "all", "why": why})
            continue
        found = summarise_task(task, items, results, (UNMASKED,), [*compared(names), *against_random(names)])
        summary["tasks"][task.name] = found
        summary["rows"] += rows(task.name, found, names, settings)
    for gap in missing:
        summary["not_run"].append({"task": "all", "system": gap.name, "why": gap.why})
    config = {**asdict(settings), "sizes": sorted(sizes), "baselines": [UNMASKED]}
    config["reference"] = None if settings.reference is None else len(settings.reference)
    summary["config"] = config
    summary["sets"] = {name: _origin(heads) for name, heads in sets.items()}
    summary["made"] = made_with(command, lm.name, min(settings.seeds, default=0), fingerprint=lm.fingerprint)
    write_json(folder / "summary.json", summary)
    return summary


def _identity(lm: LanguageModel, settings: Settings) -> dict[str, Any]:
    """What all results of a folder share."""
    texts = json.dumps(settings.reference).encode()
    return {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": str(lm.dtype),
        "mode": settings.mode,
        "phase": settings.phase,
        "reference": None if settings.reference is None else hashlib.sha256(texts).hexdigest()[:16],
        "limit": settings.limit,
        "headwater": headwater.__version__,
    }


def _name(cell: Cell, settings: Settings) -> str:
    """A cell's name in results, with how its heads are taken out."""
    return f"{cell.name}, {settings.mode}, {settings.phase}"


def _written(heads: Sequence[Head]) -> str:
    return " ".join(f"{layer}-{head}" for layer, head in heads)


def _masks(names: Mapping[str, Cell]) -> dict[str, Sequence[Head]]:
    """The heads that are taken out, by the stem of the files that hold the answers given without them."""
    out: dict[str, Sequence[Head]] = {UNMASKED: ()}
    for name, cell in names.items():
        for seed, draw in zip(cell.seeds or (None,), cell.draws, strict=True):
            out[file_stem(name, seed)] = draw
    return out


def _means(lm: LanguageModel, masks: Mapping[str, Sequence[Head]], settings: Settings) -> dict[Head, torch.Tensor]:
    """What stands in for each head where mode is "reference_mean"; the texts are run once for all masks."""
    if settings.reference is None:
        return {}
    heads = sorted({head for draw in masks.values() for head in draw})
    return dict(zip(heads, reference_means(lm, heads, settings.reference), strict=True))


def _taken_out(
    lm: LanguageModel, heads: Sequence[Head], settings: Settings, means: Mapping[Head, torch.Tensor]
) -> AbstractContextManager[None]:
    """`ablated`, with reference means that are known already."""
    if heads and means:
        return replaced(lm, heads, torch.stack([means[head] for head in heads]), settings.phase)
    return ablated(lm, heads, settings.mode if heads else "zero", settings.phase)


def _one(
    folder: Path, task: Task, items: Sequence[Any], stem: str, lm: LanguageModel, progress: Progress
) -> list[dict[str, Any]]:
    """The records of one mask."""

    def make() -> tuple[System, LanguageModel]:
        if task.kind != "reading":
            return PlainModel(lm), lm
        return NoContext(lm) if task.name == CLOSED_BOOK else FullContext(lm), lm

    return run_items(folder, task, items, stem, make, progress)[0]


def _results(
    names: Mapping[str, Cell], records: Mapping[str, list[dict[str, Any]]], settings: Settings
) -> dict[str, Results]:
    """Records by cell, the whole model first, with what was taken out."""
    found = {UNMASKED: Results()}
    found[UNMASKED].add(None, records[UNMASKED], {})
    for name, cell in names.items():
        found[name] = Results()
        written = [_written(draw) for draw in cell.draws]
        about = {
            **{"role": cell.role, "of": cell.of, "k": cell.k, "mode": settings.mode, "phase": settings.phase},
            "heads": dict(zip(map(str, cell.seeds), written, strict=True)) if cell.seeds else written[0],
        }
        for seed in cell.seeds or (None,):
            found[name].add(seed, records[file_stem(name, seed)], about)
    return found


def _together(
    folder: Path,
    task: Task,
    items: Sequence[Any],
    masks: Mapping[str, Sequence[Head]],
    phase: str,
    lm: LanguageModel,
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Item by item, all masks that are left in one batch; each is charged its share of the cost."""
    lines = {stem: Lines(folder / "queries" / task.name / f"{stem}.jsonl") for stem in masks}
    reader, step = FullContext(lm).reader, progress(f"{task.name}: {len(masks)} masks together")
    for done, item in enumerate(items):
        step(done, len(items))
        left = [stem for stem in masks if item.id not in lines[stem].done]
        if not left:
            continue
        documents = () if task.name == CLOSED_BOOK else item.documents
        answers: Sequence[str | None] = [None] * len(left)
        error = None
        with measured(lm) as cost:
            try:
                answers = _answers(reader, [masks[stem] for stem in left], phase, item.question, documents)
            except InputError as raised:
                error = str(raised)
        share = Cost(cost.seconds / len(left), _part(cost.tokens, left), _part(cost.flops, left), cost.peak_bytes)
        for stem, answer in zip(left, answers, strict=True):
            lines[stem].add(record_of(task, item, answer, error, {}, share))
    step(len(items), len(items))
    return {stem: [written.done[item.id] for item in items] for stem, written in lines.items()}


def _answers(
    reader: Reader, masks: Sequence[Sequence[Head]], phase: str, question: str, documents: Sequence[Document]
) -> list[str]:
    """The answer without each of the masks' heads, as many of them at once as fit the memory."""
    try:
        if phase == "decode":  # the prompt is read once for all of them
            said = reader.read_without(masks, question, documents)
        else:
            zeros = [HeadSet(heads, [0.0] * len(heads)) if heads else None for heads in masks]
            said = reader.read_scaled(zeros, question, documents)
    except InsufficientMemoryError:
        if len(masks) == 1:
            raise
        half = len(masks) // 2
        return [
            text for part in (masks[:half], masks[half:]) for text in _answers(reader, part, phase, question, documents)
        ]
    return [reading.text for reading in said]


def _part(whole: int | None, among: Sequence[str]) -> int | None:
    return None if whole is None else round(whole / len(among))


def _origin(heads: HeadSet) -> dict[str, Any]:
    """Where a set comes from, as far as it says."""
    known = {key: heads.provenance[key] for key in ("method", "model", "name", "examples") if key in heads.provenance}
    return {**known, "listed": len(heads), "scored": heads.scores is not None}
