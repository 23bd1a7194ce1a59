"""Train the embedded model in legs: reading, remembering without forgetting how to read, settling both, new wordings.

python -m recipes.tiny.train --data FOLDER --output READ [--steps 3200] [--threads 2] [--resume]
python -m recipes.tiny.train --data FOLDER --output KNOW --leg remember --start READ
python -m recipes.tiny.train --data FOLDER --output BOTH --leg settle --start KNOW
python -m recipes.tiny.train --data FOLDER --output DONE --leg reword --start BOTH

The first leg learns to copy, then to complete statements, then to read and quote. The second one learns the facts of
the known countries, also beside documents that do not hold them; the third one tells apart what is known and what is
read, in longer lists too; the fourth one goes on with that in blurred wordings, where only key words tell what is
asked. The schedule is a function of the step and of --steps, and all data are drawn from the seed, so a run that is
stopped and resumed with the same --steps sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from recipes.tiny import measure
from recipes.tiny.invent import Inventor
from recipes.tiny.model import TRAINING_ATTENTION, Batch, Shape, Trainer, build, collate, periodic
from recipes.tiny.prompts import Prompts
from recipes.tiny.text import SPECIAL, build_tokenizer, data_folder, novel_words

COPYING_STEPS = 150  # the first so many only copy
STATING = 0.1  # until this share of the remaining steps most packs are plain statements to complete
MOST_DOCUMENTS = ((0.2, 3), (0.45, 6), (0.75, 12), (1.1, 20))  # until this share of them: at most so many
TOKENS = 2200  # per step, about
TAIL = {"state": 16, "quote": 60, "read": 25}  # tokens of a tail, about
NEVER_COPIED = (7, 13, 21, 29, 37, 60, 80)  # block lengths kept for measuring
LONGEST_BLOCK = 96
RESUME = "resume.safetensors"
# Shares of the second leg's steps; "known" are documents that agree with memory.
REMEMBER = {"copy": 0.09, "closed": 0.23, "noise": 0.20, "known": 0.04, "conflict": 0.12, "read": 0.32}
FOLLOW = 0.45
# Shares of the third leg's steps.
SETTLE = {"copy": 0.10, "closed": 0.12, "noise": 0.16, "known": 0.06, "conflict": 0.14, "read": 0.42}
LONG = 0.2  # share of its reading steps with more than 20 documents
LIKE_REAL = {"settle": 0.5, "reword": 0.5}  # share of a leg's invented countries whose names are made of known ones
BLURRED = {"reword": 0.4}  # share of a leg's questions with idle words in them
EARLY = 0.4  # share of the fourth leg's lists whose first documents are asked about


def copying(draw: random.Random, vocabulary: int) -> Batch:
    """Rows that repeat a random block of random length to the end: only content tells what comes next.

    Most blocks draw on so few tokens that one token does not tell what follows, two or three do.
    """
    width = draw.choice((64, 96, 128, 192))
    generator = torch.Generator().manual_seed(draw.getrandbits(40))
    lengths = [n for n in range(4, LONGEST_BLOCK + 1) if n not in NEVER_COPIED and n <= width // 2]
    blocks = []
    for _ in range(TOKENS // width):
        length = draw.choice(lengths)
        different = vocabulary if draw.random() < 0.4 else draw.randint(max(3, length // 4), length + 2)
        alphabet = torch.randint(len(SPECIAL), vocabulary, (different,), generator=generator)
        blocks.append(alphabet[torch.randint(different, (length,), generator=generator)])
    return periodic(blocks, width)


def reading_leg(draw: random.Random, prompts: Prompts, step: int, steps: int, vocabulary: int) -> tuple[str, Batch]:
    """What a step of the first leg learns from."""
    kind = draw.random()
    if step < COPYING_STEPS or kind < 0.1:
        return "copy", copying(draw, vocabulary)
    if kind < 0.15:
        return "closed", collate([prompts.closed_book(draw, 12) for _ in range(TOKENS // 300)])
    share = (step - COPYING_STEPS) / (steps - COPYING_STEPS)
    most = next(count for until, count in MOST_DOCUMENTS if share < until)
    count = draw.randint(1, most)
    task = draw.choices(("state", "quote", "read"), (8, 2, 2) if share < STATING else (1, 1, 8))[0]
    if task == "state":
        count = draw.randint(2, 8)
    edited = 0.05 if draw.random() < 0.15 else None
    tails = min(12, 2 * count + 2)
    verbatim = max(0.1, 0.9 - 3 * share)
    packed = [prompts.documents(draw, count, tails, task, edited, verbatim) for _ in range(_packs(count, tails, task))]
    return task if edited is None else "known", collate(packed)


def remembering_leg(draw: random.Random, prompts: Prompts, step: int, steps: int, vocabulary: int) -> tuple[str, Batch]:
    """What a step of the second leg learns from: memory alone and beside documents, and what the first leg ended with.

    Where a document contradicts memory, either answer is learned (`FOLLOW` of them the document's), so that the two
    compete; only in the second half, when there is something to remember. A model that never saw such cases follows
    every document.
    """
    kind = draw.choices(tuple(REMEMBER), tuple(REMEMBER.values()))[0]
    if kind == "conflict" and step < steps // 2:
        kind = "closed"
    return _remembering(draw, prompts, kind, vocabulary, draw.randint(1, 20))


def settling_leg(draw: random.Random, prompts: Prompts, step: int, steps: int, vocabulary: int) -> tuple[str, Batch]:
    """What a step of the third leg learns from: as the second one, with more and longer reading.

    Half of the invented countries have names made of known ones: whether something is remembered about a name has to be
    known for that name, or documents about countries never heard of are answered from memory too.
    """
    kind = draw.choices(tuple(SETTLE), tuple(SETTLE.values()))[0]
    count = draw.randint(20, 48) if draw.random() < LONG else draw.randint(1, 20)
    return _remembering(draw, prompts, kind, vocabulary, count if kind == "read" else min(count, 20))


def rewording_leg(draw: random.Random, prompts: Prompts, step: int, steps: int, vocabulary: int) -> tuple[str, Batch]:
    """What a step of the fourth leg learns from: as the third one, with the first documents of lists asked about."""
    kind = draw.choices(tuple(SETTLE), tuple(SETTLE.values()))[0]
    count = draw.randint(20, 48) if draw.random() < LONG else draw.randint(1, 20)
    return _remembering(draw, prompts, kind, vocabulary, count if kind == "read" else min(count, 20), EARLY)


def _remembering(
    draw: random.Random, prompts: Prompts, kind: str, vocabulary: int, documents: int, early: float = 0.0
) -> tuple[str, Batch]:
    """A step of one kind; `documents` is the size of a list that is read, `early` as for `Prompts.documents`."""
    if kind == "copy":
        return kind, copying(draw, vocabulary)
    if kind == "closed":
        return kind, collate([prompts.closed_book(draw, 1) for _ in range(TOKENS // 22)])
    if kind == "noise":
        count = draw.randint(1, 6)
        return kind, collate([prompts.noise(draw, count, 12) for _ in range(_packs(count, 12, "read"))])
    if kind == "conflict":
        count = draw.randint(1, 3)
        return kind, collate([prompts.conflict(draw, count, FOLLOW) for _ in range(_packs(count, 4 * count, "read"))])
    task = draw.choices(("state", "quote", "read"), (1, 1, 8))[0]
    tails = min(12, 2 * documents + 2)
    edited = 0.0 if kind == "known" else None
    packed = [
        prompts.documents(draw, documents, tails, task, edited, early=early)
        for _ in range(_packs(documents, tails, task))
    ]
    return kind if kind == "known" else task, collate(packed)


LEGS = {"read": reading_leg, "remember": remembering_leg, "settle": settling_leg, "reword": rewording_leg}
STEPS = {"read": 3200, "remember": 4200, "settle": 1600, "reword": 1400}
RATES = {"read": 1e-3, "remember": 7e-4, "settle": 4e-4, "reword": 4e-4}
HELD = {"read": 0.0, "remember": 0.5, "settle": 0.3, "reword": 0.2}  # share of the steps before the rate begins to fall


def _packs(documents: int, tails: int, task: str) -> int:
    """How many packs of this size make a step."""
    return max(2 if documents <= 20 else 1, round(TOKENS / (documents * 32 + 30 + tails * TAIL[task])))


def factor(step: int, steps: int, held: float = 0.0) -> float:
    """Learning rate over its peak: 100 steps of warm-up, then linear decay to nothing over the last 1 - `held`."""
    return min(1.0, (step + 1) / 100) * min(1.0, (1 - step / steps) / (1 - held))


def save(folder: Path, trainer: Trainer, tokenizer: Any, step: int) -> None:
    """An ordinary checkpoint, and beside it what resuming needs."""
    trainer.model.set_attn_implementation("sdpa")
    trainer.model.save_pretrained(folder)
    trainer.model.set_attn_implementation(TRAINING_ATTENTION)
    tokenizer.save_pretrained(folder)
    save_file({"step": torch.tensor(step), **trainer.state()}, folder / "resume.tmp")
    (folder / "resume.tmp").replace(folder / RESUME)


def train(args: argparse.Namespace, data: Path) -> None:
    """Run the schedule, printing losses and measuring as it goes."""
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    words = args.output / "words.txt"
    if args.start:  # its token ids are those of its weights
        for path in (args.start / "words.txt", *args.start.glob("*token*.json"), *args.start.glob("*.jinja")):
            shutil.copyfile(path, args.output / path.name)
    if (args.output / "tokenizer.json").exists() and words.exists():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(args.output)
    else:
        tokenizer = build_tokenizer(data)
        tokenizer.save_pretrained(args.output)
        words.write_text("\n".join(novel_words(data)), encoding="utf-8")
    inventor = Inventor(words.read_text(encoding="utf-8").split("\n"))
    prompts = Prompts(tokenizer, inventor, LIKE_REAL.get(args.leg, 0.0), BLURRED.get(args.leg, 0.0))
    shape = Shape()
    model = build(shape, len(tokenizer), args.seed)
    if args.start:
        model.load_state_dict(load_file(args.start / "model.safetensors"))
    trainer = Trainer(model, args.rate)
    start = 0
    if args.resume and (args.output / RESUME).exists():
        state = load_file(args.output / RESUME)
        start = int(state.pop("step"))
        trainer.restore(state)
    print(json.dumps({"shape": asdict(shape), "parameters": sum(m.numel() for m in trainer.parameters)}), flush=True)
    began, tokens = time.time(), 0
    mean: dict[str, float] = {}
    for step in range(start, args.steps):
        draw = random.Random(f"headwater/tiny/{args.seed}/{step}" + ("" if args.leg == "read" else f"/{args.leg}"))
        kind, data_batch = LEGS[args.leg](draw, prompts, step, args.steps, len(tokenizer))
        loss = trainer.step(data_batch, factor(step, args.steps, HELD[args.leg]))
        mean[kind] = 0.97 * mean.get(kind, loss) + 0.03 * loss
        tokens += data_batch.ids.numel()
        if (step + 1) % args.report == 0 or step + 1 == args.steps:
            losses = {name: round(value, 3) for name, value in sorted(mean.items())}
            seconds = time.time() - began
            row = {"step": step + 1, "seconds": round(seconds), "tokens": tokens, "loss": losses}
            row |= measure.quick(trainer.model, prompts, deep=(step + 1) % (5 * args.report) == 0)
            print(json.dumps(row), flush=True)
            with (args.output / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            save(args.output, trainer, tokenizer, step + 1)


def main() -> None:
    """Parse the command line and train."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", help="folder of the raw data sets (default: HEADWATER_DATA)")
    cli.add_argument("--output", type=Path, required=True)
    cli.add_argument("--leg", choices=LEGS, default="read")
    cli.add_argument("--start", type=Path, help="folder of the weights to begin with (default: the planted start)")
    cli.add_argument("--steps", type=int, help=f"default: {STEPS}")
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--rate", type=float, help=f"peak learning rate; default: {RATES}")
    cli.add_argument("--report", type=int, default=200)
    cli.add_argument("--save-every", type=int, default=250)
    cli.add_argument("--resume", action="store_true")
    args = cli.parse_args()
    if args.leg != "read" and args.start is None:
        cli.error(f"--leg {args.leg} goes on from weights: give --start FOLDER")
    args.steps = STEPS[args.leg] if args.steps is None else args.steps
    args.rate = RATES[args.leg] if args.rate is None else args.rate
    train(args, data_folder(cli, args.data))


if __name__ == "__main__":
    main()
