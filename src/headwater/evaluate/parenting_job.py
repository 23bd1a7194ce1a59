"""Parenting measured: does tuning each class of units on its own losses help, beside plain tuning and its controls?

Tests are about countries, in wordings, that no training item has; learning rates and steps are chosen on development
questions. The probe, the sets, the classes, every training and every answer stay on disk, so an interrupted run goes on
where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

import headwater
from headwater.evaluate.files import made_with, same_run, write_json
from headwater.evaluate.main_job import Progress, no_progress
from headwater.evaluate.metrics import require
from headwater.evaluate.parenting import questions
from headwater.evaluate.parenting.answers import TEXT, Answers
from headwater.evaluate.parenting.questions import AXES
from headwater.evaluate.parenting.rows import ROWS, SHOWN, Row, by_third, maker, partition
from headwater.evaluate.parenting.settings import Settings
from headwater.evaluate.parenting.summary import measure, summarise
from headwater.evaluate.parenting.workshop import Workshop, score
from headwater.headset.agreement import plain
from headwater.model.adapter import require_peft
from headwater.plots import curve, save, unit_map
from headwater.prompt import prompt_template

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

STATES = ("chosen", "last")
Key = tuple[float | None, list[int]]  # learning rate and seeds of a row


def run(
    lm: LanguageModel,
    output: str | Path,
    settings: Settings | None = None,
    progress: Progress = no_progress,
    command: str = "headwater eval run --suite parenting",
) -> dict[str, Any]:
    """Run the experiment, or what is left of it.

    Args:
        lm: the model.
        output: folder for config.json, units.json, pear.json, runs.jsonl, answers/, pictures, summary.json, and work/
            with what can be made again: sets, mining runs, adapters.
        settings: sizes and seeds (None: the defaults).
        progress: called with a label, gives a function of (done, total).
        command: written into the summary.

    Returns:
        The summary.

    Raises:
        InputError: the folder holds a run of another configuration, the model knows too few facts, or no unit is of
            class A or R.
        MissingExtraError: peft, or what the statistics need, is not installed.
    """
    require()
    require_peft()
    settings, folder = settings or Settings(), Path(output)
    config = {
        "suite": "parenting",
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
    shop = Workshop(lm, folder, settings, progress)
    known = shop.data.record
    tests = questions.tests(shop.sets, settings)
    refused = {row.name: why for row in ROWS if (why := shop.refused(row))}
    listed = [row for row in ROWS if row.name not in refused and maker(row).name not in refused]
    answers = Answers(shop, tests, progress)
    keys = {row.name: _asked(shop, answers, row) for row in listed}
    values = {state: measure(_said(answers, keys, state), tests) for state in STATES}
    _draw(shop, folder, keys)
    summary = {
        "made": made_with(command, lm.name, settings.seed),
        "config": config,
        "label": folder.resolve().name,
        "known": {"labels": known["probe"]["labels"], "counts": known["counts"]},
        "tests": {name: [len(items), len({item.group for item in items})] for name, items in tests.items()},
        "refused": refused,
        "rows": {row.name: _about(shop, answers, row, keys[row.name]) for row in listed},
        "classes": _classes(shop),
        "results": {state: summarise(values[state], tests, settings.seed) for state in STATES},
    }
    write_json(folder / "summary.json", plain(summary))
    return summary


def _asked(shop: Workshop, answers: Answers, row: Row) -> Key:
    """Choose a row's learning rate, train it, and ask it everything that is left."""
    trains = maker(row).switches is not None
    rate = shop.rate(maker(row)) if trains else None
    seeds = shop.settings.seeds_of(row.seeds)
    for seed in seeds:
        for state, names in (("chosen", [*answers.tests, TEXT]), ("last", list(AXES))):
            key = _key(row, rate, seed, state)
            if state == "last" and not _has_last(shop, row, rate, seed):
                continue
            if answers.missing(key, names):
                with shop.tuned(row, rate, seed, last=state == "last") as lm:
                    answers.ask(key, lm, names)
    return rate, seeds


def _has_last(shop: Workshop, row: Row, rate: float | None, seed: int) -> bool:
    """Whether another step than the last one was chosen."""
    if rate is None:
        return False
    found = shop.trained(maker(row), rate, seed)
    return bool(found["best"] != found["steps"])


def _key(row: Row | str, rate: float | None, seed: int, state: str) -> str:
    name = row if isinstance(row, str) else row.name
    return f"{name}/{'none' if rate is None else f'{rate:g}'}/{seed}/{state}"


def _said(answers: Answers, keys: Mapping[str, Key], state: str) -> dict[str, list[Mapping[str, list[str]]]]:
    """Row -> seeds -> test -> answers; where the chosen step is the last one, its answers stand for both."""
    out: dict[str, list[Mapping[str, list[str]]]] = {}
    for row, (rate, seeds) in keys.items():
        out[row] = []
        for seed in seeds:
            found = answers.of(_key(row, rate, seed, state)) or answers.of(_key(row, rate, seed, "chosen"))
            out[row].append({name: found[name] for name in (AXES if state == "last" else answers.tests)})
    return out


def _about(shop: Workshop, answers: Answers, row: Row, key: Key) -> dict[str, Any]:
    """What the tables say of a row's trainings."""
    rate, seeds = key
    about: dict[str, Any] = {"seeds": len(seeds), "rate": rate, "unlike": row.unlike}
    about["perplexity"] = [answers.perplexity(_key(row, rate, seed, "chosen")) for seed in seeds]
    if rate is None:
        return about
    found = [shop.trained(maker(row), rate, seed) for seed in seeds]
    about["rates"] = {
        f"{each:g}": score(shop.trained(maker(row), each, shop.settings.seed)) for each in shop.settings.rates
    }
    cosines = [look["cosine_a_r"] for one in found for look in _logged(one) if look.get("cosine_a_r") is not None]
    return {
        **about,
        "steps": [one["steps"] for one in found],
        "best": [one["best"] for one in found],
        "stopped": sum(bool(one["stopped"]) for one in found),
        "skipped": sum(one["skipped"] for one in found),
        "parameters": [one["parameters"] for one in found],
        "seconds": [one["seconds"] for one in found],
        "cosine": float(np.mean(cosines)) if cosines else None,
    }


def _logged(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a training wrote down; of a merged one, that of its adapter on all sets."""
    log = run["log"]
    return list(log["all"] if isinstance(log, dict) else log)


def _classes(shop: Workshop) -> dict[str, Any]:
    """Where the classes sit, beside random partitions, and how alike the sets rank the units."""
    units, layers, seeds = shop.units, shop.lm.anatomy.num_layers, shop.settings.seeds_of("some")
    drawn = [by_third(partition(units, "random", seed), layers) for seed in seeds]
    return {
        "sizes": units.sizes,
        "tau": units.tau,
        "gamma": units.gamma,
        "reliability": units.provenance["reliability"],
        "mined": by_third(units, layers),
        "random": {name: np.mean([each[name] for each in drawn], axis=0).tolist() for name in units.sizes},
        "layers": layers,
    }


def _draw(shop: Workshop, folder: Path, keys: Mapping[str, Key]) -> None:
    """Pictures: both axes on development questions over training, and the classes."""
    for measured, name in (("R_Ad", "adherence"), ("R_Ro", "robustness")):
        lines = {}
        for row in ROWS:
            if row.name not in SHOWN or row.name not in keys:
                continue
            rate, seeds = keys[row.name]
            assert rate is not None
            lines[row.name] = _line([shop.trained(row, rate, seed)["curve"] for seed in seeds], measured)
        save(curve(lines, "step", f"{measured}, development questions"), folder / f"curves-{name}.svg")
    units = shop.units
    rows = [(each.layer, each.projection, found) for each, found in zip(units.units, units.classes, strict=True)]
    save(unit_map(rows, units.z_a, units.z_r, units.tau, shop.lm.name), folder / "units.svg")


def _line(curves: Sequence[Sequence[Mapping[str, float]]], measured: str) -> dict[str, dict[str, float | None]]:
    """Step -> mean, least and most over the seeds that came so far."""
    at: dict[int, list[float]] = {}
    for points in curves:
        for point in points:
            at.setdefault(int(point["step"]), []).append(point[measured])
    return {
        str(step): {"mean": float(np.mean(found)), "low": min(found), "high": max(found)}
        for step, found in sorted(at.items())
    }
