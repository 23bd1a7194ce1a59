"""What single heads look at, for a page: per question and head the attention to every token and its own ranking.

Weights are what `headwater.heads.mass` gives: attention from the question less that from the null query, mean over the
tokens of the question. Each head's are scaled to its strongest token and kept as one byte, so that a page of many heads
stays small; what does not look more than for the null query is zero.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.data.documents import Document, RankingExample
from headwater.errors import HeadSetError, InputError
from headwater.heads.mass import MassSettings, PreparedDocuments
from headwater.headset import Head, HeadSet
from headwater.headset.agreement import by_score, order_of
from headwater.instrument.rows import by_layer
from headwater.prompt import prompt_template

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

BYTES = 3_000_000  # of weights and scores on a page, about


def explorer(
    lm: LanguageModel,
    sets: Mapping[str, HeadSet],
    questions: Sequence[RankingExample],
    settings: MassSettings | None = None,
    limit: int = BYTES,
) -> dict[str, Any]:
    """Everything an explorer page shows.

    Args:
        lm: the model.
        sets: head sets by the name of their detector.
        questions: with their documents; what answers may be unknown (`relevant` empty).
        settings: switches of the document score (None: the defaults).
        limit: bytes for all weights and scores. Where they do not fit, the heads that rank worst in every set lose
            theirs; at least one head of each question is kept.

    Returns:
        `shape`; `detectors`: name, `heads` (best first), `scores` and `ranks` `[layers, heads]` (None: unknown);
        `questions`: `text`, `documents` (id, title, gold, tokens), `heads` that were kept, and of each of them
        `largest` (weight of its strongest token), `scores` (per document; None: blank) and `weights` (base64 of bytes
        `[heads, tokens of all documents]`).

    Raises:
        InputError: no sets or no questions, or what `PreparedDocuments` raises.
        HeadSetError: a set of a model of another shape.
        ContextOverflowError: the documents of a question do not fit what the model reads.
    """
    if not sets or not questions:
        raise InputError("An explorer needs at least one head set and one question.")
    shape = (lm.anatomy.num_layers, lm.anatomy.num_heads)
    for name, heads in sets.items():
        by_layer(heads, lm.anatomy)
        if heads.scores is not None and heads.scores.shape != shape:
            raise HeadSetError(f"The scores of {name} are {heads.scores.shape}, those of {lm.name!r} {shape}.")
    order = _worth(sets, lm.anatomy.all_heads)
    return {
        "shape": list(shape),
        "detectors": [_detector(name, heads) for name, heads in sets.items()],
        "questions": [
            _question(lm, asked, order, settings or MassSettings(), limit // len(questions)) for asked in questions
        ],
    }


def unpack(question: Mapping[str, Any], head: Head) -> list[np.ndarray] | None:
    """Weights of one head, one array per document of a question; None where they were not kept."""
    kept = [tuple(pair) for pair in question["heads"]]
    if head not in kept:
        return None
    row = kept.index(head)
    lengths = [len(document["tokens"]) for document in question["documents"]]
    flat = np.frombuffer(base64.b64decode(question["weights"]), np.uint8).reshape(len(kept), sum(lengths))[row]
    return np.split(flat / 255 * question["largest"][row], np.cumsum(lengths)[:-1])


def _worth(sets: Mapping[str, HeadSet], every: Sequence[Head]) -> list[Head]:
    """All heads of the model: the best of each set, the second of each, and so on; then those that no set ranks."""
    rankings = [order_of(heads) for heads in sets.values()]
    longest = max(map(len, rankings))
    turns = [ranking[place] for place in range(longest) for ranking in rankings if place < len(ranking)]
    return list(dict.fromkeys([*turns, *every]))


def _detector(name: str, heads: HeadSet) -> dict[str, Any]:
    out: dict[str, Any] = {"name": name, "heads": [list(head) for head in heads.heads], "scores": None, "ranks": None}
    if heads.scores is not None:
        ranks: list[list[int | None]] = [[None] * heads.scores.shape[1] for _ in heads.scores]
        for rank, (layer, head) in enumerate(by_score(heads.scores), 1):
            ranks[layer][head] = rank
        out["ranks"] = ranks
        out["scores"] = [[_short(value) for value in row] for row in heads.scores.tolist()]
    return out


def _question(
    lm: LanguageModel, asked: RankingExample, order: Sequence[Head], settings: MassSettings, limit: int
) -> dict[str, Any]:
    documents = [document for document in asked.documents if isinstance(document, Document)]
    shown = [document for document in documents if not document.blank]
    tokens = len(prompt_template(lm.tokenizer, settings.template, settings.instruction).prefix(shown).ids)
    each = tokens * 4 / 3 + 10 * len(documents)  # base64, and a number per document
    kept = sorted(order[: max(1, int(limit / each))])
    prepared = PreparedDocuments(lm, documents, kept, settings, range(len(documents))[::-1])  # as rankers order them
    mass = prepared.mass(asked.query)
    rows, scores = mass.tokens.float().cpu().numpy(), mass.per_head().cpu().numpy()
    spans = [(0, 0) if place is None else prepared.spans[place] for place in prepared.place]
    weights = np.concatenate([rows[:, start:end] for start, end in spans], axis=1).clip(min=0)
    largest = weights.max(axis=1, initial=0.0)
    scaled = np.divide(weights, largest[:, None], out=np.zeros_like(weights), where=largest[:, None] > 0)
    packed = np.round(255 * scaled).astype(np.uint8)
    return {
        "text": asked.query,
        "documents": [
            {
                "id": str(document.id if document.id is not None else index),
                "title": document.title,
                "gold": grade > 0,
                "tokens": _texts(prepared, index),
            }
            for index, (document, grade) in enumerate(zip(documents, asked.grades(), strict=True))
        ],
        "heads": [list(head) for head in kept],
        "local": [list(head) for head in mass.local],
        "largest": [_short(value) for value in largest.tolist()],
        "scores": [[_short(value) for value in row] for row in scores.tolist()],
        "weights": base64.b64encode(packed.tobytes()).decode("ascii"),
    }


def _texts(prepared: PreparedDocuments, index: int) -> list[str]:
    place = prepared.place[index]
    return [] if place is None else prepared.texts(place)


def _short(value: float) -> float | None:
    """Four digits; None for what is not finite."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
