"""Experiments on head sets: which detector, how many heads, how many examples, which lengths, which data.

Heads are found on questions about development countries, everything reported is about held-out countries. Each question
is read once; every head set scores its documents out of that one pass. Finished questions and finished detections stay
on disk, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import headwater
from headwater.data import world
from headwater.data.documents import Document, RankingExample
from headwater.evaluate.files import Lines, made_with, same_run, write_json
from headwater.evaluate.main_job import Progress, no_progress, shuffle_labels
from headwater.evaluate.metrics import order, require
from headwater.evaluate.questions import Scorer, Step, head_scorer, keyword_scorer
from headwater.evaluate.statistics import mean_interval, paired_difference
from headwater.heads import ContrastiveHeads, QueryFocusedHeads, RandomHeads, RetrievalHeads
from headwater.heads.detector import default_top_k
from headwater.headset import HeadScores, HeadSet
from headwater.headset.agreement import chance_overlap, plain, spearman
from headwater.headset.stability import stability
from headwater.prompt import prompt_template

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

QR, ALL, RANDOM, SHUFFLED = "query-focused", "all heads", "random heads", "shuffled labels"
POOL = "query-focused (more examples)"
COUNTS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
EXAMPLES = (8, 16, 32, 64, 128)
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What the experiment is made of; the defaults are those of docs/results/heads.md.

    Attributes:
        questions: held-out questions that are ranked, with 20 and with 50 candidates.
        long_questions: held-out questions at every length.
        pool: development questions that the sets of fewer examples are drawn from.
        examples: the first so many of them, for everything else.
        draws: random sets of examples of each number.
        random_sets: random head sets of each size.
        lengths: numbers of candidates that stand for lengths of the prompt.
        needle_lengths: tokens of the texts in which retrieval heads look for needles.
        needle_depths: where the needles stand in them.
        seed: of everything that is drawn.
    """

    questions: int = 300
    long_questions: int = 100
    pool: int = 256
    examples: int = 128
    draws: int = 5
    random_sets: int = 10
    lengths: tuple[int, ...] = (14, 28, 56, 112)
    needle_lengths: tuple[int, ...] = (256, 512, 1024)
    needle_depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    seed: int = 0


def run(
    lm: LanguageModel,
    output: str | Path,
    settings: Settings = Settings(),
    progress: Progress = no_progress,
    command: str = "headwater eval run --suite heads",
) -> dict[str, Any]:
    """Run the experiments, or what is left of them.

    Args:
        lm: the model.
        output: folder for config.json, heads-*.json, scores-*.npy, *.jsonl and summary.json.
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
        "suite": "heads",
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": str(lm.dtype),
        "prompt": prompt_template(lm.tokenizer).fingerprint,
        "headwater": headwater.__version__,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()},
    }
    same_run(folder / "config.json", config)
    scores = detections(lm, folder, settings, progress)
    k = default_top_k(lm.anatomy)
    size = len(lm.anatomy.all_heads)
    named = {name: found.top(k) for name, found in scores.items()}
    named[ALL] = HeadSet(lm.anatomy.all_heads)
    named |= {f"{RANDOM} {i}": RandomHeads(k, settings.seed + i).find(lm) for i in range(settings.random_sets)}
    counted = {f"top {n}": scores[QR].top(n) for n in COUNTS if n < size}
    fewer = _fewer_examples(scores[POOL], k, settings)
    by_length = {name: found for name, found in named.items() if name.startswith(QR + " at ")}
    results: dict[str, Any] = {}
    for candidates in (20, 50):
        examples = world.ranking_examples("held_out", settings.questions, candidates, seed=settings.seed)
        sets = {name: found for name, found in named.items() if name not in by_length}
        if candidates == 20:
            sets |= counted | fewer
        scorers = [head_scorer(lm, sets), keyword_scorer(examples)]
        label = f"{candidates} candidates"
        values, groups = _measured(folder, label, examples, scorers, progress(f"ranking {label}"))
        results[label] = _summary(values, groups, QR, settings.seed)
    results["lengths"] = {}
    for candidates in settings.lengths:
        examples = world.ranking_examples("held_out", settings.long_questions, candidates, seed=settings.seed)
        sets = {**by_length, QR: named[QR], ALL: named[ALL]}
        label = f"length of {candidates} documents"
        values, groups = _measured(folder, label, examples, [head_scorer(lm, sets)], progress(f"ranking {label}"))
        results["lengths"][str(candidates)] = _summary(values, groups, QR, settings.seed)
    summary = {
        "made": made_with(command, lm.name, settings.seed),
        "config": config,
        "heads": {name: str(found) for name, found in named.items()},
        "top_k": k,
        "results": results,
        "overlap": _overlaps({name: scores[name] for name in scores if name not in by_length}, k),
        "stability": {
            name: stability(found, k, seed=settings.seed).as_dict()
            for name, found in scores.items()
            if found.samples is not None and len(set(found.groups or [])) > 5
        },
    }
    write_json(folder / "summary.json", plain(summary))
    return summary


def detections(
    lm: LanguageModel, folder: Path, settings: Settings, progress: Progress = no_progress
) -> dict[str, HeadScores]:
    """Scores of every detector, found once and kept in the folder (heads-NAME.json and scores-NAME.npy)."""
    pool = world.ranking_examples("development", settings.pool, 20, seed=settings.seed)
    hard = world.ranking_examples("development", settings.examples, 20, seed=settings.seed, hard=True)

    def ranked(detector: Any, examples: Sequence[RankingExample]) -> Callable[[Step], HeadScores]:
        return lambda step: detector.score(lm, examples, step)

    seed, some = settings.seed, pool[: settings.examples]
    needles = RetrievalHeads(seed=seed, lengths=settings.needle_lengths, depths=settings.needle_depths)
    wanted: dict[str, Callable[[Step], HeadScores]] = {
        QR: ranked(QueryFocusedHeads(seed=seed), some),
        POOL: ranked(QueryFocusedHeads(seed=seed), pool),
        "query-focused (ndcg)": ranked(QueryFocusedHeads(metric="ndcg", seed=seed), some),
        "query-focused (look-alikes)": ranked(QueryFocusedHeads(seed=seed), hard),
        "contrastive": ranked(ContrastiveHeads(seed=seed), some),
        SHUFFLED: ranked(QueryFocusedHeads(seed=seed), shuffle_labels(some, seed)),
        "retrieval": lambda step: needles.score(lm, None, step),
    }
    for candidates in settings.lengths:
        examples = world.ranking_examples("development", settings.examples // 2, candidates, seed=settings.seed)
        wanted[f"{QR} at {candidates} documents"] = ranked(QueryFocusedHeads(seed=seed), examples)
    return {name: _kept(folder, name, found, progress(f"finding: {name}")) for name, found in wanted.items()}


def _kept(folder: Path, name: str, find: Callable[[Step], HeadScores], step: Step) -> HeadScores:
    """Scores from the folder, or found and put there."""
    stem = "".join(c if c.isalnum() else "-" for c in name)
    heads, array = folder / f"heads-{stem}.json", folder / f"scores-{stem}.npy"
    if not (heads.exists() and array.exists()):
        found = find(step)
        samples = found.scores[None] if found.samples is None else found.samples
        np.save(array, samples.astype(np.float32), allow_pickle=False)
        groups = [f"{i}" for i in range(len(samples))] if found.groups is None else [str(g) for g in found.groups]
        whole = found.top(int(np.isfinite(found.scores).sum()))
        HeadSet(whole.heads, None, found.scores, {**found.provenance, "groups": groups}).save(heads)
    kept = HeadSet.load(heads)
    assert kept.scores is not None
    samples = np.load(array, allow_pickle=False)
    return HeadScores(kept.scores, kept.provenance, samples, kept.provenance["groups"])


def _fewer_examples(found: HeadScores, k: int, settings: Settings) -> dict[str, HeadSet]:
    """Sets found on fewer examples of the pool, several draws of each number."""
    assert found.samples is not None
    rng = np.random.default_rng(settings.seed)
    sets = {}
    for count in EXAMPLES:
        for draw in range(settings.draws):
            part = rng.permutation(len(found.samples))[:count]
            sets[f"{count} examples, draw {draw}"] = HeadScores(found.samples[part].mean(0)).top(k)
    return sets


def _measured(
    folder: Path, label: str, examples: Sequence[RankingExample], scorers: Sequence[Scorer], step: Step
) -> tuple[dict[str, Values], list[str]]:
    """nDCG@10 and recall@1 of every set on every question (one gold document each), and the questions' groups."""
    lines = Lines(folder / f"{label.replace(' ', '-')}.jsonl")
    for done, example in enumerate(examples):
        step(done, len(examples))
        if str(example.id) in lines.done:
            continue
        documents = [document for document in example.documents if isinstance(document, Document)]
        gold = example.grades().index(1.0)
        scores = {name: row for scorer in scorers for name, row in scorer(example.query, documents).items()}
        ranks = {name: order(row).index(gold) for name, row in scores.items()}
        lines.add({"id": str(example.id), "group": example.group, "ranks": ranks})
    step(len(examples), len(examples))
    records = [lines.done[str(example.id)] for example in examples]
    values: dict[str, Values] = {}
    for name in records[0]["ranks"]:
        row = np.array([record["ranks"][name] for record in records])
        values[name] = {"nDCG@10": np.where(row < 10, 1 / np.log2(row + 2), 0.0), "R@1": (row == 0).astype(float)}
    return values, [str(record["group"]) for record in records]


def _summary(values: Mapping[str, Values], groups: Sequence[str], base: str, seed: int) -> dict[str, Any]:
    """Means with intervals, and paired differences to `base`; random sets are seeds."""
    merged = dict(values)
    drawn = [name for name in values if name.startswith(RANDOM)]
    if drawn:
        merged = {name: row for name, row in values.items() if name not in drawn}
        merged[RANDOM] = {m: np.stack([values[name][m] for name in drawn]) for m in values[drawn[0]]}
    return {
        "n": len(groups),
        "groups": len(set(groups)),
        "sets": {
            name: {m: mean_interval(column, groups, seed=seed).as_dict() for m, column in row.items()}
            for name, row in merged.items()
        },
        "differences": {
            name: {
                m: paired_difference(merged[base][m], column, groups, seed=seed).as_dict() for m, column in row.items()
            }
            for name, row in merged.items()
            if name != base
        },
    }


def _overlaps(scores: Mapping[str, HeadScores], k: int) -> dict[str, Any]:
    """Shared heads and rank correlation of every two detectors, beside chance."""
    names = list(scores)
    total = int(np.isfinite(next(iter(scores.values())).scores).sum())
    rows = {}
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            one, other = scores[first], scores[second]
            rows[f"{first} | {second}"] = {
                "shared": len(set(one.top(k).heads) & set(other.top(k).heads)),
                "spearman": spearman(one.scores, other.scores),
            }
    return {"k": k, "chance": chance_overlap(k, k, total).as_dict(), "pairs": rows}
