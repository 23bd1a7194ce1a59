"""What ranking a list costs: headwater's way beside the published procedure, on the same random models in one run.

    python -m benchmarks.ranking --page docs/results/heads.md     # about 8 minutes on two idle cores
    python -m benchmarks.ranking --released PYTHON CHECKOUT       # and the released code beside it

*Published*: for every query the documents are prefilled through every layer with the model's own kernel, the null
query going on from the same keys and values; the attention rows of both tails are rebuilt for all heads of all layers.
Written here as plainly as it can be (arXiv 2506.09944, arXiv 2410.02642; the prompt, the calibration and the filter are
the same); the language-model head does not run. *headwater*: `QRRetriever` with 16 heads, which stops at
the deepest of them (two thirds of the layers, where the published set for Llama-3.1-8B on NQ ends), prefills the
documents once, and runs query and null query packed; then ten further queries over the same documents. Both ways have
to give the same document scores where both use all heads; the largest difference is reported. *Released*: the authors'
code (`released_qrhead.py`), in an environment of its own with transformers 4.44, interleaved with the others; its
document scores are compared with those of `QRRetriever(template="bare")`, for all heads and for the 16.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

import headwater as hw
from benchmarks.models import KNOWN_WORDS, SHAPES, random_llama
from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.tables import fill_page, table
from headwater.heads.mass import PreparedDocuments
from headwater.model.lm import LanguageModel
from headwater.prompt import prompt_template

HEADS, WORDS, FURTHER = 16, 100, 10
DEPTH = 21 / 32  # layers up to the deepest head of llama-3.1-8b-instruct/qr-nq
RESULT = Path(__file__).parent / "results" / "ranking.json"
Json = dict[str, Any]


class Published:
    """Document scores by all heads of all layers; documents are prefilled for every query, once."""

    def __init__(self, lm: LanguageModel) -> None:
        """Take a Llama."""
        self._lm = lm
        self._template = prompt_template(lm.tokenizer)
        self._start = self._tail = 0
        self._sum = torch.zeros(0)

    @torch.no_grad()
    def score(self, query: str, documents: list[hw.Document]) -> np.ndarray:
        """Sum over all heads of the calibrated, filtered attention to each document."""
        prefix = self._template.prefix(documents)
        cache = DynamicCache()
        tail = self._template.tail(query)
        asked = self._attention(prefix.ids, tail, cache)
        cache.crop(-len(tail))
        calibrated = asked - self._attention(prefix.ids, self._template.tail("N/A"), cache)
        scores = []
        for start, end in prefix.spans:
            inside = calibrated[start:end]
            scores.append(inside[inside > inside.mean() - 2 * inside.std()].sum().item())
        return np.array(scores)

    def _attention(self, prefix: list[int], tail: list[int], cache: DynamicCache) -> torch.Tensor:
        """Attention of the tail to the prefix, mean over the tail, sum over heads; runs what the cache lacks."""
        done = cache.get_seq_length()
        self._start, self._tail, self._sum = len(prefix), len(tail), torch.zeros(len(prefix))
        decoder = self._lm.model.model
        hooks = [layer.self_attn.register_forward_hook(self._rows, with_kwargs=True) for layer in decoder.layers]
        decoder(input_ids=torch.tensor([(prefix + tail)[done:]]), past_key_values=cache, use_cache=True)
        for hook in hooks:
            hook.remove()
        return self._sum

    def _rows(self, module: Any, args: Any, kwargs: Json, output: Any) -> None:
        hidden = kwargs["hidden_states"][:, -self._tail :]
        cos, sin = (part[:, -self._tail :] for part in kwargs["position_embeddings"])
        query = module.q_proj(hidden).view(1, hidden.shape[1], -1, module.head_dim).transpose(1, 2)
        query, _ = apply_rotary_pos_emb(query, query, cos, sin)
        key = repeat_kv(kwargs["past_key_values"].layers[module.layer_idx].keys, module.num_key_value_groups)
        logits = (query @ key.transpose(-1, -2)) * module.scaling
        places = torch.arange(key.shape[2])
        logits = logits.masked_fill(places > places[self._start :, None], -torch.inf)
        self._sum += logits.float().softmax(-1).mean(2).sum(1)[0, : self._start]


class Released:
    """The released code in another process: `score` gives document scores and the seconds they took there."""

    def __init__(self, where: tuple[Path, Path], lm: LanguageModel, folder: Path) -> None:
        """Save the model for it, and start it; `where` is the interpreter and the checkout."""
        python, checkout = where
        lm.save(folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that transformers 4 knows
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        script = Path(__file__).with_name("released_qrhead.py")
        command = [str(python), str(script), str(checkout), str(folder), str(torch.get_num_threads())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def score(self, heads: str, query: str, documents: list[hw.Document]) -> tuple[np.ndarray, float]:
        """By "full_heads" or heads such as "3-1,4-0": summed over heads, mean over the tail."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"heads": heads, "query": query, "documents": [document.text for document in documents]}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return np.array(answer["scores"]), answer["seconds"]

    def close(self) -> None:
        """End the other process."""
        self._process.communicate()


def texts(count: int, words: int, seed: int) -> list[str]:
    """Random texts of so many words."""
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(KNOWN_WORDS)}" for _ in range(words)) for _ in range(count)]


def some_heads(lm: LanguageModel) -> hw.HeadSet:
    """`HEADS` random heads of the first two thirds of the layers, one of them in the last of these."""
    layers = round(DEPTH * lm.anatomy.num_layers)
    free = [(layer, head) for layer in range(layers) for head in range(lm.anatomy.num_heads)][:-1]
    return hw.HeadSet([(layers - 1, lm.anatomy.num_heads - 1), *random.Random(0).sample(free, HEADS - 1)])


def cell(lm: LanguageModel, documents: int, repeats: int, compare: bool, released: Released | None) -> Json:
    """Interleaved rounds over one list."""
    listed = [hw.Document(text) for text in texts(documents, WORDS, 1)]
    query, *more = texts(1 + FURTHER, 10, 2)
    ranker = hw.QRRetriever(lm, some_heads(lm), order="given")
    published = Published(lm)

    def first() -> tuple[PreparedDocuments, np.ndarray]:
        prepared = PreparedDocuments(lm, listed, ranker.heads.heads, ranker.settings)
        return prepared, prepared.mass(query).combined().numpy()

    def further(prepared: PreparedDocuments) -> list[np.ndarray]:
        return [mass.combined().numpy() for mass in prepared.masses(more)]

    published.score(query, listed[:2])  # warm-up
    ranker.rank_many([query, *more], listed[:2])
    if released:
        released.score("full_heads", query, listed[:2])
    taken: dict[str, list[float]] = {"published": [], "headwater": [], "further": []}
    authors: list[float] = []
    for _ in range(repeats):
        theirs, seconds = timed(lambda: published.score(query, listed))
        taken["published"].append(seconds)
        (prepared, ours), seconds = timed(first)
        taken["headwater"].append(seconds)
        _, seconds = timed(partial(further, prepared))
        taken["further"].append(seconds)
        if released:
            authors.append(released.score("full_heads", query, listed)[1])
    template = prompt_template(lm.tokenizer)
    report: Json = {
        "documents": documents,
        "tokens": len(template.prefix(listed).ids) + len(template.tail(query)),
        "layers": [ranker.heads.last_layer + 1, lm.anatomy.num_layers],
        "seconds": {name: spread(times) for name, times in taken.items()},
        "ratio": spread([p / o for p, o in zip(taken["published"], taken["headwater"], strict=True)]),
        "ratio with further": spread([(1 + FURTHER) * p / (o + f) for p, o, f in zip(*taken.values(), strict=True)]),
    }
    if compare:
        assert np.allclose(ours, ranker.score(query, listed), atol=1e-7), "what is timed is what QRRetriever does"
        every = hw.QRRetriever(lm, "all", order="given")
        scores = every.score(query, listed) * len(every.heads)
        report["largest difference"] = float(np.abs(scores - theirs).max())
        report["largest score"] = float(np.abs(theirs).max())
        report["same order"] = bool((np.argsort(-scores) == np.argsort(-theirs)).all())
    if released:
        report["released"] = {
            "seconds": spread(authors),
            "ratio": spread([r / o for r, o in zip(authors, taken["headwater"], strict=True)]),
            "scores": [beside(released, lm, heads, query, listed) for heads in ("all", ranker.heads)],
        }
    return report


def beside(
    released: Released, lm: LanguageModel, heads: hw.HeadSet | str, query: str, listed: list[hw.Document]
) -> Json:
    """Document scores of the released code and of ours, with the same heads and the same prompt."""
    ranker = hw.QRRetriever(lm, heads, order="given", template="bare", reduce="sum")
    ours = ranker.score(query, listed)
    named = "full_heads" if heads == "all" else ",".join(f"{layer}-{head}" for layer, head in ranker.heads.heads)
    theirs, _ = released.score(named, query, listed)
    return {
        "heads": len(ranker.heads),
        "largest difference": float(np.abs(ours - theirs).max()),
        "largest score": float(np.abs(theirs).max()),
        "same order": bool((np.argsort(-ours) == np.argsort(-theirs)).all()),
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its wall time."""
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def spread(values: list[float]) -> Json:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def tables(report: Json) -> dict[str, str]:
    """The page's table: ranking_speed."""
    made = report["made"]
    machine, versions = made["machine"], made["versions"]

    def show(row: Json, digits: int = 2, unit: str = "") -> str:
        return f"{row['median']:.{digits}f}{unit} [{row['min']:.{digits}f}, {row['max']:.{digits}f}]"

    rows = []
    for size, cells in report["models"].items():
        for row in cells:
            seconds = row["seconds"]
            rows.append(
                [
                    f"{report['parameters'][size] / 1e6:.0f} M",
                    f"{row['documents']} ({row['tokens']:,} tokens)",
                    show(seconds["published"]),
                    show(seconds["headwater"]),
                    show(row["ratio"], 1, "x"),
                    show(seconds["further"]),
                    show(row["ratio with further"], 1, "x"),
                ]
            )
    compared = [row for cells in report["models"].values() for row in cells if "same order" in row]
    worst = max(row["largest difference"] / row["largest score"] for row in compared)
    same = "the same order" if all(row["same order"] for row in compared) else "ANOTHER ORDER"
    facts = (
        f"Random Llama, fp32, documents of {WORDS} tokens, {made['repeats']} interleaved rounds, median [range] in "
        f"seconds, {machine['threads']} threads on {machine['cores']} cores, torch {versions['torch']}, "
        f"transformers {versions['transformers']}, {made['date'][:10]}. headwater: {HEADS} heads, stop at two "
        f"thirds of the layers. The published procedure starts over for every query: {FURTHER} further ones cost it "
        f"{FURTHER} times as much (computed). With all heads, both ways give {same}, scores within {worst:.0e} of the "
        "largest one."
    )
    header = [
        "model",
        "documents",
        "published, a query",
        "headwater, a query",
        "ratio",
        f"headwater, {FURTHER} further",
        f"ratio, {1 + FURTHER} queries",
    ]
    out = {"ranking_speed": f"{facts}\n\n{table(header, rows)}"}
    named = {size: f"{report['parameters'][size] / 1e6:.0f} M" for size in report["models"]}
    beside = [(named[size], row) for size, cells in report["models"].items() for row in cells if "released" in row]
    if not beside:
        return out
    rows = []
    for name, row in beside:
        part = row["released"]
        rows.append(
            [
                name,
                f"{row['documents']} ({row['tokens']:,} tokens)",
                show(part["seconds"]),
                show(part["ratio"], 1, "x"),
                *(
                    f"{found['largest difference'] / found['largest score']:.0e}, "
                    f"{'same order' if found['same order'] else 'ANOTHER ORDER'}"
                    for found in part["scores"]
                ),
            ]
        )
    header = [
        "model",
        "documents",
        "released, a query",
        "over headwater",
        "scores, all heads",
        f"scores, {HEADS} heads",
    ]
    return out | {"released": table(header, rows)}


def main() -> None:
    """Run the benchmark, write the JSON, fill the page."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--models", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    cli.add_argument("--documents", type=int, nargs="+", default=[20, 40])
    cli.add_argument("--repeats", type=int, default=3)
    cli.add_argument(
        "--released",
        type=Path,
        nargs=2,
        metavar=("PYTHON", "CHECKOUT"),
        help="an interpreter with transformers 4.44, and a checkout of princeton-pli/QRHead",
    )
    cli.add_argument("--threads", type=int, default=os.cpu_count())
    cli.add_argument("--output", type=Path, default=RESULT)
    cli.add_argument("--page", type=Path, nargs="*", default=[], help="markdown pages with a place for the table")
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    settings = {"heads": HEADS, "words": WORDS, "further": FURTHER, "repeats": args.repeats, "dtype": "float32"}
    report: Json = {
        "made": made_with("python -m benchmarks.ranking", "random Llama", 0, **settings),
        "parameters": {},
        "models": {},
    }
    for size in args.models:
        lm = random_llama(size=size)
        report["parameters"][size] = sum(p.numel() for p in lm.model.parameters())
        report["models"][size] = []
        with tempfile.TemporaryDirectory() as folder:
            released = Released(args.released, lm, Path(folder)) if args.released else None
            for documents in args.documents:
                row = cell(lm, documents, args.repeats, documents == min(args.documents), released)
                report["models"][size].append(row)
                seconds = {name: round(part["median"], 3) for name, part in row["seconds"].items()}
                print(size, documents, seconds, row.get("released", ""), flush=True)
                print(f"wrote {write_json(args.output, report)}", flush=True)
            if released:
                released.close()
    for page in args.page:
        print(f"wrote {fill_page(page, tables(report))}")


if __name__ == "__main__":
    main()
