"""What the instrument is held to: parity per family, the price of a further query, and memory.

    python -m benchmarks.instrument --page docs/results/instrument.md     # about 15 minutes on two idle cores
    python -m benchmarks.instrument --parts queries memory                # some of it; the others in the file stay

Parity: for every supported architecture (the tiny random models of `tests/families.py`, with the features that set each
apart) the largest difference between rows and eager attention maps, between tails over a shared prefix and whole runs,
between packed tails and single ones, and between folded weights and run-time scaling. Queries and memory: a random 100
M-parameter Llama in fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import headwater as hw
from benchmarks.models import random_llama
from headwater.errors import ModelError
from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.tables import fill_page, table
from headwater.instrument.prefix import SharedPrefix
from headwater.model.lm import LanguageModel

RESULT = Path(__file__).parent / "results" / "instrument.json"
HEADS = 16
TAIL = 40
NO_ROWS = {"falcon-alibi"}  # its maps are not those of the model
NO_DOUBLE = {"gpt_oss", "jamba", "mixtral"}  # layers without a float64 kernel
Json = dict[str, Any]


def tokens(vocabulary: int, *shape: int, seed: int = 1) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(2, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).abs().max())


@contextmanager
def own_precision(wanted: bool) -> Iterator[None]:
    """Where `wanted`, softmax in the model's own dtype: eager attention takes it in float32 even in a float64 model."""
    softmax = torch.nn.functional.softmax
    own = mock.patch.object(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim=dim))
    with own if wanted else nullcontext():
        yield


@torch.no_grad()
def parity() -> Json:
    """Family -> largest differences; None where a check does not apply."""
    families, byte_tokenizer = import_module("tests.families"), import_module("tests.models").byte_tokenizer
    size = families.VOCABULARY
    ids, prefix = tokens(size, 2, 40), tokens(size, 33, seed=2).tolist()
    tails = [tokens(size, n, seed=n).tolist() for n in (9, 1, 14)]

    def load(name: str, dtype: torch.dtype, **more: Any) -> LanguageModel:
        return hw.load(model=families.family_model(name, dtype=dtype, **more), tokenizer=byte_tokenizer())

    def rows_and_maps(name: str, dtype: torch.dtype) -> tuple[float | None, LanguageModel, LanguageModel]:
        lm, eager = load(name, dtype), load(name, dtype, attn_implementation="eager")
        try:
            with hw.capture(lm, lm.anatomy.all_heads, [-1, 5, 20]) as attention:
                lm.model(input_ids=ids)
        except (ModelError, RuntimeError):
            if name not in NO_ROWS and not (dtype == torch.float64 and name in NO_DOUBLE):
                raise
            return None, lm, eager
        with own_precision(dtype == torch.float64 and name not in families.OWN_ATTENTION):
            maps = torch.stack(eager.model(input_ids=ids, output_attentions=True).attentions, 1)
        return difference(attention.rows, maps[:, :, :, [-1, 5, 20]].flatten(1, 2)), lm, eager

    report: Json = {}
    for name in sorted([*families.FAMILIES, *families.HYBRID, *families.OWN_ATTENTION]):
        before = load(name, torch.float32).model(input_ids=ids).logits
        own, lm, eager = rows_and_maps(name, torch.float32)
        exact, double, _ = rows_and_maps(name, torch.float64)
        row: Json = {"rows fp32": own, "rows fp64": exact, "tails": None, "packed": None}
        row["packed fp64"] = None if exact is None else max(map(difference, *tails_both_ways(double, prefix, tails)))
        if own is not None:
            alone, packed = tails_both_ways(lm, prefix, tails)
            whole = []
            for tail in tails:
                maps = eager.model(input_ids=torch.tensor([prefix + tail]), output_attentions=True).attentions
                whole.append(torch.stack(maps, 1)[0, :, :, 33:, :33].mean(2).flatten(0, 1))
            row["tails"] = max(map(difference, alone, whole))
            row["packed"] = max(map(difference, alone, packed))
        heads = lm.anatomy.all_heads[::3]
        coefficients = hw.HeadSet(heads, coefficients=[0.3 + 0.1 * (i % 12) for i in range(len(heads))])
        with hw.scaled(lm, coefficients):
            scaled = lm.model(input_ids=ids).logits
        row["untouched"] = bool(torch.equal(before, lm.model(input_ids=ids).logits))
        hw.fold(lm, coefficients)
        row["fold"] = difference(lm.model(input_ids=ids).logits, scaled) / max(1.0, float(scaled.abs().max()))
        report[name] = row
        print(f"{name:14} {row}", flush=True)
    return report


def tails_both_ways(
    lm: LanguageModel, prefix: list[int], tails: list[list[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Mean rows of tails over a shared prefix: one by one, and packed."""
    shared = SharedPrefix(lm, prefix, lm.anatomy.all_heads)
    return [shared.attention(tail) for tail in tails], list(shared.attentions(tails))


def spread_heads(lm: LanguageModel, layers: int) -> list[tuple[int, int]]:
    """`HEADS` random heads of the first `layers` layers, one of them in the last of these."""
    draw = torch.randperm(layers * lm.anatomy.num_heads, generator=torch.Generator().manual_seed(1)).tolist()
    spread = [divmod(place, lm.anatomy.num_heads) for place in draw]
    return [(layers - 1, 0), *[head for head in spread if head != (layers - 1, 0)][: HEADS - 1]]


def queries(length: int, repeats: int, many: int = 12) -> Json:
    """Seconds of the first query (with the prefill of the documents) and of further ones, interleaved."""
    lm = random_llama()
    ids = tokens(lm.model.config.vocab_size, length).tolist()
    tails = [tokens(lm.model.config.vocab_size, TAIL, seed=s).tolist() for s in range(many)]
    report: Json = {"tokens": length, "tail": TAIL, "many": many, "repeats": repeats}
    sets = {
        f"{HEADS} heads, half of the layers": spread_heads(lm, lm.anatomy.num_layers // 2),
        "all heads": lm.anatomy.all_heads,
    }
    for label, heads in sets.items():
        taken: dict[str, list[float]] = {"first": [], "one by one": [], "packed": []}
        for _ in range(repeats):
            start = time.perf_counter()
            shared = SharedPrefix(lm, ids, heads)
            shared.attention(tails[0])
            taken["first"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for tail in tails:
                shared.attention(tail)
            taken["one by one"].append((time.perf_counter() - start) / many)
            start = time.perf_counter()
            for _ in shared.attentions(tails):
                pass
            taken["packed"].append((time.perf_counter() - start) / many)
        rounds = {name: [t / f for t, f in zip(times, taken["first"], strict=True)] for name, times in taken.items()}
        report[label] = {
            name: {
                "median_s": statistics.median(times),
                "share": statistics.median(rounds[name]),
                "most": max(rounds[name]),
            }
            for name, times in taken.items()
        }
        print(label, report[label], flush=True)
    return report


def resident(field: str) -> int:
    """KiB of resident memory of this process, now (VmRSS) or at most (VmHWM); Linux only."""
    return int(re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def high_water(work: str, length: int) -> None:
    """Run one contestant in this (fresh) process and print what its peak adds to the process with the model loaded."""
    torch.set_num_threads(2)
    lm = random_llama()
    ids = tokens(lm.model.config.vocab_size, length).tolist()
    tail = tokens(lm.model.config.vocab_size, TAIL, seed=0).tolist()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here (and is not the parent's)
    before = resident("VmRSS")
    with torch.no_grad():
        if work == "plain prefill with cache":
            lm.model.base_model(input_ids=torch.tensor([ids + tail]), use_cache=True)
        else:
            half = work.endswith("half of the layers")
            heads = spread_heads(lm, lm.anatomy.num_layers // 2) if half else spread_heads(lm, lm.anatomy.num_layers)
            shared = SharedPrefix(lm, ids, lm.anatomy.all_heads if work.startswith("all") else heads)
            list(shared.attentions([tail, tail]))
    print(json.dumps({"peak": resident("VmHWM") - before}))


CONTESTANTS = (
    "plain prefill with cache",
    f"ranking, {HEADS} heads, half of the layers",
    f"ranking, {HEADS} heads, every layer",
    "all heads",
)


def memory(length: int, repeats: int = 3) -> Json:
    """Contestant -> MiB above the loaded model at the high-water mark of fresh processes, and ratio to the first."""
    report: Json = {"tokens": length}
    for name in CONTESTANTS:
        peaks = []
        for _ in range(repeats):
            command = [sys.executable, "-m", "benchmarks.instrument", "--high-water", name, "--length", str(length)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(json.loads(done.stdout.strip().splitlines()[-1])["peak"] / 1024)
        report[name] = {"mib": statistics.median(peaks), "least": min(peaks), "most": max(peaks)}
        report[name]["ratio"] = report[name]["mib"] / report[CONTESTANTS[0]]["mib"]
        print(name, report[name], flush=True)
    return report


def tables(report: Json) -> dict[str, str]:
    """The page's tables."""
    lines = []
    for part, result in report.items():
        made = result["made"]
        lines.append(
            f"- {part}: torch {made['versions']['torch']}, transformers {made['versions']['transformers']}, "
            f"{made['machine']['system']}, {made['machine']['threads']} threads, {made['date'][:10]}"
        )
    out = {"made": "\n".join(lines)}
    if "parity" in report:

        def number(value: float | None) -> str:
            return "-" if value is None else f"{value:.0e}"

        names = ["rows fp32", "rows fp64", "tails", "packed", "packed fp64", "fold"]
        rows = [
            [name, *(number(row[key]) for key in names), "equal" if row["untouched"] else "DIFFER"]
            for name, row in report["parity"].items()
            if name != "made"
        ]
        header = ["family", *names, "logits outside the block"]
        out["parity"] = table(header, rows)
    if "queries" in report:
        rows = [
            [label, name, f"{row['median_s']:.3f}", f"{100 * row['share']:.1f} %", f"{100 * row['most']:.1f} %"]
            for label, kinds in report["queries"].items()
            if isinstance(kinds, dict) and label != "made"
            for name, row in kinds.items()
        ]
        header = ["heads", "query", "median s", "of the first, median", "most"]
        out["queries"] = table(header, rows)
    if "memory" in report:
        rows = [
            [name, f"{row['mib']:.0f}", f"{row['least']:.0f} to {row['most']:.0f}", f"{row['ratio']:.2f}x"]
            for name, row in report["memory"].items()
            if isinstance(row, dict) and name != "made"
        ]
        out["memory"] = table(["what", "MiB above the model, median", "range", "ratio"], rows)
    return out


def main() -> None:
    """Run the parts, write the JSON, fill the page."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument(
        "--parts", nargs="+", choices=("parity", "queries", "memory"), default=["parity", "queries", "memory"]
    )
    cli.add_argument("--length", type=int, default=8192)
    cli.add_argument("--repeats", type=int, default=5)
    cli.add_argument("--threads", type=int, default=os.cpu_count())
    cli.add_argument("--output", type=Path, default=RESULT)
    cli.add_argument("--page", type=Path, help="markdown page with places for the tables")
    cli.add_argument("--high-water", choices=CONTESTANTS, help=argparse.SUPPRESS)
    args = cli.parse_args()
    if args.high_water:
        high_water(args.high_water, args.length)
        return
    torch.set_num_threads(args.threads)
    report: Json = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
    work: dict[str, Callable[[], Json]] = {
        "parity": parity,
        "queries": lambda: queries(args.length, args.repeats),
        "memory": lambda: memory(args.length),
    }
    for part in args.parts:
        report[part] = work[part]()
        report[part]["made"] = made_with("python -m benchmarks.instrument", "random Llama", 0)
        print(f"wrote {write_json(args.output, report)}", flush=True)
    if args.page:
        print(f"wrote {fill_page(args.page, tables(report))}")


if __name__ == "__main__":
    main()
