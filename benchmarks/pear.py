"""What PEAR costs: finding heads beside one forward per head, and a folded model beside the one it was made from.

    python -m benchmarks.pear --page docs/results/pear.md       # about 10 minutes on one idle core

*Finding*: 20 sequences of 25 random tokens, said twice; every head is replaced once, at the last position. *One forward
per head* is the leanest plain way: all tokens through the base model (sdpa, no cache, no language-model head), hooks at
the output projections, scores without the vocabulary. *Ours*: `headwater.instrument.replay` (one token per head and
sequence) and `layer_replay` (its rows begin at their head's layer). Models: a random Llama of 8 x 8 heads and the
embedded model, fp32. The numbers have to agree, and the largest difference is reported.

*Folding*: the embedded model, its checkpoint saved before and after `hw.fold`; names, shapes, dtypes and bytes are
compared, logits against scaling at run time, and the time of a prefill (base model, no language-model head, sdpa, no
cache) in interleaved rounds whose order alternates.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

import headwater as hw
from benchmarks.models import random_llama
from headwater.adapt.pear_check import check_fold
from headwater.data import world
from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.statistics import mean_interval
from headwater.evaluate.tables import fill_page, table
from headwater.headset import Head, HeadSet
from headwater.instrument.layer_replay import layer_replay
from headwater.instrument.replay import Replayed, replay
from headwater.instrument.token_scores import target_scores
from headwater.model.anatomy import decoder, output_projections
from headwater.model.lm import LanguageModel
from headwater.prompt import prompt_template
from headwater.prompt.copying import CopyTask

SEQUENCES, LENGTH = 20, 25
RESULT = Path(__file__).parent / "results" / "pear.json"
Json = dict[str, Any]
Mode = Literal["path", "total"]
NAIVE = "one forward per head"


class Naive:
    """One forward per head, all tokens, with the head's output at the last position replaced by its batch mean."""

    def __init__(self, lm: LanguageModel, mode: Mode) -> None:
        """Keep the model; "path" puts the clean outputs of the layers above back in."""
        self._lm, self._mode = lm, mode

    @torch.no_grad()
    def changes(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Change of the targets' centred logits, `[heads, sequences]`."""
        clean: dict[int, torch.Tensor] = {}

        def keep(layer: int, z: torch.Tensor) -> torch.Tensor:
            clean[layer] = z[:, -1].clone()
            return z

        before = self._scores(ids, targets, keep)
        return torch.stack(
            [self._without(ids, targets, clean, head) - before for head in self._lm.anatomy.all_heads],
        )

    def _without(
        self, ids: torch.Tensor, targets: torch.Tensor, clean: dict[int, torch.Tensor], head: Head
    ) -> torch.Tensor:
        size = clean[0].shape[-1] // self._lm.anatomy.num_heads
        own = slice(head[1] * size, (head[1] + 1) * size)

        def edit(layer: int, z: torch.Tensor) -> torch.Tensor:
            if layer == head[0]:
                z = z.clone()
                z[:, -1, own] = clean[layer][:, own].mean(0)
            elif layer > head[0] and self._mode == "path":
                z = z.clone()
                z[:, -1] = clean[layer]
            return z

        return self._scores(ids, targets, edit)

    def _scores(
        self, ids: torch.Tensor, targets: torch.Tensor, edit: Callable[[int, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        with edited(self._lm, edit):
            hidden = decoder(self._lm.model)(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        return target_scores(self._lm, hidden, targets)


@contextmanager
def edited(lm: LanguageModel, edit: Callable[[int, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Pass the inputs of the output projections through `edit(layer, inputs)`."""
    with ExitStack() as stack:
        for layer, projection in output_projections(lm.model).items():

            def hook(_: Any, inputs: tuple[Any, ...], layer: int = layer) -> tuple[Any, ...]:
                return (edit(layer, inputs[0]), *inputs[1:])

            stack.callback(projection.register_forward_pre_hook(hook).remove)
        yield


def finding(lm: LanguageModel, repeats: int) -> Json:
    """Interleaved rounds of every engine, in both modes."""
    drawn = CopyTask().draw(lm, SEQUENCES, LENGTH, torch.Generator().manual_seed(0))
    ids, targets = drawn[:, :-1], drawn[:, -1]
    rows = max(256, 8 * SEQUENCES)  # as SuppressionHeads has it

    def ours(mode: Mode) -> Callable[[], Replayed]:
        return lambda: replay(lm, ids, targets, mode=mode, rows=rows)

    engines: dict[Mode, dict[str, Callable[[], Any]]] = {
        "path": {"one token": ours("path"), "layer by layer": lambda: layer_replay(lm, ids, targets)},
        "total": {"one token": ours("total")},
    }
    report: Json = {"tokens": ids.shape[1], "heads": len(lm.anatomy.all_heads)}
    for mode, contestants in engines.items():
        naive = Naive(lm, mode)
        contestants = {NAIVE: lambda naive=naive: naive.changes(ids, targets), **contestants}  # type: ignore[misc]
        for work in contestants.values():
            work()  # warm-up
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        found: dict[str, torch.Tensor] = {}
        for _ in range(repeats):
            for name, work in contestants.items():
                start = time.perf_counter()
                result = work()
                taken[name].append(time.perf_counter() - start)
                found[name] = result if isinstance(result, torch.Tensor) else result.change
        report[mode] = {
            name: {
                **spread(times),
                "ratio": spread([slow / fast for slow, fast in zip(taken[NAIVE], times, strict=True)]),
                "difference": (found[name] - found[NAIVE]).abs().max().item(),
            }
            for name, times in taken.items()
        }
        report[mode]["largest change"] = found[NAIVE].abs().max().item()
        print(mode, {name: round(row["ratio"]["median"], 1) for name, row in report[mode].items() if name in taken})
    return report


def folding(heads: HeadSet, rounds: int, within: int) -> Json:
    """The embedded model before and after folding, both read from their checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        base, folded = Path(folder) / "base", Path(folder) / "folded"
        lm = hw.load("tiny")
        lm.save(base)
        hw.fold(lm, heads)
        lm.save(folded)
        models = {"vanilla": hw.load(base), "folded": hw.load(folded)}
        checked = check_fold(models["folded"], models["vanilla"], heads)
        files = {name: sorted(path.name for path in each.iterdir()) for name, each in (("a", base), ("b", folded))}
    template = prompt_template(lm.tokenizer, instruction="answer")
    examples = world.reading_examples("held_out", 8, 5)
    prompts = [torch.tensor([[*template.prefix(e.documents).ids, *template.tail(e.question.text)]]) for e in examples]

    @torch.no_grad()
    def prefill(model: LanguageModel) -> float:
        """The least of several times: what the machine does besides only ever adds."""
        best = float("inf")
        for _ in range(within):
            start = time.perf_counter()
            for ids in prompts:
                decoder(model.model)(input_ids=ids, use_cache=False)
            best = min(best, time.perf_counter() - start)
        return best

    for model in models.values():
        prefill(model)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds):
        for name in sorted(models, reverse=bool(number % 2)):
            taken[name].append(prefill(models[name]))
    ratios = [after / before for after, before in zip(taken["folded"], taken["vanilla"], strict=True)]
    return {
        "heads": str(heads),
        "coefficients": heads.coefficients,
        "check": {name: value for name, value in checked.items() if name != "effective"},
        "effective": max(abs(row["effective"] - row["coefficient"]) for row in checked["effective"]),
        "same_files": files["a"] == files["b"],
        "tokens": sum(ids.shape[1] for ids in prompts),
        "seconds": {name: spread(times) for name, times in taken.items()},
        "ratios": ratios,
        "ratio": mean_interval(ratios).as_dict(),
    }


def spread(values: list[float]) -> Json:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def tables(report: Json) -> dict[str, str]:
    """The page's tables: finding_speed, folding."""
    made = report["made"]
    machine, versions = made["machine"], made["versions"]
    facts = (
        f"{SEQUENCES} sequences of {LENGTH} tokens said twice, fp32, {made['repeats']} interleaved rounds, median "
        f"[range], {machine['threads']} threads on {machine['cores']} cores, torch {versions['torch']}, transformers "
        f"{versions['transformers']}, {made['date'][:10]}."
    )
    rows = []
    for model, found in report["finding"].items():
        for mode in ("path", "total"):
            part = found[mode]
            for name in [name for name in part if name != "largest change"]:
                row, ratio = part[name], part[name]["ratio"]
                rows.append(
                    [
                        f"{model}, {found['heads']} heads",
                        mode,
                        name,
                        f"{row['median']:.2f} [{row['min']:.2f}, {row['max']:.2f}]",
                        "" if name == NAIVE else f"{ratio['median']:.1f}x [{ratio['min']:.1f}, {ratio['max']:.1f}]",
                        "" if name == NAIVE else f"{row['difference'] / part['largest change']:.0e}",
                    ]
                )
    header = ["model", "mode", "engine", "seconds", "faster", "largest difference, of the largest change"]
    out = {"finding_speed": f"{facts}\n\n{table(header, rows)}"}
    fold = report["folding"]
    check, ratio = fold["check"], fold["ratio"]

    def yes(value: bool) -> str:
        return "yes" if value else "NO"

    lines = [
        ["heads folded", f"`{fold['heads']}` at {', '.join(f'{c:.3f}' for c in fold['coefficients'])}"],
        ["same names, shapes, dtypes", yes(all(check[f"same_{what}"] for what in ("names", "shapes", "dtypes")))],
        ["same files in the folder", yes(fold["same_files"])],
        ["bytes of weights, before and after", f"{check['bytes']['base']:,} and {check['bytes']['folded']:,}"],
        ["everything but the folded columns bit for bit the same", yes(check["others_identical"])],
        [
            "logits, folded against scaled at run time, largest difference of the largest logit",
            f"{check['logits']:.1e}",
        ],
        ["coefficient realised by the stored weights, largest error", f"{fold['effective']:.1e}"],
        ["text KL, nats per token", f"{check['text_kl']:.4f}"],
        [
            f"seconds of a prefill of {fold['tokens']:,} tokens, before and after",
            " and ".join(f"{fold['seconds'][name]['median']:.3f}" for name in ("vanilla", "folded")),
        ],
        [
            f"ratio of times, mean of {len(fold['ratios'])} interleaved rounds [95 %]",
            f"{ratio['mean']:.4f} [{ratio['low']:.4f}, {ratio['high']:.4f}]",
        ],
    ]
    return out | {"folding": table(["what", "value"], lines)}


def main() -> None:
    """Run the benchmark, write the JSON, fill the page."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--heads", type=Path, help="a head set with coefficients (default: learned here)")
    cli.add_argument("--top-k", type=int, help="heads to learn where none are given (default: by size)")
    cli.add_argument("--steps", type=int, default=60, help="of learning")
    cli.add_argument("--repeats", type=int, default=5, help="rounds of finding heads")
    cli.add_argument("--rounds", type=int, default=30, help="rounds of prefills")
    cli.add_argument("--within", type=int, default=5, help="prefills of a round, of which the fastest counts")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--output", type=Path, default=RESULT)
    cli.add_argument("--page", type=Path, nargs="*", default=[], help="markdown pages with places for the tables")
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("repeats", "rounds", "within", "steps")}
    command = shlex.join(["python", "-m", "benchmarks.pear", *sys.argv[1:]])
    report: Json = {"made": made_with(command, "random Llama and tiny", 0, **settings)}
    lm = hw.load("tiny")
    heads = HeadSet.load(args.heads) if args.heads else hw.Pear(top_k=args.top_k, steps=args.steps).fit(lm)
    report["folding"] = folding(heads, args.rounds, args.within)
    print("folding", report["folding"]["ratio"])
    report["finding"] = {"8 x 8 random Llama": finding(random_llama(size="8x8"), args.repeats)}
    report["finding"]["embedded model"] = finding(lm, args.repeats)
    print(f"wrote {write_json(args.output, report)}")
    for page in args.page:
        print(f"wrote {fill_page(page, tables(report))}")


if __name__ == "__main__":
    main()
