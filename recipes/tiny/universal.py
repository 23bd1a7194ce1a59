"""Heads of small models side by side: how many copy, how alone they are, whether they stay when a model learns more.

python -m recipes.tiny.universal --models FOLDER [--pair BEFORE=AFTER ...] [--page docs/results/heads.md]

Wu et al. (arXiv 2404.15574) call retrieval heads universal (every model has them), sparse (few heads) and intrinsic (of
the base model, and still there after fine-tuning). FOLDER is the --output of `recipes.tiny.variants`; variants that are
not in it are left out, the embedded model is always measured. Every seed has needles of its own, invented facts in
text about real countries. A pair are two folders of one shape, a model before and after further training (or "tiny");
`llama-weak`, `llama-even` and `llama-strong` began as one model and are paired with each other. Finished detections
stay in --work.

`recipes.tiny.small` and `recipes.tiny.model` plant copying heads at fixed places before training, so where models
agree they do so partly by construction. Every variant is therefore paired with its own first weights.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shlex
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headwater as hw
from headwater.data import world
from headwater.data.needle import Needle, built_in_haystack
from headwater.errors import HeadwaterError, InputError, NoAcceptedRunsError
from headwater.evaluate.files import Lines, made_with, same_run, write_json
from headwater.evaluate.tables import fill_page, table
from headwater.headset.agreement import agreement, agreement_of_pairs, chance_overlap, plain
from headwater.model.lm import LanguageModel
from recipes.tiny.compare import finished
from recipes.tiny.invent import Inventor
from recipes.tiny.small import build
from recipes.tiny.text import unseen
from recipes.tiny.variants import VARIANTS

Json = dict[str, Any]
EMBEDDED = "tiny"
FIRST = "first weights"
ONE_START = ("llama-weak", "llama-even", "llama-strong")
COPYING, READING = "retrieval", "query-focused"
THRESHOLDS = (0.1, 0.5)
TOP = 0.1  # share of the heads that are compared
RELATIONS = ("capital", "highest_point", "currency", "leader", "anthem", "lowest_point", "legislature", "language")
LENGTHS, DEPTHS, BUFFER, NEW_TOKENS = (256, 512, 896), (0.1, 0.5, 0.9), 120, 32  # fits 1,024 tokens
CANDIDATES = 10  # twenty do not fit 1,024 tokens of the variants


def needles(seed: int, count: int) -> list[Needle]:
    """Invented facts about invented countries: names and answers are made-up words that no text of the world holds."""
    draw, inventor = random.Random(f"headwater/universal/{seed}"), Inventor([])
    text = "\n".join(built_in_haystack("detection")).casefold()
    out: list[Needle] = []
    while len(out) < count:
        relation = world.RELATIONS[RELATIONS[(seed * count + len(out)) % len(RELATIONS)]]
        country, *answer = (inventor.syllables(draw) for _ in range(3))
        said = " ".join(answer)
        if said.casefold() in text or country.casefold() in text or unseen().search(f"{country} {said}"):
            continue
        statement = f"{relation.statement.format(c=country)} {said}."
        try:
            out.append(Needle(statement, relation.questions[0].format(c=country), said, f"{country}/{relation.name}"))
        except HeadwaterError:  # the words happen to stand in the question
            continue
    return out


def detected(lm: LanguageModel, lines: Lines, seeds: int, count: int, examples: int) -> Json:
    """Scores of every detector and seed as nested lists (None where no needle was found), and the accepted runs."""
    out: Json = {COPYING: [], READING: [], "accepted": [], "cases": count * len(LENGTHS) * len(DEPTHS)}

    def copying(seed: int) -> Json:
        detector = hw.RetrievalHeads(
            seed=seed, lengths=LENGTHS, depths=DEPTHS, buffer=BUFFER, max_new_tokens=NEW_TOKENS
        )
        try:
            found = detector.score(lm, needles(seed, count))
        except NoAcceptedRunsError:
            return {"scores": None, "accepted": 0}
        return {"scores": found.scores.tolist(), "accepted": found.provenance["examples"]}

    def reading(seed: int) -> Json:
        given = world.ranking_examples("development", examples, CANDIDATES, seed=seed)
        return {"scores": hw.QueryFocusedHeads(seed=seed).score(lm, given).scores.tolist()}

    finders: dict[str, Callable[[int], Json]] = {COPYING: copying, READING: reading}
    for seed in range(seeds):
        for name, find in finders.items():
            key = f"{lm.fingerprint}/{name}/{seed}"
            if key not in lines.done:
                lines.add({"id": key, **plain(find(seed))})
            out[name].append(lines.done[key]["scores"])
        out["accepted"].append(lines.done[f"{lm.fingerprint}/{COPYING}/{seed}"]["accepted"])
    return out


def grids(rows: Sequence[Any]) -> list[np.ndarray]:
    """Score grids `[layers, heads]` of the seeds that gave any; NaN where a head has no score."""
    return [np.array(row, dtype=np.float64) for row in rows if row is not None]


def described(found: Json) -> Json:
    """One model: shares above the thresholds, concentration, agreement between seeds."""
    scores = grids(found[COPYING])
    out: Json = {"accepted": found["accepted"], "cases": found["cases"]}
    for name in (COPYING, READING):
        own = grids(found[name])
        out[f"{name}, seeds"] = agreement(own, _top(own[0])).as_dict() if len(own) > 1 else None
    if not scores:
        return out
    flat = [np.sort(np.nan_to_num(grid).ravel())[::-1] for grid in scores]
    k, total = _top(scores[0]), scores[0].size
    return {
        **out,
        "heads": total,
        "k": k,
        "chance": chance_overlap(k, k, total).as_dict(),
        "above": {str(least): [float((row >= least).mean()) for row in flat] for least in THRESHOLDS},
        "best": [float(row[0]) for row in flat],
        "concentration": [float(row[:k].sum() / row.sum()) if row.sum() else None for row in flat],
    }


def compared(before: Json, after: Json) -> Json:
    """A pair: top heads that both have, seed by seed (each with the same needles), beside chance.

    Raises:
        InputError: models of different shapes.
    """
    out: Json = {}
    for name in (COPYING, READING):
        pairs = [
            (first, second)
            for a, b in zip(before[name], after[name], strict=True)
            for first, second in zip(grids([a]), grids([b]), strict=False)
        ]
        if not pairs:
            out[name] = None
            continue
        if any(first.shape != second.shape for first, second in pairs):
            raise InputError("The two models of a pair have different heads; only models of one shape can be compared.")
        k, total = _top(pairs[0][0]), pairs[0][0].size
        chance = chance_overlap(k, k, total)
        out[name] = {**agreement_of_pairs(pairs, k).as_dict(), "chance": chance.overlap, "high": chance.overlap_high}
    return out


def _top(grid: np.ndarray) -> int:
    return max(2, math.ceil(TOP * grid.size))


def tables(result: Json) -> dict[str, str]:
    """The tables of the page: universal, intrinsic."""
    rows = []
    for name, row in result["models"].items():
        accepted = f"{sum(row['accepted'])} of {row['cases'] * len(row['accepted'])}"
        if "above" not in row:
            rows.append([name, accepted, *["-"] * 5, _agreed(row[f"{READING}, seeds"])])
            continue
        shares = [f"{_spread(row['above'][str(least)], 0.01)} %" for least in THRESHOLDS]
        best = _spread(row["best"])
        cells = [*shares, best, _spread([value or 0.0 for value in row["concentration"]])]
        chance = f"{row['chance']['overlap']:.2f}"
        agreed = [f"{_agreed(row[f'{each}, seeds'])} (chance {chance})" for each in (COPYING, READING)]
        rows.append([name, accepted, *cells, *agreed])
    header = ["model", "needles found", *(f"heads of {least} or more" for least in THRESHOLDS), "best head"]
    header += ["share of all scores in the top 10 %", "copying heads shared by seeds", "query-focused ones"]
    pairs = [
        [name, *(_pair(row[each], cell) for each in (COPYING, READING) for cell in ("overlap", "spearman"))]
        for name, row in result["pairs"].items()
    ]
    made = result["made"]
    sizes = f"{made['seeds']} seeds of {made['needles']} needles x {len(LENGTHS)} lengths x {len(DEPTHS)} depths"
    told = f"{sizes}, {made['examples']} lists of {CANDIDATES} documents; `{made['command']}`, {made['date'][:10]}."
    shown = ["pair", "copying: top 10 % shared", "Spearman", "query-focused: top 10 % shared", "Spearman"]
    return {
        "universal": f"{told}\n\n{table(header, rows)}",
        "intrinsic": table(shown, pairs) if pairs else "No pairs were measured.",
    }


def _spread(values: Sequence[float], unit: float = 1.0) -> str:
    """Mean and range over seeds."""
    digits = 2 if unit == 1 else 0
    low, mean, high = (value / unit for value in (min(values), float(np.mean(values)), max(values)))
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _agreed(row: Json | None) -> str:
    return "-" if row is None else f"{row['overlap']:.2f}"


def _pair(row: Json | None, cell: str) -> str:
    """A cell of a pair's row."""
    if row is None or row[cell] is None:
        return "-"
    if cell == "spearman":
        return f"{row[cell]:.2f}"
    low, high = row["overlap_low"], row["overlap_high"]
    return f"{row[cell]:.2f} ({low:.2f} to {high:.2f}; chance {row['chance']:.2f}, at most {row['high']:.2f})"


def pairs_of(given: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Pairs written BEFORE=AFTER, by a name made of the last parts of their paths.

    Raises:
        ValueError: something else.
    """
    out = {}
    for text in given:
        before, equals, after = text.partition("=")
        if not (before and equals and after):
            raise ValueError(f"--pair takes BEFORE=AFTER, got {text!r}")
        name = f"{Path(before).name} → {Path(after).name}"
        if name in out:
            raise ValueError(f"two pairs are called {name}; rename a folder")
        out[name] = (before, after)
    return out


def first_weights(folder: str, trained: LanguageModel) -> LanguageModel:
    """A variant as it was before its first step."""
    made = json.loads((Path(folder) / "variant.json").read_text(encoding="utf-8"))
    model = build(made["architecture"], trained.model.config.vocab_size, made["seed"])
    return hw.load(model=model.eval(), tokenizer=trained.tokenizer)


def main() -> None:
    """Detect, compare, write JSON, fill the page."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--models", type=Path, help="the folder that recipes.tiny.variants wrote into")
    cli.add_argument("--pair", action="append", default=[], help="BEFORE=AFTER, folders of one shape, or tiny")
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--needles", type=int, default=6, help="per seed")
    cli.add_argument("--examples", type=int, default=32, help="lists per seed that query-focused heads are found on")
    cli.add_argument("--work", type=Path, default=Path("runs/universal"), help="finished detections")
    cli.add_argument("--output", type=Path, default=Path("docs/results/universal.json"))
    cli.add_argument("--page", type=Path, action="append", default=[], help="pages with places for the tables")
    cli.add_argument("--threads", type=int, default=1)
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    try:
        pairs = pairs_of(args.pair)
    except ValueError as error:
        cli.error(str(error))
    folders: dict[str, str] = {EMBEDDED: EMBEDDED}
    if args.models is not None:
        variants = {name: str(args.models / name) for name in VARIANTS if finished(args.models / name)}
        if not variants:
            cli.error(f"{args.models} holds none of the variants {', '.join(VARIANTS)}, trained to the end")
        folders |= variants
    start = [name for name in ONE_START if name in folders]
    own = {f"{a}, {b} (one start)": (folders[a], folders[b]) for a, b in combinations(start, 2)}
    own |= {f"{n}: {FIRST} → trained": (f"{folders[n]}: {FIRST}", folders[n]) for n in folders if n != EMBEDDED}
    sizes = {"seeds": args.seeds, "needles": args.needles, "examples": args.examples}
    grid = {"lengths": LENGTHS, "depths": DEPTHS, "buffer": BUFFER, "new_tokens": NEW_TOKENS, "candidates": CANDIDATES}
    config = {"needles": args.needles, "examples": args.examples, **grid, "headwater": hw.__version__}
    words = ["python -m recipes.tiny.universal", *(["--models FOLDER"] if args.models is not None else [])]
    words += [f"--pair {shlex.quote(each)}" for each in args.pair]
    found: Json = {}
    wanted = dict.fromkeys([*folders.values(), *(folder for pair in pairs.values() for folder in pair)])
    try:
        same_run(args.work / "config.json", config)
        lines = Lines(args.work / "scores.jsonl")
        for folder in wanted:
            lm = hw.load(folder, dtype="float32")
            found[folder] = detected(lm, lines, args.seeds, args.needles, args.examples)
            if folder in folders.values() and folder != EMBEDDED:
                before = first_weights(folder, lm)
                found[f"{folder}: {FIRST}"] = detected(before, lines, args.seeds, args.needles, args.examples)
            print(folder, "done", flush=True)
        result: Json = {
            "made": made_with(" ".join(words), "small models", 0, **sizes),
            "models": {name: described(found[folder]) for name, folder in folders.items()},
            "pairs": {name: compared(found[a], found[b]) for name, (a, b) in {**own, **pairs}.items()},
        }
        write_json(args.output, plain(result))
        for page in args.page:
            fill_page(page, tables(result))
    except HeadwaterError as error:
        cli.error(str(error))
    for name, text in tables(result).items():
        print(f"\n{name}\n{text}")


if __name__ == "__main__":
    main()
