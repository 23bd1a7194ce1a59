"""Head sets of real models that papers published, shipped as data with their sources (`recipes/published.py`).

Names are `model/kind`: `qr-nq` (QRHead found on Natural Questions: ranking passages), `qr-lme` (on LongMemEval: long
contexts), `qr-dysco`, `core` (CoRe), and `retrieval` (means of the published retrieval scores of all heads).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import HeadSetError
from headwater.headset.headset import HeadScores, HeadSet, parse_heads

_FOLDER = Path(__file__).parent / "published"
_FOR_RANKING = ("qr-nq", "qr-dysco", "core", "qr-lme")  # the first that a model has
RETRIEVAL_THRESHOLD = 0.1  # "retrieval heads" score more (arXiv 2404.15574, section 3)


@cache
def published() -> dict[str, dict[str, Any]]:
    """Every published set by name: model, shape `[layers, query heads, key/value heads]`, method, paper, source."""
    entries = [
        entry
        for name in ("lists", "scores")
        for entry in json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    ]
    return {entry["name"]: entry for entry in entries}


def load_published(name: str) -> HeadSet:
    """A published set. Retrieval scores give all heads above 0.1, best first.

    Raises:
        HeadSetError: there is no set of this name.
    """
    if name not in published():
        model = name.split("/")[0]
        near = [known for known in published() if known.split("/")[0] == model] or list(published())
        raise HeadSetError(f"There is no published head set {name!r}; known: {', '.join(near)}.")
    entry = published()[name]
    provenance = {key: value for key, value in entry.items() if key not in ("heads", "scores")}
    if "heads" in entry:
        return HeadSet(parse_heads(entry["heads"]), provenance=provenance)
    scores = np.array(entry["scores"])
    return HeadScores(scores, provenance).top(int((scores > RETRIEVAL_THRESHOLD).sum()))


def published_for_ranking(model: str, shape: Sequence[int]) -> HeadSet | None:
    """The published set to rank with, for a model of this hub id (or folder name) and shape; None: there is none."""
    wanted = model.rstrip("/").split("/")[-1].lower().removeprefix("meta-")
    found = {
        name.split("/")[1]: name
        for name, entry in published().items()
        if entry["model"].split("/")[-1].lower() == wanted and entry["shape"] == list(shape)
    }
    best = next((found[kind] for kind in _FOR_RANKING if kind in found), None)
    return None if best is None else load_published(best)
