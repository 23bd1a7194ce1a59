"""What routing costs: a routed step beside three plain LoRA steps, and what the forward passes keep for the way back.

    python -m benchmarks.parenting --page docs/results/parenting.md       # about 5 minutes on one idle core

*Time*: a routed step runs three losses at the same weights, adds up gradients by class, clips by class and steps once.
Beside it stand three plain steps, one per set, on the same items and the same units, each with its own backward pass,
clipping and AdamW step. A random Llama in fp32. Rounds are interleaved, the order turns in every round; ratios are of
one round. *With the cosine* is what every tenth step of a training writes down, too. Bar: 1.15.

*Bytes*: of all tensors that autograd keeps between the passes (`torch.autograd.graph.saved_tensors_hooks`), storages
once, the model's own weights left out.
"""

from __future__ import annotations

import argparse
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import random_llama
from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.losses import TrainingPrompt, answer_loss, batches
from headwater.adapt.parenting.recipe import ALL, TRAINED, Recipe, mixture, routed
from headwater.adapt.parenting.routed import Router
from headwater.adapt.parenting.units import candidate_units, unit_modules
from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.tables import fill_page, table
from headwater.model.adapter import adapted
from headwater.model.lm import LanguageModel
from headwater.model.memory import size

RESULT = Path(__file__).parent / "results" / "parenting.json"
LENGTHS = {"a": (240, 8), "r": (240, 8), "c": (440, 110)}  # tokens of a prompt, of its target
PLAIN, ROUTED, WATCHED = "three plain steps", "routed step", "routed step with the cosine"
RANK, RATE, BAR = 8, 1e-4, 1.15
Json = dict[str, Any]
Items = Mapping[str, Sequence[TrainingPrompt]]


def classes(lm: LanguageModel) -> UnitMap:
    """Units in classes of about the sizes that mining gives: 40 % E, 15 % A, 10 % R."""
    units = candidate_units(lm, rank=RANK)
    found = random.Random(0).choices("EARO", (40, 15, 10, 35), k=len(units))
    zeros, ones = [0.0] * len(units), [1.0] * lm.anatomy.num_layers
    return UnitMap(units, found, zeros, zeros, zeros, zeros, ones, ones)


def drawn(lm: LanguageModel, batch: int) -> dict[str, list[TrainingPrompt]]:
    """Random token ids, so many items of each set, a little unequal in length."""
    draw, top = random.Random(0), lm.model.config.vocab_size
    out: dict[str, list[TrainingPrompt]] = {}
    for name, (tokens, target) in LENGTHS.items():
        out[name] = []
        for _ in range(batch):
            length = tokens - draw.randrange(tokens // 8)
            ids = tuple(draw.randrange(10, top) for _ in range(length + target))
            out[name].append(TrainingPrompt(ids, length))
    return out


def plain_steps(lm: LanguageModel, items: Items) -> Callable[[], None]:
    """Three ordinary steps, one per set."""
    trained = [parameter for parameter in lm.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)

    def step() -> None:
        for prompts in items.values():
            for batch in batches(lm, prompts, len(prompts)):
                loss, tokens = answer_loss(lm, batch)
                (loss / tokens).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def routed_step(lm: LanguageModel, recipe: Recipe, router: Router, items: Items, watched: bool) -> Callable[[], None]:
    """One step as `headwater.adapt.parenting.train` takes it."""
    groups = [[each.piece.parameter for each in recipe.owned(lm, [owner])] for owner in recipe.units]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], lr=RATE, weight_decay=0.0)

    def step() -> None:
        router.clear()
        router.watch(*(("a", "r") if watched else ()))
        for loss, prompts in items.items():
            tokens = sum(prompt.targets for prompt in prompts)
            router.collect(lm.model, loss, batches(lm, prompts, len(prompts)), tokens)
        norms = router.norms()
        if watched:
            router.cosine("a", "r")
        router.clip(1.0, norms)
        for tensor in router.tensors.values():
            tensor.parameter.grad = tensor.total.to(tensor.parameter.dtype) if tensor.factors else None
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(lm: LanguageModel, units: UnitMap, items: Items, rounds: int) -> Json:
    """Seconds and ratios to the three plain steps of the same round, of every contestant."""
    recipe = routed(units, 1, 0.8, 0.0)
    taken: dict[str, list[float]] = {PLAIN: [], ROUTED: [], WATCHED: []}

    def once(name: str) -> float:
        """Seconds; the hooks of routing are on only where routing is measured."""
        if name == PLAIN:
            return _seconds(lm, steps[PLAIN])
        with routers[name]:
            return _seconds(lm, steps[name])

    with adapted(lm, unit_modules(units.of(*TRAINED)), RANK, 2.0 * RANK, 0, values=True) as tuned:
        routers = {name: Router(recipe.owned(tuned, TRAINED), recipe.weights) for name in (ROUTED, WATCHED)}
        steps = {name: routed_step(tuned, recipe, router, items, name == WATCHED) for name, router in routers.items()}
        steps[PLAIN] = plain_steps(tuned, items)
        names = list(taken)
        for name in names:
            once(name)  # warm-up
        for place in range(rounds):
            for name in names[place % 3 :] + names[: place % 3]:
                taken[name].append(once(name))
    ratios = {
        name: [own / plain for own, plain in zip(times, taken[PLAIN], strict=True)] for name, times in taken.items()
    }
    return {
        name: {"seconds": statistics.median(times), "ratio": statistics.median(ratios[name]), "ratios": ratios[name]}
        for name, times in taken.items()
    }


def _seconds(lm: LanguageModel, step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    if lm.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def kept(lm: LanguageModel, items: Items) -> Json:
    """Bytes that autograd keeps: of the largest graph of a loss, and of the graphs of all losses at once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in lm.model.parameters()}
    alone = []
    everything: dict[int, int] = {}
    graphs = []
    for prompts in items.values():
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            (batch,) = batches(lm, prompts, len(prompts))
            graphs.append(answer_loss(lm, batch)[0])  # what a graph keeps stays where it is while it lives
        alone.append(sum(storages.values()))
        everything |= storages
    return {"largest": max(alone), "all": sum(everything.values())}


def counted(lm: LanguageModel, units: UnitMap, items: Items) -> Json:
    """Bytes kept with adapters on the trained units and on all units, and those of the accumulators."""
    out: Json = {}
    recipes = {
        "classes E, A and R": routed(units, 1, 0.8, 0.0),
        "all units": mixture(units.units, 1, tuple(LENGTHS), True),
    }
    for name, recipe in recipes.items():
        with adapted(lm, unit_modules(recipe.trained), RANK, 2.0 * RANK, 0, values=True) as tuned:
            owned = recipe.owned(tuned, [ALL] if ALL in recipe.units else TRAINED)
            numbers = sum(each.piece.parameter.numel() for each in owned)
            out[name] = {**kept(tuned, items), "accumulator": 4 * numbers, "parameters": numbers}
    return out


def tables(report: Json) -> dict[str, str]:
    """The page's tables: parenting_time, parenting_bytes."""
    made = report["made"]
    times = [
        [name, f"{row['seconds']:.3f}", f"{row['ratio']:.3f} [{min(row['ratios']):.3f}, {max(row['ratios']):.3f}]"]
        for name, row in report["time"].items()
    ]
    bytes_kept = [
        [name, f"{row['parameters']:,}", size(row["largest"]), size(row["all"]), size(row["accumulator"])]
        for name, row in report["bytes"].items()
    ]
    lengths = ", ".join(f"{name} {tokens} + {target}" for name, (tokens, target) in LENGTHS.items())
    machine = made["machine"]
    facts = (
        f"{made['model']}, {made['device']}, {made['batch']} items of each set (tokens of prompt and target: {lengths})"
    )
    header = ["adapters on", "parameters", "largest graph (routed)", "all three at once (one sum)", "accumulator, fp32"]
    return {
        "parenting_time": f"{facts}, {made['rounds']} rounds, {machine['threads']} threads on {machine['cores']} "
        f"cores, torch {made['versions']['torch']}. Bar: {BAR}.\n\n"
        + table(["what", "median s", "ratio of a round, median [least, most]"], times),
        "parenting_bytes": f"{facts}.\n\n" + table(header, bytes_kept),
    }


def main() -> None:
    """Run the benchmark, write the JSON, fill the page."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--size", default="8x8", choices=("8x8", "100M", "300M"))
    cli.add_argument("--batch", type=int, default=8)
    cli.add_argument("--rounds", type=int, default=9)
    cli.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--output", type=Path, default=RESULT)
    cli.add_argument("--page", type=Path, nargs="*", default=[], help="markdown pages with places for the tables")
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("batch", "rounds", "device")}
    command = shlex.join(["python", "-m", "benchmarks.parenting", *sys.argv[1:]])
    report: Json = {"made": made_with(command, f"random Llama, {args.size}", 0, **settings)}
    lm = random_llama(size=args.size)
    lm.model.to(args.device)
    units, items = classes(lm), drawn(lm, args.batch)
    report["time"] = timed(lm, units, items, args.rounds)
    print({name: round(row["ratio"], 3) for name, row in report["time"].items()})
    report["bytes"] = counted(lm, units, items)
    print({name: size(row["largest"]) for name, row in report["bytes"].items()})
    print(f"wrote {write_json(args.output, report)}")
    for page in args.page:
        print(f"wrote {fill_page(page, tables(report))}")


if __name__ == "__main__":
    main()
