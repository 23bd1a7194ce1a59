"""Ranking and reading of many questions, one record per question, for every experiment that needs them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.data import world
from headwater.data.documents import Document, RankingExample
from headwater.evaluate.files import Lines
from headwater.evaluate.metrics import order as best_first
from headwater.heads.mass import MassSettings, PreparedDocuments
from headwater.heads.switches import Order, prompt_order
from headwater.headset import HeadSet
from headwater.rank.resolve import ranking_settings
from headwater.read.reader import Reader
from headwater.search.bm25 import BM25

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

KEYWORDS = "BM25"
Step = Callable[[int, int], None]
Scorer = Callable[[str, Sequence[Document]], Mapping[str, np.ndarray]]


def head_scorer(lm: LanguageModel, sets: Mapping[str, HeadSet], order: Order = "reversed", seed: int = 0) -> Scorer:
    """Scores by every head set, those that rank with the same switches out of one forward pass.

    In the orders "reversed" and "given" they equal what `QRRetriever(lm, heads, order=order)` gives for each set, which
    takes some switches from the head set; its "shuffled" draws other orders than this one.

    Args:
        lm: the model.
        sets: head sets by name.
        order: of the documents in the prompt; "shuffled" depends on the seed and the query.
        seed: of the shuffling.
    """
    passes: dict[MassSettings, list[str]] = {}
    for name, heads in sets.items():
        passes.setdefault(ranking_settings(lm, heads, {}), []).append(name)

    def score(query: str, documents: Sequence[Document]) -> dict[str, np.ndarray]:
        places = prompt_order(order, len(documents), f"{seed}:{query}")
        found = {}
        for settings, names in passes.items():
            needed = sorted({head for name in names for head in sets[name].heads})
            mass = PreparedDocuments(lm, documents, needed, settings, places).mass(query)
            mass.require_global(needed)
            for name in names:
                found[name] = mass.combined(sets[name].heads, sets[name].coefficients).cpu().numpy()
        return {name: found[name] for name in sets}

    return score


def keyword_scorer(examples: Sequence[RankingExample]) -> Scorer:
    """BM25 with the word statistics of the whole world, not those of twenty candidates."""
    pool = {document.id: document for document in world.documents()}
    for example in examples:
        pool.update({document.id: document for document in _documents(example)})
    index, places = BM25(pool.values()), {name: place for place, name in enumerate(pool)}

    def score(query: str, documents: Sequence[Document]) -> dict[str, np.ndarray]:
        return {KEYWORDS: index.scores(query)[[places[document.id] for document in documents]]}

    return score


def rank_questions(
    examples: Sequence[RankingExample], score: Sequence[Scorer], lines: Lines | None, step: Step
) -> list[dict[str, Any]]:
    """One record per question: candidate ids, the gold ones, and each system's order as positions, best first."""
    records = []
    for done, example in enumerate(examples):
        step(done, len(examples))
        name = str(example.id)
        if lines is not None and name in lines.done:
            records.append(lines.done[name])
            continue
        documents = _documents(example)
        scores = {system: row for scorer in score for system, row in scorer(example.query, documents).items()}
        record = {
            "id": name,
            "group": example.group,
            "query": example.query,
            "documents": [document.id for document in documents],
            "gold": [documents[i].id for i, grade in enumerate(example.grades()) if grade > 0],
            "orders": {system: best_first(row) for system, row in scores.items()},
        }
        records.append(record)
        if lines is not None:
            lines.add(record)
    step(len(examples), len(examples))
    return records


def read_questions(
    lm: LanguageModel, examples: Sequence[world.ReadingExample], seed: int, lines: Lines | None, step: Step
) -> list[dict[str, Any]]:
    """One record per question: what the model said, and what the two floors say."""
    reader = Reader(lm)
    records = []
    for done, example in enumerate(examples):
        step(done, len(examples))
        question = example.question
        if lines is not None and question.id in lines.done:
            records.append(lines.done[question.id])
            continue
        said = {
            "model": reader.read(question.text, example.documents).text,
            "majority answer": world.majority_answer(question.relation),
            "random document": random_document_answer(example, seed),
        }
        record = {
            "id": question.id,
            "group": question.country,
            "query": question.text,
            "relation": question.relation,
            "answers": list(question.answers),
            "said": said,
            "right": {name: world.exact_match(text, question.answers) for name, text in said.items()},
        }
        records.append(record)
        if lines is not None:
            lines.add(record)
    step(len(examples), len(examples))
    return records


def random_document_answer(example: world.ReadingExample, seed: int) -> str:
    """The asked fact of a document drawn at random, or any of its facts where it does not state that one."""
    draw = random.Random(f"random document/{example.question.id}/{seed}")
    metadata = draw.choice(example.documents).metadata
    asked = example.question.relation
    relation = asked if asked in metadata["relations"] else draw.choice(metadata["relations"])
    return world.facts(metadata["country"])[relation]


def _documents(example: RankingExample) -> list[Document]:
    return [document for document in example.documents if isinstance(document, Document)]
