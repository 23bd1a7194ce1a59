"""What reading attention rows costs beside a plain prefill and beside eager attention maps.

    python -m benchmarks.capture_speed                       # about 15 minutes on two idle cores
    python -m benchmarks.capture_speed --lengths 8192      # one length; others in the file stay

A random 100 M-parameter Llama in fp32. Each round runs, one after the other: the plain prefill (base model, sdpa, no
cache, no LM head), `hw.capture` of 16 heads and 64 rows with a stop at half the layers, the same without a stop, and at
the shorter lengths transformers' own eager maps of all heads. Reported: medians with the range over the rounds, and the
ratio to the plain prefill within the round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import headwater as hw
from benchmarks.models import random_llama
from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.tables import fill_page, speed
from headwater.model.lm import LanguageModel

HEADS, ROWS = 16, 64
RESULT = Path(__file__).parent / "results" / "capture_speed.json"


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(lm: LanguageModel, length: int, repeats: int, eager: bool) -> dict[str, dict[str, float]]:
    """Interleaved rounds at one length: contestant -> median, range and ratio to the plain prefill."""
    ids = torch.randint(2, lm.model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    last = lm.anatomy.num_layers // 2 - 1
    draw = torch.randperm((last + 1) * lm.anatomy.num_heads, generator=torch.Generator().manual_seed(1)).tolist()
    spread = [divmod(place, lm.anatomy.num_heads) for place in draw]
    heads = [(last, 0), *[head for head in spread if head != (last, 0)][: HEADS - 1]]
    rows = range(-ROWS, 0)

    def plain() -> None:
        lm.model.base_model(input_ids=ids, use_cache=False)

    def captured(stop_early: bool) -> None:
        with hw.capture(lm, heads=heads, rows=rows, stop_early=stop_early) as attention:
            lm.model.base_model(input_ids=ids, use_cache=False)
        assert attention.rows.shape == (1, HEADS, ROWS, length)

    def maps() -> None:
        lm.model.set_attn_implementation("eager")
        lm.model.base_model(input_ids=ids, use_cache=False, output_attentions=True)
        lm.model.set_attn_implementation("sdpa")

    contestants: dict[str, Callable[[], None]] = {
        "plain prefill": plain,
        "capture, stop at half": lambda: captured(True),
        "capture, no stop": lambda: captured(False),
    }
    if eager:
        contestants["eager maps"] = maps
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.no_grad():
        for work in contestants.values():
            work()
        for _ in range(repeats):
            for name, work in contestants.items():
                times[name].append(seconds(work))
    report = {}
    for name, taken in times.items():
        ratios = [t / p for t, p in zip(taken, times["plain prefill"], strict=True)]
        report[name] = {
            "median_s": statistics.median(taken),
            "min_s": min(taken),
            "max_s": max(taken),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
        row = report[name]
        print(f"{length:6,} tokens  {name:24} {row['median_s']:8.3f} s  {row['ratio']:5.2f}x", flush=True)
    return report


def measured_before(path: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Lengths that the file already holds from the same settings, versions and machine; they are kept."""
    if not path.is_file():
        return {}
    old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = {**old["made"], "date": None} == {**made, "date": None}
    return dict(old["lengths"]) if same else {}


def main() -> None:
    """Run the benchmark and write the JSON."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192])
    cli.add_argument("--eager-lengths", type=int, nargs="*", default=[1024, 4096])
    cli.add_argument("--repeats", type=int, default=7)
    cli.add_argument("--threads", type=int, default=os.cpu_count())
    cli.add_argument("--output", type=Path, default=RESULT)
    cli.add_argument("--page", type=Path, nargs="*", default=[], help="markdown pages with a place for the table")
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    lm = random_llama()
    parameters = sum(p.numel() for p in lm.model.parameters())
    settings = {"parameters": parameters, "heads": HEADS, "rows": ROWS, "repeats": args.repeats, "dtype": "float32"}
    made = made_with("python -m benchmarks.capture_speed", "random Llama", 0, **settings)
    lengths = measured_before(args.output, made)
    report = {"made": made, "lengths": lengths}
    for length in args.lengths:
        lengths[str(length)] = measure(lm, length, args.repeats, length in args.eager_lengths)
        report["lengths"] = lengths = dict(sorted(lengths.items(), key=lambda item: int(item[0])))
        print(f"wrote {write_json(args.output, report)}", flush=True)
    for page in args.page:
        print(f"wrote {fill_page(page, speed(report))}")


if __name__ == "__main__":
    main()
