"""Kill `eval run` at random moments; the run that goes on has to end with the figures of one that was left alone.

python -m benchmarks.eval_crash [--kills 20] [--page docs/results/bench.md]

Compared are every record (output, scores, details) and every figure of summary.json; only times and memory may differ.
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

COMMAND = [sys.executable, "-c", "from headwater.cli.main import main; main()", "eval", "run", "--quiet"]
WHAT = ["--task", "world-ranking", "--task", "world-gold-5", "--task", "world-noise", "--seeds", "2", "--limit", "40"]
METHODS = ("bm25", "qr", "icr", "random-heads", "read", "no-context", "qr+read")
RESULT = Path(__file__).parent / "results" / "eval_crash.json"


def run(output: Path, until: float | None) -> bool:
    """Run it, or kill it after `until` seconds; whether it ended by itself."""
    words = [*WHAT, *(word for method in METHODS for word in ("--method", method)), "--output", str(output)]
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=until)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        raise RuntimeError(f"eval run failed: {said.decode()}")
    return True


def figures(output: Path) -> dict[str, Any]:
    """Everything in a run's folder that does not depend on the clock."""
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))["tasks"]
    for task in summary.values():
        for system in task["systems"].values():
            del system["cost"]
    records = {}
    for path in sorted(output.glob("queries/*/*.jsonl")):
        for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            del record["cost"]
            records[f"{path.parent.name}/{path.name}/{record['id']}"] = record
    return {"tasks": summary, "records": records}


def finished(output: Path) -> int:
    """Records on disk."""
    return sum(path.read_bytes().count(b"\n") for path in output.glob("queries/*/*.jsonl"))


def main() -> None:
    """Kill, go on, compare."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--kills", type=int, default=20)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--page", type=Path, help="page whose table is written")
    args = cli.parse_args()
    if args.page:
        check_page(args.page)
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, cut = Path(name) / "whole", Path(name) / "cut"
        began = time.perf_counter()
        run(whole, None)
        took = time.perf_counter() - began
        left = []
        for _ in range(args.kills):
            # most of a start is loading; each try gets a little further, and the last one may end by itself
            if run(cut, draw.uniform(0.1, 1.0) * took / args.kills + draw.uniform(3, 9)):
                break
            left.append(finished(cut))
        run(cut, None)
        expected, found = figures(whole), figures(cut)
        differing = sum(found["records"].get(key) != record for key, record in expected["records"].items())
        report = {
            "kills": len(left),
            "records finished at each kill": left,
            "records": len(expected["records"]),
            "records that differ": differing,
            "summary equal": expected["tasks"] == found["tasks"],
            "seconds of the run left alone": round(took, 1),
            "made": made_with("python -m benchmarks.eval_crash", "tiny", args.seed),
        }
    write_json(RESULT, report)
    print(json.dumps(report, indent=1))
    if args.page:
        same = "equal" if report["summary equal"] else "different"
        text = (
            f"{report['kills']} kills (`SIGKILL`) at random moments, with {left[0] if left else 0} to "
            f"{left[-1] if left else 0} of {report['records']} records finished; in the end {differing} records differ "
            f"from the run that was left alone, all figures of summary.json are {same}."
        )
        fill_page(args.page, {"crash": text})


if __name__ == "__main__":
    main()
