"""Kill `index add` and `ask` at random moments and look at what is left.

python -m benchmarks.crash [--kills 50] [--page docs/results/crash.md]

Before each kill the folder of documents changes (files added, changed, deleted). After it the index has to open, hold
every document of every run that ended by itself, and hold no document half: its passages joined are its text. At the
end one more run has to bring it to what a fresh index of the folder holds.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.tables import check_page, fill_page
from headwater.search.index import Index

COMMAND = [sys.executable, "-c", "from headwater.cli.main import main; main()"]
RESULT = Path(__file__).parent / "results" / "crash.json"


def change(folder: Path, draw: random.Random, step: int) -> None:
    """Add three files (one in five of thousands of documents), change one, rename or delete one now and then."""
    files = sorted(folder.glob("*.jsonl"))
    for name in [f"{step}-{i}.jsonl" for i in range(3)] + ([draw.choice(files).name] if files else []):
        lines = [
            json.dumps({"id": f"{name}/{i}", "text": f"word{draw.randrange(500)} " * draw.randint(1, 150)})
            for i in range(draw.randint(1001, 2500) if draw.random() < 0.2 else draw.randint(1, 300))
        ]
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    if files and draw.random() < 0.3:
        moved = draw.choice(files)
        moved.rename(moved.with_name(f"moved-{step}-{moved.name}"))
        files.remove(moved)
    while len(files) > 8:
        files.pop(draw.randrange(len(files))).unlink()


def texts(index: Index) -> dict[str, str]:
    """Every document as its passages tell it; a document without its first passage is left out and so shows."""
    rows = index._passages.search().limit(None).to_list()
    parts: dict[str, dict[int, Any]] = {}
    for row in rows:
        parts.setdefault(row["id"], {})[row["part"]] = row
    out = {}
    for name, found in parts.items():
        whole = found[0]["body"] if 0 in found else ""
        joined = " ".join(found[part]["words"] for part in sorted(found))
        if whole and " ".join(whole.split()) == " ".join(joined.split()):
            out[name] = whole
    return out


def expected(folder: Path) -> dict[str, str]:
    """What the folder holds."""
    return {
        record["id"]: record["text"]
        for path in folder.glob("*.jsonl")
        for record in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    }


def run(verb: str, folder: Path, index: Path, until: float | None) -> bool:
    """Run a command, or kill it after `until` seconds; whether it ended by itself."""
    words = ["index", "add", str(folder)] if verb == "index add" else ["ask", "word1", "--docs", str(folder)]
    process = subprocess.Popen(
        [*COMMAND, *words, "--index", str(index)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _, said = process.communicate(timeout=until)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        raise RuntimeError(f"{verb} failed: {said.decode()}")
    return True


def main() -> None:
    """Kill and look, so many times."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--kills", type=int, default=50)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--page", type=Path, help="page whose table is written")
    args = cli.parse_args()
    if args.page:
        check_page(args.page)
    draw = random.Random(args.seed)
    counts = {verb: {"killed": 0, "ended": 0} for verb in ("index add", "ask")}
    with tempfile.TemporaryDirectory() as name:
        folder, index = Path(name) / "docs", Path(name) / "ix"
        folder.mkdir()
        took = {}
        for verb in counts:
            change(folder, draw, 0)
            began = time.perf_counter()
            run(verb, folder, index, None)
            took[verb] = time.perf_counter() - began
        settled = expected(folder)
        step, killed = 1, 0
        while killed < args.kills:
            verb = ("index add", "ask")[step % 2]
            change(folder, draw, step)
            began = time.perf_counter()
            ended = run(verb, folder, index, draw.uniform(0.4, 1.2) * took[verb])
            # the folder grows: what a run takes is known when one ends, else guessed a little higher
            took[verb] = time.perf_counter() - began if ended else 1.2 * took[verb]
            counts[verb]["ended" if ended else "killed"] += 1
            killed += not ended
            wanted = expected(folder)
            settled = wanted if ended else {k: v for k, v in settled.items() if wanted.get(k) == v}
            with Index.open(index) as opened:
                found = texts(opened)
                lost = [key for key, text in settled.items() if found.get(key) != text]
                half = opened.info().documents - len(found)
                opened.search("word1")
            if lost or half:
                raise RuntimeError(f"after kill {killed} ({verb}): {len(lost)} documents lost, {half} half written")
            print(f"kill {killed} of {args.kills}: {verb}, {len(found)} documents, nothing lost", flush=True)
            step += 1
        run("index add", folder, index, None)
        with Index.open(index) as opened:
            same = texts(opened) == expected(folder)
        if not same:
            raise RuntimeError("the index that was killed is not what a fresh one holds")
        documents = len(expected(folder))
    result = {
        "kills": killed,
        "runs": counts,
        "documents": documents,
        "made": made_with(f"python -m benchmarks.crash --kills {args.kills}", "tiny", args.seed),
    }
    write_json(RESULT, result)
    if args.page:
        rows = "\n".join(f"| `{verb}` | {c['killed']} | {c['ended']} |" for verb, c in counts.items())
        fill_page(args.page, {"crash": f"| command | killed | ended first |\n|---|---|---|\n{rows}"})


if __name__ == "__main__":
    main()
