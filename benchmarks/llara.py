"""What LLaRA's joint pass and its projection at the slots save: time beside two passes, memory beside all logits.

    python -m benchmarks.llara --page docs/results/llara.md       # about 15 minutes on one idle core

*Time*: forward and backward of the set losses of both tails behind the same texts, on a random Llama in fp32, all
weights with gradients, one row per text; rows have 512 tokens with both tails. *Two passes* read text and one tail at a
time (`joint="separate"`). Rounds are interleaved; the states have to agree, and the largest difference is reported.

*Memory*: the highest resident size of a process over what it had before the step, each variant in a process of its own
(on a GPU: the highest allocation). *All logits* projects every state; ours projects those at the slots, and the text's
own in blocks that are computed again on the way back. A small model with a vocabulary of 128,256.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import headwater as hw
from benchmarks.models import random_llama
from headwater.adapt.llara_loss import set_loss
from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.tables import fill_page, table
from headwater.instrument.joint import joint_states
from headwater.instrument.vocabulary import next_token_loss, state_logits
from headwater.model.lm import LanguageModel
from headwater.model.memory import size

RESULT = Path(__file__).parent / "results" / "llara.json"
VOCABULARY = 128_256
TAIL, TARGETS = 6, 150  # tokens of a tail, of a set
PASSES = {"two passes": "separate", "joint, 4D mask": "mask4d", "joint, branches": "branch", "joint, flex": "flex"}
VARIANTS = {  # with the text's own loss, with all logits
    "sets alone, all logits": (False, True),
    "sets alone, logits at the slots": (False, False),
    "sets and text, all logits": (True, True),
    "sets and text, slots and blocks": (True, False),
}
Json = dict[str, Any]


def drawn(vocabulary: int, rows: int, tokens: int) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Texts that fill rows of so many tokens with two tails behind them; the tails; a set for each text."""
    draw = torch.Generator().manual_seed(0)

    def ids(*shape: int) -> list[list[int]]:
        found: list[list[int]] = torch.randint(10, vocabulary, shape, generator=draw).tolist()
        return found

    return ids(rows, tokens - 2 * TAIL), ids(2, TAIL), [sorted(set(own)) for own in ids(rows, TARGETS)]


def roles(logits: torch.Tensor, sets: list[list[int]]) -> torch.Tensor:
    """Loss of both tails' sets from logits `[examples, 2, V]`."""
    return torch.stack([set_loss(logits[:, role], sets).mean() for role in range(2)]).sum()


def timed(lm: LanguageModel, names: list[str], rows: int, tokens: int, rounds: int) -> Json:
    """Seconds of forward and backward, interleaved, and how far the slot states are from those of two passes."""
    texts, tails, sets = drawn(lm.model.config.vocab_size, rows, tokens)

    def states(joint: str) -> torch.Tensor:
        return joint_states(lm, texts, tails, 1, joint).slots

    def step(joint: str) -> None:
        lm.model.zero_grad()
        roles(state_logits(lm, states(joint)[:, :, 0]), sets).backward()
        if lm.device.type == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():
        want = states("separate")
        apart = {name: float((states(PASSES[name]) - want).abs().max()) for name in names}
    for name in names:
        step(PASSES[name])  # warm-up
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            start = time.perf_counter()
            step(PASSES[name])
            taken[name].append(time.perf_counter() - start)
    first = taken["two passes"]
    return {
        name: {
            "seconds": statistics.median(times),
            "ratio": statistics.median(own / two for own, two in zip(times, first, strict=True)),
            "ratios": [own / two for own, two in zip(times, first, strict=True)],
            "difference": apart[name],
        }
        for name, times in taken.items()
    }


def small(device: str) -> LanguageModel:
    """A small random Llama with a large vocabulary; its tokenizer is not used."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, **sizes))
    return hw.load(model=model, tokenizer=random_llama(size="8x8").tokenizer, device=device)


def loss_of(lm: LanguageModel, rows: int, tokens: int, with_text: bool, all_logits: bool) -> torch.Tensor:
    """The losses of both sets, and of the text itself where it is asked for."""
    texts, tails, sets = drawn(VOCABULARY, rows, tokens)
    states = joint_states(lm, texts, tails, 1, keep_text=with_text or all_logits)
    slots = states.slots[:, :, 0]
    if states.text is None:
        return roles(state_logits(lm, slots), sets)
    if not all_logits:
        own = next_token_loss(lm, states.text, states.said) / len(states.said)
        return roles(state_logits(lm, slots), sets) + own
    logits = state_logits(lm, torch.cat([states.text, slots.flatten(0, 1)]))  # of every state
    loss = roles(logits[len(states.said) :].unflatten(0, (rows, 2)), sets)
    return loss + torch.nn.functional.cross_entropy(logits[: len(states.said)], states.said) if with_text else loss


def peak(name: str, rows: int, tokens: int, device: str) -> Json:
    """Loss and highest memory of one step, in this process."""
    lm = small(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark begins anew
        before = _resident("VmRSS")
    loss = loss_of(lm, rows, tokens, *VARIANTS[name])
    loss.backward()
    after = torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")
    return {"loss": float(loss.detach()), "bytes": after - before}


def _resident(field: str) -> int:
    """Memory of this process, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def tables(report: Json) -> dict[str, str]:
    """The page's tables: llara_time, llara_memory."""
    made = report["made"]
    times = [
        [name, f"{row['seconds']:.2f}", f"{row['ratio']:.3f}", f"{row['difference']:.1e}"]
        for name, row in report["time"].items()
    ]
    memory = [[name, size(row["bytes"]), f"{row['loss']:.4f}"] for name, row in report["memory"].items()]
    facts = f"{made['rows']} rows of {made['tokens']} tokens, {made['device']}"
    return {
        "llara_time": f"{facts}, {made['model']}, {made['rounds']} rounds.\n\n"
        + table(["forward and backward", "seconds", "of two passes", "largest difference of a state"], times),
        "llara_memory": f"{facts}, vocabulary {VOCABULARY:,}.\n\n"
        + table(["one step", "highest memory", "loss"], memory),
    }


def main() -> None:
    """Run the benchmark, write the JSON, fill the page."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--size", default="100M", choices=("8x8", "100M", "300M"))
    cli.add_argument("--rows", type=int, default=4)
    cli.add_argument("--tokens", type=int, default=512)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--flex", action="store_true", help="flex attention, too (compiles first)")
    cli.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument(
        "--measure", choices=VARIANTS, help="one step of one variant (what the benchmark calls itself with)"
    )
    cli.add_argument("--output", type=Path, default=RESULT)
    cli.add_argument("--page", type=Path, nargs="*", default=[], help="markdown pages with places for the tables")
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(peak(args.measure, args.rows, args.tokens, args.device)))
        return
    settings = {name: getattr(args, name) for name in ("rows", "tokens", "rounds", "device")}
    command = shlex.join(["python", "-m", "benchmarks.llara", *sys.argv[1:]])
    report: Json = {"made": made_with(command, f"random Llama, {args.size}", 0, **settings)}
    lm = random_llama(size=args.size)
    lm.model.to(args.device)
    names = [name for name in PASSES if name != "joint, flex" or args.flex]
    report["time"] = timed(lm, names, args.rows, args.tokens, args.rounds)
    print({name: round(row["ratio"], 3) for name, row in report["time"].items()})
    del lm
    report["memory"] = {}
    for name in VARIANTS:
        words = [sys.executable, "-m", "benchmarks.llara", "--measure", name, "--device", args.device]
        words += ["--rows", str(args.rows), "--tokens", str(args.tokens), "--threads", str(args.threads)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        report["memory"][name] = json.loads(done.stdout.splitlines()[-1])
        print(name, size(report["memory"][name]["bytes"]))
    print(f"wrote {write_json(args.output, report)}")
    for page in args.page:
        print(f"wrote {fill_page(page, tables(report))}")


if __name__ == "__main__":
    main()
