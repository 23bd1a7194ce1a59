"""Experiments on head sets: which detector, how many heads, how many examples, which lengths, which data, what for.

Heads are found on questions about development countries, everything reported is about held-out countries or about
other collections. Each question is read once per order of its list; every head set scores its documents out of that one
pass. Finished questions and finished detections stay on disk, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import headwater
from headwater.data import world
from headwater.data.documents import Document, RankingExample
from headwater.errors import HeadSetError
from headwater.evaluate.files import Lines, made_with, same_run, write_json
from headwater.evaluate.heads_cost import costs
from headwater.evaluate.heads_found import check_room, detections, known_share, lengths_of, lists_of_length
from headwater.evaluate.heads_lists import Collection, collections, own_heads, ranked_collection
from headwater.evaluate.heads_masks import masked
from headwater.evaluate.heads_settings import (
    ALL,
    CORE,
    COUNTS,
    EXAMPLES,
    MATCHED,
    NDCG,
    ON_NQ,
    POOL,
    QR,
    RANDOM,
    SHUFFLED,
    WU,
    Settings,
    shown_as,
)
from headwater.evaluate.main_job import Progress, no_progress
from headwater.evaluate.metrics import order, require
from headwater.evaluate.questions import Scorer, Step, head_scorer, keyword_scorer
from headwater.evaluate.statistics import mean_interval, paired_difference
from headwater.heads import RandomHeads
from headwater.heads.detector import default_top_k
from headwater.headset import HeadScores, HeadSet
from headwater.headset.agreement import chance_overlap, plain, spearman
from headwater.headset.stability import stability
from headwater.prompt import prompt_template

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

Values = dict[str, np.ndarray]


def run(
    lm: LanguageModel,
    output: str | Path,
    settings: Settings | None = None,
    progress: Progress = no_progress,
    command: str = "headwater eval run --suite heads",
    data: str | Path | None = None,
) -> dict[str, Any]:
    """Run the experiments, or what is left of them.

    Args:
        lm: the model.
        output: folder for config.json, heads-*.json, scores-*.npy, *.jsonl, masked-*/ and summary.json.
        settings: sizes and seed (None: the defaults).
        progress: called with a label, gives a function of (done, total).
        command: written into the summary.
        data: folder of data sets; without it the collections are left out.

    Returns:
        The summary.

    Raises:
        InputError: when the folder holds a run of another configuration, numbers that the world cannot meet, a model
            that cannot read the lists, or a data folder that lacks a collection.
    """
    require()
    settings = Settings() if settings is None else settings
    folder = Path(output)
    lists = [] if data is None else collections(Path(data), settings)  # what is missing shows before anything runs
    held_out = {
        candidates: world.ranking_examples("held_out", settings.questions, candidates, seed=settings.seed)
        for candidates in (20, 50)
    }
    check_room(lm, held_out[50])
    long = lists_of_length(lm, "held_out", settings.long_questions, lengths_of(lm, settings), settings.seed)
    config = {
        "suite": "heads",
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": str(lm.dtype),
        "prompt": prompt_template(lm.tokenizer).fingerprint,
        "headwater": headwater.__version__,
        "numbers of heads": list(COUNTS),
        "numbers of examples": list(EXAMPLES),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()},
    }
    same_run(folder / "config.json", config)
    scores, missing = detections(lm, folder, settings, progress)
    k = default_top_k(lm.anatomy)
    named = {name: found.top(k) for name, found in scores.items()}
    named[ALL] = HeadSet(lm.anatomy.all_heads)
    seeds = [settings.seed + i for i in range(settings.random_sets)]
    named |= {f"{RANDOM} {i}": RandomHeads(k, seed).find(lm) for i, seed in enumerate(seeds)}
    try:
        matched = [RandomHeads(seed=seed, exclude=named[QR], like=named[QR]).find(lm) for seed in seeds]
        named |= {f"{MATCHED} {i}": found for i, found in enumerate(matched)}
    except HeadSetError as error:
        missing[MATCHED] = str(error)
    results = {
        **_held_out(lm, folder, held_out, scores, named, settings, progress),
        "lengths": _by_length(lm, folder, long, named, settings, progress),
    }
    found_lists = _collections(lm, folder, scores, named, lists, settings, progress)
    few = {name: named[name] for name in (QR, NDCG, CORE, WU, ALL, f"{RANDOM} 0") if name in named}
    summary = {
        "made": made_with(command, lm.name, settings.seed),
        "config": config,
        "heads": {name: str(found) for name, found in named.items()},
        "not_run": missing,
        "top_k": k,
        "results": results,
        "collections": found_lists,
        "cost": costs(lm, folder, few, _priced(settings, lists), settings, progress),
        "masked": masked(lm, folder, {n: named[n] for n in (QR, WU) if n in named}, settings, progress, command),
        "overlap": _overlaps({name: scores[name] for name in scores if not name.startswith(QR + " at ")}, k),
        "stability": {
            name: stability(found, k, seed=settings.seed).as_dict()
            for name, found in scores.items()
            if found.samples is not None and len(set(found.groups or [])) > 5
        },
    }
    write_json(folder / "summary.json", plain(summary))
    return summary


def _held_out(
    lm: LanguageModel,
    folder: Path,
    lists: Mapping[int, Sequence[RankingExample]],
    scores: Mapping[str, HeadScores],
    named: Mapping[str, HeadSet],
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Questions about held-out countries: 20 and 50 candidates, numbers of heads and of examples."""
    size, k = len(lm.anatomy.all_heads), len(named[QR])
    results: dict[str, Any] = {}
    for candidates, examples in lists.items():
        sets = {name: found for name, found in named.items() if not name.startswith(QR + " at ")}
        if candidates == 20:
            sets |= {f"top {n}": scores[QR].top(n) for n in COUNTS if n < size}
            sets |= _fewer_examples(scores[POOL], k, settings)
        scorers = [head_scorer(lm, sets), keyword_scorer(examples)]
        label = f"{candidates} candidates"
        values, groups = _measured(folder, label, examples, scorers, progress(f"ranking {label}"))
        results[label] = _summary(values, groups, QR, settings.seed)
    return results


def _by_length(
    lm: LanguageModel,
    folder: Path,
    lists: Mapping[int, Sequence[RankingExample]],
    named: Mapping[str, HeadSet],
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Questions about held-out countries with lists of every length, by heads found on lists of every length."""
    results: dict[str, Any] = {}
    for length, examples in lists.items():
        sets = {name: found for name, found in named.items() if name.startswith(QR + " at ")}
        sets |= {QR: named[QR], ALL: named[ALL]}
        label = f"lists of {length} tokens"
        values, groups = _measured(folder, label, examples, [head_scorer(lm, sets)], progress(f"ranking {label}"))
        found = _summary(values, groups, QR, settings.seed)
        found["documents"] = float(np.mean([len(example.documents) for example in examples]))
        found["known"] = known_share(examples)
        results[str(length)] = found
    return results


def _collections(
    lm: LanguageModel,
    folder: Path,
    scores: Mapping[str, HeadScores],
    named: Mapping[str, HeadSet],
    lists: Sequence[Collection],
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Candidates of search engines, with the heads found on countries and, if NQ is there, with heads found on NQ."""
    sets = {name: named[name] for name in (QR, NDCG, CORE, WU, SHUFFLED, ALL) if name in named}
    sets |= {name: found for name, found in named.items() if name.startswith((RANDOM, MATCHED))}
    for each in lists:
        if each.examples:
            sets[ON_NQ] = own_heads(lm, folder, each, settings, progress).top(len(named[QR]))
    return {each.name: ranked_collection(lm, folder, each, sets, settings, progress) for each in lists}


def _priced(settings: Settings, lists: Sequence[Collection]) -> dict[str, list[tuple[str, Sequence[Document]]]]:
    """A few lists of every kind, for times."""
    out: dict[str, list[tuple[str, Sequence[Document]]]] = {}
    for candidates in (20, 50):
        examples = world.ranking_examples("held_out", settings.cost_questions, candidates, seed=settings.seed)
        out[f"{candidates} of the Factbook"] = [(e.query, e.documents) for e in examples]  # type: ignore[misc]
    for each in lists:
        items = [item for item in each.items if item.documents][: settings.cost_questions]
        out[f"{settings.collection_depth} of {each.name}"] = [(item.query, item.documents) for item in items]
    return out


def _fewer_examples(found: HeadScores, k: int, settings: Settings) -> dict[str, HeadSet]:
    """Sets found on fewer examples of the pool, several draws of each number."""
    assert found.samples is not None
    rng = np.random.default_rng(settings.seed)
    sets = {}
    for count in EXAMPLES:
        if count > len(found.samples):
            break
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
    merged = {
        name: {m: np.stack([values[one][m] for one in drawn]) for m in values[drawn[0]]}
        for name, drawn in shown_as(values).items()
    }
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
