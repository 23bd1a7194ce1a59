"""A made-up benchmark run, in memory and on disk: three tasks, odd names, missing values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EVIL = '<script>alert("x")</script> & 100 % of a_b | $c$'
ODD = "my_heads & co 50%"


def interval(mean: float | None, width: float = 0.05) -> dict[str, Any]:
    """An interval around a mean."""
    if mean is None:
        return {"mean": None, "low": None, "high": None, "n": 0, "groups": 0}
    return {"mean": mean, "low": mean - width, "high": mean + width, "n": 60, "groups": 20}


def difference(system: str, metric: str, mean: float, width: float = 0.03, p_holm: float = 0.002) -> dict[str, Any]:
    """A difference to bm25."""
    row = {"system": system, "baseline": "bm25", "metric": metric, **interval(mean, width)}
    return row | {"p": 0.0004, "p_holm": p_holm, "detectable": 0.04}


def system(metrics: Mapping[str, float | None], **more: Any) -> dict[str, Any]:
    """One system's part of a task."""
    row = {"seeds": [], "metrics": {name: interval(mean) for name, mean in metrics.items()}, "finish": {}, "facets": {}}
    return row | {"cost": {"seconds": 0.0123, "tokens": 512.5, "flops": 3e9, "peak_bytes": 2**29}, "failed": 0, **more}


def summary() -> dict[str, Any]:
    """What such a run's summary.json holds."""
    free = {"seconds": 0.0004, "tokens": None, "flops": None, "peak_bytes": None}
    ranking = {
        "bm25": system({"nDCG@10": 0.712, "R@1": 0.6}, cost=free),
        "qr": system({"nDCG@10": 0.913, "R@1": 0.6}, counted={"calls": 120}, settings={"heads": ["2-1", "3-0"]}),
        "random-heads": system({"nDCG@10": 0.41, "R@1": None}, seeds=[0, 1], failed=3, cost={}),
        ODD: system({"nDCG@10": 0.72, "R@1": 0.5}, cost=None),
    }
    gaps = [difference("qr", "nDCG@10", 0.201), difference("random-heads", "nDCG@10", -0.302)]
    gaps += [difference(ODD, "nDCG@10", 0.008), difference("qr", "R@1", 0.0)]
    curve = {place: interval(mean) for place, mean in (("10", 0.4), ("1", 0.8), ("5", 0.5))}
    facets = {"position": curve, "one": {"x": interval(1.0)}}
    reading = {"read": system({"EM": 0.5, "words": 3.2, "abstained": 0.1}, facets=facets)}
    loss = {
        "model": system({"bits per byte": 1.2, "perplexity": 12345.6}, finish={"bits per byte (all)": 1.19}),
        "smaller": system({"bits per byte": float("nan"), "perplexity": 20000.0}),
    }
    return {
        "made": {"command": "headwater eval", "model": "tiny", "date": "2026-01-02T03:04:05", "versions": {"a": "1"}},
        "config": {"model": "tiny", "baselines": ["bm25"], "seeds": [0, 1], "limit": None},
        "tasks": {
            "world": _task("ranking", ["nDCG@10", "R@1"], ranking, differences=gaps, notes=[EVIL]),
            "position_10": _task("reading", ["EM", "words", "abstained"], reading),
            "text": _task("text", ["bits per byte", "perplexity"], loss, ["bits per byte", "perplexity"]),
        },
        "not_run": [{"task": "all", "system": "dense", "why": "no model was given: --method dense:ID | x"}],
    }


def write(folder: Path, found: Mapping[str, Any]) -> Path:
    """The run on disk: seven ranked queries, three of them with another score for qr, bm25 failing one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(found), encoding="utf-8")
    relevant = [["d1", "Title " + EVIL, "What it says."]]
    asked = {"group": "g", "answers": [], "relevant": relevant, "facets": {}}
    items = ({"id": f"q{i}", "query": f"Query {i} {EVIL}", **asked} for i in range(7))
    _lines(folder / "items" / "world.jsonl", items)
    scores = {
        "bm25": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, None],
        "qr": [1.0, 0.7, 0.1, 0.5, 0.5, 0.5, 1.0],
        "random-heads-seed0": [0.0, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5],
        "random-heads-seed1": [0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5],
    }
    for name, row in scores.items():
        _lines(folder / "queries" / "world" / f"{name}.jsonl", (_record(i, score) for i, score in enumerate(row)))
    return folder


def _task(
    kind: str, metrics: list[str], systems: dict[str, Any], lower: Iterable[str] = (), **more: Any
) -> dict[str, Any]:
    about = {"kind": kind, "n": 60, "groups": 20, "metrics": metrics, "lower_is_better": list(lower)}
    return about | {"notes": [], "systems": systems, "differences": [], **more}


def _record(place: int, score: float | None) -> dict[str, Any]:
    scored = None if score is None else {"nDCG@10": score, "R@1": 0.0}
    shown = [["d2", "", EVIL], ["d1", "Title", "What it says."]]
    error = "the prompt is too long" if score is None else None
    return {"id": f"q{place}", "scores": scored, "output": ["d2", "d3", "d1"], "shown": shown, "error": error}


def _lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
