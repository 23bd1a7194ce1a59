"""Train the small variants: another architecture each, or another strength of memory; 20 minutes on two cores at most.

python -m recipes.tiny.variants --data FOLDER --output FOLDER --variant gpt2 [--minutes 18] [--threads 2] [--resume]

All learn the same: to copy, to complete statements, to read, and the facts of forty countries, in plain rows
(`recipes.tiny.rows`). `llama-weak` and `llama-strong` differ from `llama-even` only in how often a document that
contradicts memory is believed. GPT-2 and BLOOM have the same time, not the same number of steps: --minutes sets that
number for two idle cores, so that a run does not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from headwater.atomic import write_text
from headwater.data import world
from headwater.errors import HeadwaterError
from headwater.evaluate.files import same_run
from headwater.prompt.prompt import prompt_template
from recipes.tiny import train
from recipes.tiny.invent import Inventor
from recipes.tiny.measure import copying
from recipes.tiny.prompts import Facts, Pack, Prompts
from recipes.tiny.rows import Rows, RowTrainer, loss_and_hits, rows
from recipes.tiny.small import CONTEXT, build
from recipes.tiny.text import build_tokenizer, data_folder, known_facts, novel_words

VOCABULARY = 1024
NOVEL_CHARACTERS = 200_000  # that its tokens are made of, beside the prompts
COUNTRIES = 40  # that are remembered
RATE = 2e-3
TOKENS = 2800  # per step, padding included, about
COPYING = 0.04  # this share of the steps only copies
STATING = 0.12  # until here most documents come with statements to complete
REMEMBERING = 0.3  # from here on facts are learned
COMPETING = 0.5  # from here on documents contradict some of them
MOST_DOCUMENTS = ((0.2, 3), (0.6, 6), (1.1, 10))  # until this share of the steps: at most so many
# Shares of the steps; before REMEMBERING the first four are read, before COMPETING conflicts are closed book.
SHARES = {"closed": 0.26, "noise": 0.12, "known": 0.05, "conflict": 0.12, "copy": 0.07, "read": 0.38}
QUESTIONS = {"state": 8, "quote": 2, "read": 5}  # behind a list of documents, at most
MOST_QUESTIONS = 4  # about remembered facts in one row
REPORT = 500
SAVE = 500


@dataclass(frozen=True)
class Variant:
    """What sets a variant apart.

    Attributes:
        architecture: ``llama``, ``gpt2`` or ``bloom``.
        follow: share of the documents that contradict memory whose answer is learned; in the others memory's is.
        steps_per_minute: on two idle cores, about.
    """

    architecture: str
    follow: float
    steps_per_minute: int


VARIANTS = {
    "gpt2": Variant("gpt2", 0.5, 240),
    "bloom": Variant("bloom", 0.5, 110),
    "llama-weak": Variant("llama", 0.9, 200),
    "llama-even": Variant("llama", 0.5, 200),
    "llama-strong": Variant("llama", 0.1, 200),
}


def remembered() -> dict[str, Facts]:
    """The facts that the variants learn by heart: those of `COUNTRIES` known countries, fixed by a seed."""
    facts = known_facts()
    chosen = random.Random("headwater/variants").sample(sorted(facts), COUNTRIES)
    return {country: facts[country] for country in sorted(chosen)}


def kind_of(draw: random.Random, share: float) -> str:
    """What a step learns, `share` of the steps being done."""
    if share < COPYING:
        return "copy"
    kind = draw.choices(tuple(SHARES), tuple(SHARES.values()))[0]
    if kind in ("closed", "noise", "known", "conflict") and share < REMEMBERING:
        kind = "read"
    if kind == "conflict" and share < COMPETING:
        kind = "closed"
    if kind == "read":
        kind = draw.choices(("state", "quote", "read"), (8, 1, 3) if share < STATING else (1, 1, 8))[0]
    return kind


def step_rows(draw: random.Random, prompts: Prompts, share: float, vocabulary: int, follow: float) -> tuple[str, Rows]:
    """What a step learns from; `follow` changes nothing but the answers where a document contradicts memory."""
    kind = kind_of(draw, share)
    if kind == "copy":
        batch = train.copying(draw, vocabulary)
        return kind, Rows(batch.ids, batch.labels)
    most = next(count for until, count in MOST_DOCUMENTS if share < until)
    count, verbatim = draw.randint(1, most), max(0.1, 0.9 - 3 * share)
    packs: list[Pack] = []
    while len(packs) * max(map(len, packs), default=0) < TOKENS:
        if kind == "closed":
            pack = prompts.closed_book(draw, 1)
        elif kind == "noise":
            pack = prompts.noise(draw, draw.randint(1, 5), MOST_QUESTIONS + 2)  # it asks one thing three times
        elif kind == "conflict":
            pack = prompts.conflict(draw, draw.randint(1, 3), follow)
        elif kind == "known":
            pack = prompts.documents(draw, min(count, 6), MOST_QUESTIONS, "read", 0.0)
        else:
            pack = prompts.documents(draw, count, min(2 * count + 1, QUESTIONS[kind]), kind, None, verbatim)
        if fit(pack):
            packs.append(pack)
    return kind, rows(packs)


def fit(pack: Pack) -> bool:
    """Drop questions that an earlier one of the row answers, and the last ones of too long a row; is any left?"""
    seen: set[tuple[int, ...]] = set()
    questions, room = list(zip(pack.tails, pack.answers, strict=True)), CONTEXT - len(pack.prefix)
    pack.tails, pack.answers = [], []
    for tail, learned in questions:
        answer = tuple(tail[-learned:])
        if answer not in seen and len(tail) <= room:
            pack.tails.append(tail)
            pack.answers.append(learned)
            seen.add(answer)
            room -= len(tail)
    return bool(pack.tails)


@torch.no_grad()
def answered(model: Any, prompts: list[list[int]], answers: list[list[int]]) -> float:
    """Share of answers whose every token is the top token, EOS included (what greedy decoding would give)."""
    packs = [Pack(ids, [answer], [len(answer)]) for ids, answer in zip(prompts, answers, strict=True)]
    right = 0
    for start in range(0, len(packs), 16):
        part = packs[start : start + 16]
        _, hits, where = loss_and_hits(model, rows(part))
        right += len(part) - len(set(where[~hits].tolist()))
    return round(right / len(packs), 3)


def quick(model: Any, prompts: Prompts, n: int = 48) -> dict[str, Any]:
    """What is measured while a variant trains: development countries, and the remembered facts."""
    template = prompt_template(prompts.tokenizer, instruction="answer")

    def said(answer: str) -> list[int]:
        return [*prompts.encode(" " + answer), prompts.eos]

    def shown(examples: list[world.ReadingExample]) -> list[list[int]]:
        return [[*template.prefix(e.documents).ids, *template.tail(e.question.text)] for e in examples]

    out: dict[str, Any] = {"read": {}}
    for count in (1, 5, 10):
        examples = world.reading_examples("development", n, count, seed=5)
        asked = [said(e.question.answers[0]) for e in examples]
        out["read"][count] = answered(model, shown(examples), asked)
    edited = [e for e in world.conflict_examples("known", 12 * n, seed=5) if e.question.country in prompts.known][:n]
    edited = [e for e in edited if e.question.relation in prompts.known[e.question.country]]
    true = [said(e.question.answers[0]) for e in edited]
    out["closed"] = answered(model, [template.alone(e.question.text) for e in edited], true)
    out["conflict"] = {
        "document": answered(model, shown(edited), [said(e.stated[0]) for e in edited]),
        "memory": answered(model, shown(edited), true),
    }
    out["copy"] = {length: round(share, 3) for length, share in copying(model, (7, 37, 80)).items()}
    return out


def prepare(data: Path, folder: Path) -> Prompts:
    """Tokenizer and words of the variants, made once per folder."""
    from transformers import AutoTokenizer

    words = folder / "words.txt"
    if not words.exists():
        folder.mkdir(parents=True, exist_ok=True)
        build_tokenizer(data, VOCABULARY, NOVEL_CHARACTERS, CONTEXT).save_pretrained(folder)
        words.write_text("\n".join(novel_words(data)), encoding="utf-8")
    prompts = Prompts(AutoTokenizer.from_pretrained(folder), Inventor(words.read_text(encoding="utf-8").split("\n")))
    prompts.known = remembered()
    return prompts


def save(folder: Path, trainer: RowTrainer, tokenizer: Any, step: int) -> None:
    """An ordinary checkpoint, and beside it what resuming needs."""
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file({"step": torch.tensor(step), **trainer.state()}, folder / "resume.tmp")
    (folder / "resume.tmp").replace(folder / train.RESUME)


def read_log(path: Path) -> list[dict[str, Any]]:
    """What a run wrote about itself, step by step."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def fit_variant(name: str, prompts: Prompts, folder: Path, steps: int, seed: int = 0, resume: bool = False) -> None:
    """Run a variant's schedule, with losses and measures into `log.jsonl`."""
    variant, size = VARIANTS[name], len(prompts.tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = RowTrainer(build(variant.architecture, size, seed), RATE)
    parameters = sum(weight.numel() for weight in trainer.parameters)
    config = {"variant": name, **asdict(variant), "steps": steps, "seed": seed, "parameters": parameters}
    log = folder / "log.jsonl"
    if not resume:
        for path in (folder / "variant.json", log, folder / train.RESUME):
            path.unlink(missing_ok=True)
    same_run(folder / "variant.json", {**config, "remembered": list(prompts.known)})
    first, lines = 0, []
    if (folder / train.RESUME).exists():
        state = load_file(folder / train.RESUME)
        first = int(state.pop("step"))
        trainer.restore(state)
        lines = [line for line in read_log(log) if line["step"] <= first]
    began = time.time() - (lines[-1]["seconds"] if lines else 0)
    mean: dict[str, float] = {}
    for step in range(first, steps):
        draw = random.Random(f"headwater/variants/{seed}/{step}")
        kind, batch = step_rows(draw, prompts, step / steps, size, variant.follow)
        loss = trainer.step(batch, train.factor(step, steps))
        mean[kind] = loss if kind not in mean else 0.97 * mean[kind] + 0.03 * loss
        last = step + 1 == steps
        if (step + 1) % REPORT == 0 or last:
            row: dict[str, Any] = {"variant": name, "step": step + 1, "seconds": round(time.time() - began)}
            row["loss"] = {kind: round(value, 3) for kind, value in sorted(mean.items())}
            row |= quick(trainer.model, prompts)
            print(json.dumps(row), flush=True)
            lines.append(row)
            write_text(log, "".join(json.dumps(line) + "\n" for line in lines))
        if (step + 1) % SAVE == 0 or last:
            save(folder, trainer, prompts.tokenizer, step + 1)


def main() -> None:
    """Parse the command line and train."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", help="folder of the raw data sets (default: HEADWATER_DATA)")
    cli.add_argument("--output", type=Path, required=True, help="a folder; each variant gets one of its name inside")
    cli.add_argument("--variant", choices=(*VARIANTS, "all"), required=True)
    cli.add_argument("--minutes", type=float, default=18, help="of two idle cores, per variant; default 18")
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--resume", action="store_true", help="go on where a run with the same arguments was stopped")
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()  # rows are padded on the right, where a causal model needs no mask
    prompts = prepare(data_folder(cli, args.data), args.output)
    for name in VARIANTS if args.variant == "all" else (args.variant,):
        steps = round(args.minutes * VARIANTS[name].steps_per_minute)
        try:
            fit_variant(name, prompts, args.output / name, steps, args.seed, args.resume)
        except HeadwaterError as error:
            cli.error(str(error))


if __name__ == "__main__":
    main()
