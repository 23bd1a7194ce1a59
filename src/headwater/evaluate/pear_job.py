"""PEAR measured: does re-weighting the heads that suppress context help, beside its controls and its rivals?

Reading is measured on held-out countries, memory on facts that the model answers right without documents. The number of
heads and the rivals' settings are chosen on development questions. Finished answers and learned coefficients stay on
disk, so an interrupted run goes on where it stopped; a further row asks its own questions only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

import headwater
from headwater.adapt.text_kl import plain_texts, text_kl, windows
from headwater.errors import InputError
from headwater.evaluate.files import Lines, made_with, same_run, write_json
from headwater.evaluate.main_job import Progress, no_progress
from headwater.evaluate.metrics import require
from headwater.evaluate.pear import questions
from headwater.evaluate.pear.answers import Answers, content
from headwater.evaluate.pear.choice import choose_size, choose_weight
from headwater.evaluate.pear.questions import FIRST, LAST, MIDDLE, Fact, Tests
from headwater.evaluate.pear.rivals import rivals
from headwater.evaluate.pear.rows import CONTRAST, Row, rows
from headwater.evaluate.pear.settings import Settings
from headwater.evaluate.pear.summary import measure, summarise
from headwater.evaluate.pear.workshop import Workshop
from headwater.heads import ph3
from headwater.headset import HeadScores, HeadSet
from headwater.headset.agreement import plain
from headwater.instrument.outputs import scaled
from headwater.prompt import prompt_template
from headwater.read.reader import Reader

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


def run(
    lm: LanguageModel,
    output: str | Path,
    settings: Settings | None = None,
    progress: Progress = no_progress,
    command: str = "headwater eval run --suite pear",
) -> dict[str, Any]:
    """Run the experiment, or what is left of it.

    Args:
        lm: the model.
        output: folder for config.json, known.json, heads/, answers/, treatments.jsonl and summary.json.
        settings: sizes and seeds (None: the defaults).
        progress: called with a label, gives a function of (done, total).
        command: written into the summary.

    Returns:
        The summary.

    Raises:
        InputError: when the folder holds a run of another configuration, or numbers that the world cannot meet.
        ModelError: a model that does not copy random tokens, so that no head can be found.
    """
    require()
    settings, folder = settings or Settings(), Path(output)
    total = len(lm.anatomy.all_heads)
    if settings.top_k is not None and settings.top_k > total // 2:
        raise InputError(
            f"top_k is {settings.top_k}, but {lm.name!r} has {total} heads and as many random ones must be left "
            f"beside them: give {total // 2} or less."
        )
    reader = Reader(lm, settings.new_tokens)
    config = {
        "suite": "pear",
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": str(lm.dtype),
        "prompt": prompt_template(lm.tokenizer, instruction="answer").fingerprint,
        "headwater": headwater.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **plain(asdict(settings)),
    }
    same_run(folder / "config.json", config)
    shop, answers = Workshop(lm, folder, settings, progress), Answers(folder, reader)
    detected = {
        "batch_mean": [shop.scores(seed) for seed in _seeds(settings, "all")],
        "sequence_mean": [shop.scores(seed, "sequence_mean") for seed in _seeds(settings, "some")],
    }
    tested, chosen, counts = _known(lm, folder, settings, progress)
    to_choose = questions.development(settings, chosen)
    k, sweep = choose_size(shop, answers, to_choose, progress)
    weight, weights = choose_weight(shop, answers, to_choose, progress)
    tests, many = questions.tests(lm, settings, tested)
    conflicts = questions.to_find_with(chosen, ph3.EXAMPLES, settings)
    others, choices = rivals(shop, answers, to_choose, conflicts, k, progress)
    listed = [*rows(shop, k, weight, progress), *others]
    sets = {row.name: [row.scale(shop, s) for s in _seeds(settings, row.seeds)] for row in listed if row.scale}
    treated = _treatments(lm, folder, settings, sets, progress)
    said = _answers(shop, answers, listed, sets, tests, progress)
    values = measure(said, tests)
    summary = {
        "made": made_with(command, lm.name, settings.seed),
        "config": config,
        "label": folder.resolve().name,
        "k": {"default": shop.default_k, "reported": k, "of": total},
        "documents": {"few": settings.few, "many": many},
        "known": counts,
        "detected": {ablation: [_about_detection(found) for found in seeds] for ablation, seeds in detected.items()},
        "sweep": sweep,
        "weights": {"shares": weights, CONTRAST: weight},
        "rivals": choices,
        "rows": {row.name: {"cost": row.cost, "seeds": row.seeds, "decisive": row.decisive} for row in listed},
        "treatments": treated,
        "results": summarise(values, tests, settings.seed, {row.name for row in listed if row.seeds == "none"}),
    }
    write_json(folder / "summary.json", plain(summary))
    return summary


def _seeds(settings: Settings, which: str) -> list[int]:
    count = {"none": 1, "some": min(settings.some, settings.seeds), "all": settings.seeds}[which]
    return [settings.seed + i for i in range(count)]


def _about_detection(found: HeadScores) -> dict[str, Any]:
    """What the tables say of one search for heads; "suppressing": how many have a score above zero."""
    about = found.provenance
    return {
        "copy_accuracy": about["copy_accuracy"],
        "noise": about["noise"],
        "unranked": len(about["unranked"]),
        "suppressing": int((np.nan_to_num(found.scores) > 0).sum()),
    }


def _known(
    lm: LanguageModel, folder: Path, settings: Settings, progress: Progress
) -> tuple[list[Fact], list[Fact], dict[str, float]]:
    """Facts that the model knows, measured once."""
    path = folder / "known.json"
    if not path.exists():
        tested, chosen, counts = questions.known_facts(lm, settings, progress("what the model knows"))
        write_json(path, {"tested": tested, "development": chosen, "counts": counts})
    kept = json.loads(path.read_text(encoding="utf-8"))
    facts = [[(country, relation) for country, relation in kept[name]] for name in ("tested", "development")]
    return facts[0], facts[1], kept["counts"]


def _treatments(
    lm: LanguageModel,
    folder: Path,
    settings: Settings,
    sets: Mapping[str, Sequence[HeadSet | None]],
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Row -> per seed its heads, coefficients, the share of these below one, and how far plain text moved.

    Raises:
        InputError: what is on disk was measured with other heads or coefficients.
    """
    lines, step = Lines(folder / "treatments.jsonl"), progress("text KL")
    given = windows(lm, plain_texts(), settings.text_tokens)
    seen: dict[object, float] = {}
    total, done = sum(map(len, sets.values())), 0
    for row, found in sets.items():
        for seed, heads in enumerate(found):
            step(done, total)
            done += 1
            coefficients = [] if heads is None else list(heads.coefficients or [])
            now = {"heads": "" if heads is None else str(heads), "coefficients": coefficients}
            kept = lines.done.get(f"{row}/{seed}")
            if kept is not None:
                if any(kept[name] != value for name, value in now.items()):
                    raise InputError(
                        f"{lines.path} holds {row!r} with other heads or coefficients; delete that file and the folder "
                        "answers beside it, or give another output folder."
                    )
                continue
            key = content(heads)
            if key not in seen:
                seen[key] = 0.0 if not key else text_kl(lm, lambda h=heads: scaled(lm, h), given)  # type: ignore[misc]
            lines.add(
                {
                    "id": f"{row}/{seed}",
                    **now,
                    "below_one": sum(c < 1 for c in coefficients) / len(coefficients) if coefficients else None,
                    "text_kl": seen[key],
                }
            )
    step(total, total)
    return {row: [lines.done[f"{row}/{seed}"] for seed in range(len(found))] for row, found in sets.items()}


def _answers(
    shop: Workshop,
    answers: Answers,
    listed: Sequence[Row],
    sets: Mapping[str, Sequence[HeadSet | None]],
    tests: Tests,
    progress: Progress,
) -> dict[str, dict[str, list[list[str]]]]:
    """Test -> row -> answers per seed."""
    settings, curve = shop.settings, (FIRST, MIDDLE, LAST)
    out: dict[str, dict[str, list[list[str]]]] = {test: {} for test in tests}
    named = {f"{row}/{seed}": heads for row, found in sets.items() for seed, heads in enumerate(found)}
    for test, items in tests.items():
        asked_of = {row.name: row for row in listed if row.scale and (row.decisive or test not in curve)}
        sizes = {
            name: len(items) if asked_of[of].decisive else min(settings.first, len(items))
            for name in named
            if (of := name.rpartition("/")[0]) in asked_of
        }
        chosen = {name: named[name] for name in sizes}
        said = answers.together(test, items, chosen, sizes, progress(f"answers: {test}"))
        for name in asked_of:
            out[test][name] = [said[f"{name}/{seed}"] for seed in range(len(sets[name]))]
    for row in listed:
        if row.alone is None:
            continue
        asked = {test: items[: settings.alone] for test, items in tests.items() if test not in curve}
        for place, seed in enumerate(_seeds(settings, row.seeds)):
            name = f"{row.name}/{place}"
            missing = any(answers.missing(test, items, name) for test, items in asked.items())
            with row.alone(shop, seed) if missing else nullcontext() as ask:
                for test, items in asked.items():
                    step = progress(f"answers: {test}, {row.name}")
                    out[test].setdefault(row.name, []).append(answers.alone(test, items, name, ask, step, row.made))
    return out
