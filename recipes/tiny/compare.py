"""Measure the small variants side by side on held-out countries and on the facts they remember.

python -m recipes.tiny.compare --models FOLDER [--n 100] [--page docs/results/variants.md]

FOLDER is the --output of `recipes.tiny.variants`; variants that are not in it are left out. What is measured of one
stays in its folder (measured.json) and is not measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import headwater as hw
from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.tables import fill_page, table
from recipes.tiny import evaluate, measure
from recipes.tiny.small import LAYOUTS, build
from recipes.tiny.text import known_facts
from recipes.tiny.variants import VARIANTS, VOCABULARY, read_log

Json = dict[str, Any]
DOCUMENTS = (1, 5, 12)
CANDIDATES = 10  # twenty do not fit 1,024 positions
READING = {
    "one": "gold among 1, trained wordings",
    "five": "gold among 5, trained wordings",
    "five look-alikes": "gold among 5 (look-alikes), trained wordings",
    "twelve": "gold among 12, trained wordings",
    "one, new wording": "gold among 1, new wording",
    "five, new wording": "gold among 5, new wording",
    "majority answer": "majority answer",
    "random document of five": "random document of 5",
}
CONFLICT = ("document's answer", "memory's answer", "anything else")
RANKING = ("QR heads", "all heads", "random heads", "QR heads - all heads", "QR heads - random heads")


def measured(folder: Path, n: int) -> Json:
    """Everything about one variant."""
    config = json.loads((folder / "variant.json").read_text(encoding="utf-8"))
    known = {country: known_facts()[country] for country in config["remembered"]}
    lm = hw.load(folder, dtype="float32")
    kept = folder / "measured.json"
    if kept.exists():
        found: Json = json.loads(kept.read_text(encoding="utf-8"))
        if (found["fingerprint"], found["n"]) == (lm.fingerprint, n):
            return found
    found = {
        "config": config,
        "n": n,
        "fingerprint": lm.fingerprint,
        "heads": len(lm.anatomy.all_heads),
        "log": read_log(folder / "log.jsonl"),
        "copying": measure.copying(lm.model, rows=64),
        "reading": evaluate.reading(lm, n, DOCUMENTS),
        "closed book": evaluate.closed_book(lm, n, known),
        "conflict": evaluate.conflict(lm, n, known),
        "noise": evaluate.noise(lm, n, known),
        "ranking": evaluate.ranking(lm, n, CANDIDATES),
    }
    write_json(kept, found)
    return json.loads(kept.read_text(encoding="utf-8"))  # keys as text, as when it is read again


def finished(folder: Path) -> bool:
    """Whether the training that the folder is about reached its last step."""
    about, log = folder / "variant.json", folder / "log.jsonl"
    if not ((folder / "model.safetensors").exists() and about.exists() and log.exists()):
        return False
    steps = json.loads(about.read_text(encoding="utf-8"))["steps"]
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return bool(rows) and rows[-1]["step"] == steps


def tables(result: Json) -> dict[str, str]:
    """The tables of the page by name, a row per variant."""
    found: Json = result["variants"]
    made = result["made"]
    machine = ", ".join(f"{name} {value}" for name, value in made["machine"].items())
    return {
        "sizes": _rows(found, ("parameters", "follows", "steps", "minutes"), _size),
        "copying": _rows(found, measure.COPY_LENGTHS, lambda row: [f"{v:.3f}" for v in row["copying"].values()]),
        "start": _rows(result["start"], measure.COPY_LENGTHS, lambda row: [f"{v:.3f}" for v in row.values()]),
        "reading": _rows(found, READING, lambda row: [_cell(row["reading"].get(key)) for key in READING.values()]),
        "memory": _rows(found, ("known", "majority answer", "held-out", "known beside noise, kept"), _memory),
        "conflict": _rows(found, CONFLICT, lambda row: [_cell(row["conflict"][key]) for key in CONFLICT]),
        "ranking": _rows(found, RANKING, lambda row: [_cell(row["ranking"]["same split"][key]) for key in RANKING]),
        "lookalikes": _rows(found, RANKING, lambda row: [_cell(row["ranking"]["look-alikes"][key]) for key in RANKING]),
        "curves": _curves(found),
        "made": f"`{made['command']}`; torch {made['versions']['torch']}, transformers "
        f"{made['versions']['transformers']}; {machine}; {made['date'][:10]}.",
    }


def _rows(found: Json, header: Any, cells: Any) -> str:
    return table(["variant", *map(str, header)], [[name, *cells(row)] for name, row in found.items()])


def _cell(row: Json | None) -> str:
    return "-" if row is None else f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _size(row: Json) -> list[object]:
    config = row["config"]
    minutes = row["log"][-1]["seconds"] / 60 if row["log"] else 0
    return [f"{config['parameters']:,}", config["follow"], f"{config['steps']:,}", f"{minutes:.0f}"]


def _memory(row: Json) -> list[str]:
    closed = row["closed book"]
    shares = [closed[key] for key in ("known, model", "known, majority answer", "held_out, model")]
    return [_cell(share) for share in (*shares, row["noise"].get("of these, right beside 4 noise documents"))]


def _curves(found: Json) -> str:
    """Four moments of each run: development countries, the remembered facts."""
    header = ["variant", "step", "minutes", "one / five / ten documents", "copying, 7 / 37 / 80 tokens"]
    header += ["known without documents", "against an edited document: its answer / memory's"]
    out = []
    for name, row in found.items():
        log = row["log"]
        for line in [log[max(0, round(len(log) * quarter / 4) - 1)] for quarter in (1, 2, 3, 4)] if log else []:
            read, copy = ([f"{v:.2f}" for v in line[key].values()] for key in ("read", "copy"))
            against = " / ".join(f"{v:.2f}" for v in line["conflict"].values())
            cells = [name, f"{line['step']:,}", f"{line['seconds'] / 60:.0f}", " / ".join(read), " / ".join(copy)]
            out.append([*cells, f"{line['closed']:.2f}", against])
    return table(header, out)


def main() -> None:
    """Measure, write JSON, fill the page."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--models", type=Path, required=True, help="the folder that recipes.tiny.variants wrote into")
    cli.add_argument("--n", type=int, default=100, help="questions per test; default 100")
    cli.add_argument("--output", type=Path, default=Path("docs/results/variants.json"))
    cli.add_argument("--page", type=Path, action="append", default=[], help="pages with places for the tables")
    cli.add_argument("--threads", type=int, default=2)
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    folders = {name: args.models / name for name in VARIANTS if finished(args.models / name)}
    if not folders:
        cli.error(f"{args.models} holds none of the variants {', '.join(VARIANTS)}, trained to the end")
    result: Json = {"made": made_with("python -m recipes.tiny.compare", "the small variants", 0)}
    result["start"] = {name: measure.copying(build(name, VOCABULARY, 0).eval(), rows=64) for name in LAYOUTS}
    result["variants"] = {}
    for name, folder in folders.items():
        result["variants"][name] = measured(folder, args.n)
        print(name, "done", flush=True)
    write_json(args.output, result)
    for page in args.page:
        fill_page(page, tables(result))
    for name, text in tables(result).items():
        print(f"\n{name}\n{text}")


if __name__ == "__main__":
    main()
