"""What training the heads that rank brings: the embedded model before and after, with random heads as the control.

    python -m benchmarks.tuning --page docs/results/heads.md      # about 12 minutes on one core

Trained on questions about the known countries, the step chosen on development countries, measured on held-out ones:
nDCG@10 and recall@1 of 20 candidates. Trained are the model's query-focused heads and, as the control with the same
budget (as many heads of the layers that run, the same adapter, steps and examples), random heads; three seeds each,
which also draw the random heads. Differences are paired, intervals resample countries and seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headwater as hw
from headwater.adapt.ranker import RankerTuning
from headwater.data import world
from headwater.data.documents import RankingExample
from headwater.evaluate.files import Lines, made_with, same_run, write_json
from headwater.evaluate.metrics import order, per_query
from headwater.evaluate.statistics import mean_interval, paired_difference
from headwater.evaluate.tables import fill_page, table
from headwater.headset import HeadSet
from headwater.model.lm import LanguageModel

RESULT = Path(__file__).parent / "results" / "tuning.json"
MEASURES = ("nDCG@10", "R@1")
BEFORE, AFTER = "query-focused heads", "query-focused heads, trained"
RANDOM, RANDOM_AFTER = "random heads", "random heads, trained"
Json = dict[str, Any]


def measured(lm: LanguageModel, heads: HeadSet, examples: list[RankingExample]) -> dict[str, list[float]]:
    """Measure -> one value per example."""
    ranker = hw.QRRetriever(lm, heads)
    qrels = {str(e.id): {str(place): int(g > 0) for place, g in enumerate(e.grades())} for e in examples}
    rankings = {str(e.id): [str(place) for place in order(ranker.score(e.query, e.documents))] for e in examples}
    found = per_query(qrels, rankings, MEASURES)
    return {name: [found[name][str(e.id)] for e in examples] for name in MEASURES}


def tables(report: Json) -> dict[str, str]:
    """The page's tables: tuning, tuning_differences."""

    def interval(row: Json) -> str:
        return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"

    made = report["made"]
    facts = (
        f"{report['n']} questions about {report['groups']} held-out countries, 20 candidates; trained on "
        f"{made['train']} questions about known countries, {made['steps']} steps of {made['batch']} at most, rank "
        f"{made['rank']}, learning rate {made['learning_rate']}, temperature {made['temperature']}; the step chosen on "
        f"{made['development']} development questions; {made['seeds']} seeds; "
        f"{report['seconds per training']:.0f} s of one core per training."
    )
    rows = [[name, *(interval(row[measure]) for measure in MEASURES)] for name, row in report["systems"].items()]
    differences = [[name, *(interval(row[m]) for m in MEASURES)] for name, row in report["differences"].items()]
    return {
        "tuning": f"{facts}\n\n{table(['ranker', 'nDCG@10', 'recall@1'], rows)}",
        "tuning_differences": table(["paired difference", "nDCG@10", "recall@1"], differences),
    }


def main() -> None:
    """Train, measure, write; what an earlier call finished in the work folder is kept."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--train", type=int, default=512)
    cli.add_argument("--development", type=int, default=32)
    cli.add_argument("--test", type=int, default=200)
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--steps", type=int, default=30)
    cli.add_argument("--every", type=int, default=10)
    cli.add_argument("--learning-rate", type=float, default=1e-3)
    cli.add_argument("--temperature", type=float, default=RankerTuning.temperature)
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--work", type=Path, default=Path("runs/tuning"), help="adapters and finished measurements")
    cli.add_argument("--output", type=Path, default=RESULT)
    cli.add_argument("--page", type=Path, nargs="*", default=[], help="markdown pages with places for the tables")
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    lm = hw.load("tiny")
    own = hw.QRRetriever(lm).heads
    train = world.ranking_examples("known", args.train)
    development = world.ranking_examples("development", args.development)
    test = world.ranking_examples("held_out", args.test)
    knobs = {name: getattr(args, name) for name in ("steps", "every", "learning_rate", "temperature")}
    config = {**knobs, "train": args.train, "development": args.development, "seeds": args.seeds}
    same_run(args.work / "config.json", {**config, "test": args.test, "fingerprint": lm.fingerprint, "heads": str(own)})
    lines = Lines(args.work / "measured.jsonl")

    def measure(name: str, seed: int, heads: HeadSet, trained: bool) -> None:
        key = f"{name}/{seed}"
        if key in lines.done:
            return
        record: Json = {"id": key, "ranker": name, "seed": seed, "heads": str(heads)}
        model = lm
        if trained:
            folder = args.work / key.replace(", ", "-").replace(" ", "-").replace("/", "-")
            RankerTuning(heads=heads, seed=seed, **knobs).fit(lm, train, folder, development)
            result = json.loads((folder / "tuning.json").read_text(encoding="utf-8"))["result"]
            record["best"], record["steps"] = result["best"], result["steps"]
            record["log"] = [row for row in result["log"] if "eval_loss" in row]
            record["seconds"] = next(row["train_runtime"] for row in result["log"] if "train_runtime" in row)
            model, heads = hw.load(folder), HeadSet.load(folder / "heads.json")
        record["values"] = measured(model, heads, test)
        lines.add(record)
        means = {measure: round(float(np.mean(record["values"][measure])), 3) for measure in MEASURES}
        print(key, means, {name: record[name] for name in ("best", "seconds") if name in record}, flush=True)

    deeper = [head for head in lm.anatomy.all_heads if head[0] > own.last_layer]
    measure(BEFORE, 0, own, False)
    for seed in range(args.seeds):
        measure(AFTER, seed, own, True)
        drawn = hw.RandomHeads(len(own), seed, exclude=[*own.heads, *deeper]).find(lm)
        assert drawn.last_layer == own.last_layer, "the same layers are adapted"
        measure(RANDOM, seed, drawn, False)
        measure(RANDOM_AFTER, seed, drawn, True)
    report = summary(list(lines.done.values()), test)
    shown = {**config, "batch": RankerTuning.batch, "rank": RankerTuning.rank}
    report = {"made": made_with("python -m benchmarks.tuning", "tiny", 0, heads=str(own), **shown), **report}
    print(f"wrote {write_json(args.output, report)}")
    for page in args.page:
        print(f"wrote {fill_page(page, tables(report))}")


def summary(records: list[Json], test: list[RankingExample]) -> Json:
    """Means and paired differences, with intervals over countries and seeds."""
    groups = [example.group for example in test]
    values = {
        name: {measure: [row["values"][measure] for row in records if row["ranker"] == name] for measure in MEASURES}
        for name in (BEFORE, AFTER, RANDOM, RANDOM_AFTER)
    }
    return {
        "n": len(test),
        "groups": len(set(groups)),
        "seconds per training": float(np.median([row["seconds"] for row in records if "seconds" in row])),
        "systems": {
            name: {measure: mean_interval(rows[measure], groups).as_dict() for measure in MEASURES}
            for name, rows in values.items()
        },
        "differences": {
            f"{first} - {second}": {
                measure: paired_difference(values[first][measure], values[second][measure], groups).as_dict()
                for measure in MEASURES
            }
            for first, second in ((AFTER, BEFORE), (RANDOM_AFTER, RANDOM), (AFTER, RANDOM_AFTER))
        },
        "ids": [example.id for example in test],
        "measured": records,
    }


if __name__ == "__main__":
    main()
