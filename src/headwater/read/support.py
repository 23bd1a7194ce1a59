"""How sure a model has to be of an answer before it counts as supported by the documents.

An answer that stands in a document can still be wrong: where the answer is in none of them, models give that of
another entity or another relation. They are less sure of it then. `calibrate` measures how much less on the fact
world: questions with the gold document among five, and the same with it taken out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headwater.atomic import write_text
from headwater.cache import cache_folder
from headwater.data import world
from headwater.model.lm import TINY
from headwater.prompt.prompt import prompt_template
from headwater.read.citation import cite
from headwater.read.reader import Reader

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

logger = logging.getLogger("headwater")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Support:
    """A calibrated threshold.

    Attributes:
        threshold: the confidence from which an answer counts as supported.
        kept: share of right answers at or above it, on the calibration questions.
        refused: share of answers without the gold document below it.
        questions: how many questions there were of each kind.
    """

    threshold: float
    kept: float
    refused: float
    questions: int


@dataclass(frozen=True)
class Judged:
    """One question read twice: with the gold document among the others, and without it.

    Attributes:
        group: the country.
        right: whether the answer with the gold document is the gold answer, word for word.
        confidence: of that answer.
        without: the confidence of the answer given without the gold document; 0 when it stands in none of the others,
            and so is refused anyway.
    """

    group: str
    right: bool
    confidence: float
    without: float


def judge(
    lm: LanguageModel, split: str, n: int, seed: int = 0, template: str = "auto", progress: Progress | None = None
) -> list[Judged]:
    """Read n questions of a split of the fact world twice: five documents with the gold one, then four without."""
    reader = Reader(lm, template=template)
    out = []
    for done, example in enumerate(world.reading_examples(split, n, 5, seed=seed)):
        question, gold = example.question, example.gold[0]
        asked = reader.read(question.text, example.documents)
        others = [document for place, document in enumerate(example.documents) if place != gold]
        alone = reader.read(question.text, others)
        right = world.exact_match(asked.text, question.answers) and cite(asked.text, example.documents) is not None
        stands = cite(alone.text, others) is not None
        out.append(Judged(question.country, right, asked.confidence, alone.confidence if stands else 0.0))
        if progress is not None:
            progress(done + 1, n)
    return out


def choose(judged: Sequence[Judged]) -> Support:
    """The threshold with the best mean of right answers kept and answers without a source refused."""
    right = np.array([j.confidence for j in judged if j.right])
    without = np.array([j.without for j in judged])
    if not len(right):
        return Support(0.0, 0.0, 0.0, len(judged))
    levels = np.unique(np.concatenate([[0.0], right, without]))
    kept = (right[None] >= levels[:, None]).mean(1)
    refused = (without[None] < levels[:, None]).mean(1)
    best = int(np.argmax(kept + refused))
    return Support(float(levels[best]), float(kept[best]), float(refused[best]), len(judged))


def calibrate(
    lm: LanguageModel, n: int = 64, seed: int = 0, template: str = "auto", progress: Progress | None = None
) -> Support:
    """Choose the threshold on questions about development countries and keep it in the cache for these weights."""
    found = choose(judge(lm, "development", n, seed, template, progress))
    path = _cached(lm, template)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(found, lm, path, template)
    return found


def save(found: Support, lm: LanguageModel, path: Path, template: str = "auto") -> None:
    """Write a threshold with the weights and the prompt it belongs to."""
    record = {**asdict(found), "fingerprint": lm.fingerprint, "prompt": _prompt(lm, template)}
    write_text(path, json.dumps(record, indent=1) + "\n")


def known_support(lm: LanguageModel, template: str = "auto") -> float:
    """The threshold shipped or cached for these weights and this prompt; 0 where there is none."""
    own = {"fingerprint": lm.fingerprint, "prompt": _prompt(lm, template)}
    for path in (TINY / "support.json", _cached(lm, template)):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if all(record[key] == value for key, value in own.items()):
                return float(record["threshold"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return 0.0


def _cached(lm: LanguageModel, template: str) -> Path:
    return cache_folder() / "support" / f"{lm.fingerprint}-{_prompt(lm, template)}.json"


def _prompt(lm: LanguageModel, template: str) -> str:
    return prompt_template(lm.tokenizer, template, instruction="answer").fingerprint
