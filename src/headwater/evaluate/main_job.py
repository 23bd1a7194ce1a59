"""The main experiment: do the heads found on some countries rank and does the model read for others?

Heads are found on questions about development countries; everything reported is about held-out countries. Controls:
all heads (ICR), ten random sets of the same size, heads found with shuffled labels, BM25; for reading the majority
answer of the relation and an answer taken from a random document. Finished queries stay on disk, so an interrupted run
goes on where it stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import headwater
from headwater.data import world
from headwater.data.documents import RankingExample
from headwater.evaluate.files import Lines, made_with, same_run, write_json
from headwater.evaluate.metrics import per_query, require
from headwater.evaluate.questions import KEYWORDS, Step, head_scorer, keyword_scorer, rank_questions, read_questions
from headwater.evaluate.statistics import mean_interval, paired_difference
from headwater.heads import QueryFocusedHeads, RandomHeads
from headwater.headset import HeadSet
from headwater.prompt import prompt_template
from headwater.search.bm25 import K1, B

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

Progress = Callable[[str], Step]
QR, ALL, SHUFFLED, RANDOM = "QR heads", "all heads", "shuffled-label heads", "random heads"
MEASURES = ("nDCG@10", "R@1")


@dataclass(frozen=True)
class Settings:
    """What the experiment is made of; the defaults are those of docs/results/main.md.

    Attributes:
        questions: held-out questions that are ranked.
        readings: held-out questions that are read.
        examples: development questions the heads are found on.
        candidates: documents per ranked question, one of them gold.
        documents: documents per read question, one of them gold.
        random_sets: how many random head sets of the same size.
        top_k: number of heads (None: the detector's own choice).
        seed: of questions, wordings, candidates, random sets and the bootstrap.
    """

    questions: int = 600
    readings: int = 600
    examples: int = 128
    candidates: int = 20
    documents: int = 5
    random_sets: int = 10
    top_k: int | None = None
    seed: int = 0


def no_progress(_: str) -> Step:
    """A progress that shows nothing."""
    return lambda done, total: None


def run(
    lm: LanguageModel,
    output: str | Path,
    settings: Settings = Settings(),
    progress: Progress = no_progress,
    command: str = "headwater eval run --suite main",
) -> dict[str, Any]:
    """Run the experiment, or what is left of it.

    Args:
        lm: the model.
        output: folder for config.json, heads-*.json, ranking.jsonl, reading.jsonl and summary.json.
        settings: sizes and seed.
        progress: called with a label, gives a function of (done, total).
        command: written into the summary.

    Returns:
        The summary.

    Raises:
        InputError: when the folder holds a run of another configuration, or numbers that the world cannot meet.
    """
    require()
    folder = Path(output)
    config = {
        "suite": "main",
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": str(lm.dtype),
        "prompts": [prompt_template(lm.tokenizer, instruction=kind).fingerprint for kind in ("rank", "answer")],
        "headwater": headwater.__version__,
        **asdict(settings),
    }
    same_run(folder / "config.json", config)
    sets = head_sets(lm, folder, settings, progress)
    examples = world.ranking_examples("held_out", settings.questions, settings.candidates, seed=settings.seed)
    ranked = Lines(folder / "ranking.jsonl")
    rank_questions(examples, [head_scorer(lm, sets), keyword_scorer(examples)], ranked, progress("ranking"))
    readings = world.reading_examples("held_out", settings.readings, settings.documents, seed=settings.seed)
    read = Lines(folder / "reading.jsonl")
    read_questions(lm, readings, settings.seed, read, progress("reading"))
    summary = {
        "made": made_with(command, lm.name, settings.seed),
        "config": config,
        "heads": {name: str(heads) for name, heads in sets.items() if name != ALL},
        "ranking": summarise_ranking([ranked.done[str(e.id)] for e in examples], sets, lm, settings.seed),
        "reading": summarise_reading([read.done[e.question.id] for e in readings], settings.seed),
    }
    write_json(folder / "summary.json", summary)
    return summary


def head_sets(
    lm: LanguageModel, folder: Path, settings: Settings, progress: Progress = no_progress
) -> dict[str, HeadSet]:
    """Every head set that is compared, found once and kept in the folder."""
    examples = world.ranking_examples("development", settings.examples, settings.candidates, seed=settings.seed)
    detector = QueryFocusedHeads(top_k=settings.top_k)
    found: dict[str, HeadSet] = {}
    for name, path, given in (
        (QR, folder / "heads-qr.json", examples),
        (SHUFFLED, folder / "heads-shuffled.json", shuffle_labels(examples, settings.seed)),
    ):
        if not path.exists():
            detector.find(lm, given, progress=progress(f"finding {name}")).save(path)
        found[name] = HeadSet.load(path)
    found[ALL] = HeadSet(lm.anatomy.all_heads)
    size = len(found[QR])
    for i in range(settings.random_sets):
        found[f"{RANDOM} {i}"] = RandomHeads(top_k=size, seed=settings.seed + i).find(lm)
    return found


def shuffle_labels(examples: Sequence[RankingExample], seed: int) -> list[RankingExample]:
    """The same examples with one document of each, drawn at random, called gold."""
    draw = random.Random(f"shuffled labels/{seed}")
    return [replace(example, relevant=[draw.randrange(len(example.documents))]) for example in examples]


def summarise_ranking(
    records: Sequence[Mapping[str, Any]], sets: Mapping[str, HeadSet], lm: LanguageModel, seed: int
) -> dict[str, Any]:
    """Means with intervals clustered by country, and paired differences to QR heads."""
    groups = [record["group"] for record in records]
    qrels = {record["id"]: dict.fromkeys(record["gold"], 1) for record in records}
    values: dict[str, dict[str, np.ndarray]] = {}
    for system in records[0]["orders"]:
        rankings = {r["id"]: [r["documents"][i] for i in r["orders"][system]] for r in records}
        scored = per_query(qrels, rankings, MEASURES)
        values[system] = {m: np.array([scored[m][r["id"]] for r in records]) for m in MEASURES}
    drawn = [name for name in values if name.startswith(RANDOM)]
    deepest = {name: heads.last_layer + 1 for name, heads in sets.items()}
    deepest[KEYWORDS] = 0
    if drawn:
        values[RANDOM] = {m: np.mean([values[name][m] for name in drawn], axis=0) for m in MEASURES}
        deepest[RANDOM] = max(deepest[name] for name in drawn)
    shown = [name for name in (QR, ALL, RANDOM, SHUFFLED, KEYWORDS) if name in values]
    systems: dict[str, Any] = {}
    for name in shown:
        row: dict[str, Any] = {m: mean_interval(values[name][m], groups, seed=seed).as_dict() for m in MEASURES}
        systems[name] = {**row, "layers": deepest[name]}
    if drawn:
        for m in MEASURES:
            systems[RANDOM][f"{m} of each set"] = [round(float(values[name][m].mean()), 4) for name in drawn]
    return {
        "n": len(records),
        "groups": len(set(groups)),
        "candidates": len(records[0]["documents"]),
        "layers": lm.anatomy.num_layers,
        "bm25": {"k1": K1, "b": B},
        "systems": systems,
        "differences": {
            f"{QR} - {name}": {
                m: paired_difference(values[QR][m], values[name][m], groups, seed=seed).as_dict() for m in MEASURES
            }
            for name in shown
            if name != QR
        },
    }


def summarise_reading(records: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Normalised exact match with intervals clustered by country, and paired differences to the model."""
    groups = [record["group"] for record in records]
    right = {name: [float(record["right"][name]) for record in records] for name in records[0]["right"]}
    return {
        "n": len(records),
        "groups": len(set(groups)),
        "systems": {name: mean_interval(values, groups, seed=seed).as_dict() for name, values in right.items()},
        "differences": {
            f"model - {name}": paired_difference(right["model"], values, groups, seed=seed).as_dict()
            for name, values in right.items()
            if name != "model"
        },
    }
