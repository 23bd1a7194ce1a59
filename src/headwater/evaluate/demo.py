"""The main job in under a minute: find heads, rank, read, cite, and keep everything a report shows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headwater.data import world
from headwater.data.documents import Document, RankingExample
from headwater.evaluate.explorer import explorer
from headwater.evaluate.files import made_with
from headwater.evaluate.main_job import ALL, QR, RANDOM, Progress, no_progress, summarise_ranking, summarise_reading
from headwater.evaluate.metrics import require
from headwater.evaluate.questions import KEYWORDS, head_scorer, keyword_scorer, rank_questions, read_questions
from headwater.heads import QueryFocusedHeads, RandomHeads
from headwater.heads.contrastive import ContrastiveHeads
from headwater.headset import HeadSet
from headwater.pipeline import Pipeline
from headwater.rank.qr import QRRetriever
from headwater.search.bm25 import BM25

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

EXAMPLES, CONTRASTED, RANDOM_SETS, CANDIDATES, READ, SHOWN, TOP = 48, 24, 5, 20, 5, 6, 5


def run(
    lm: LanguageModel, questions: int = 60, seed: int = 0, progress: Progress = no_progress, command: str = "demo"
) -> dict[str, Any]:
    """Run the demo.

    Args:
        lm: the model.
        questions: how many held-out questions are ranked and how many are read.
        seed: of questions, candidates and random heads.
        progress: called with a label, gives a function of (done, total).
        command: written into the result.

    Returns:
        What `headwater.evaluate.report.write_report` and result.json hold: heads, ranking, reading, questions, made,
        explorer.

    Raises:
        InputError: for more questions than the world has, or fewer than two.
    """
    require()
    started = time.perf_counter()
    found_on = world.ranking_examples("development", EXAMPLES, CANDIDATES, seed=seed)
    found = QueryFocusedHeads(seed=seed).find(lm, found_on, progress=progress("finding heads"))
    sets = {QR: found, ALL: HeadSet(lm.anatomy.all_heads)}
    for i in range(RANDOM_SETS):
        sets[f"{RANDOM} {i}"] = RandomHeads(top_k=len(found), seed=seed + i).find(lm)
    examples = world.ranking_examples("held_out", questions, CANDIDATES, seed=seed)
    ranked = rank_questions(examples, [head_scorer(lm, sets), keyword_scorer(examples)], None, progress("ranking"))
    readings = world.reading_examples("held_out", questions, READ, seed=seed)
    read = read_questions(lm, readings, seed, None, progress("reading"))
    questions_shown = _varied(world.questions("held_out", seed=seed), SHOWN)
    shown, asked = show_questions(lm, sets, questions_shown, progress("answering"))
    contrastive = ContrastiveHeads(top_k=len(found), seed=seed)
    explored = {
        "query-focused": found,
        "contrastive": contrastive.find(lm, found_on[:CONTRASTED], progress=progress("finding contrastive heads")),
        "random": sets[f"{RANDOM} 0"],
    }
    return {
        "heads": {
            "chosen": [list(head) for head in found.heads],
            "scores": [] if found.scores is None else found.scores.tolist(),
            "examples": len(found_on),
            "countries": len({example.group for example in found_on}),
        },
        "ranking": summarise_ranking(ranked, sets, lm, seed),
        "reading": summarise_reading(read, seed),
        "questions": shown,
        "explorer": explorer(lm, explored, asked),
        "made": made_with(
            command, lm.name, seed, fingerprint=lm.fingerprint, seconds=round(time.perf_counter() - started, 1)
        ),
    }


def show_questions(
    lm: LanguageModel, sets: Mapping[str, HeadSet], questions: Sequence[world.Question], step: Any
) -> tuple[list[dict[str, Any]], list[RankingExample]]:
    """Answer questions from all held-out documents, and lay the rankings of the same candidates side by side.

    Returns:
        A record per question, and the questions with their candidates.
    """
    corpus = BM25(world.documents("held_out"))
    ranker = QRRetriever(lm, heads=sets[QR])
    every = QRRetriever(lm, heads=sets[ALL])
    pipeline = Pipeline(lm, corpus, ranker, candidates=CANDIDATES, read=READ)
    out, asked = [], []
    for done, question in enumerate(questions):
        step(done, len(questions))
        answer = pipeline.ask(question.text)
        keywords = [hit.document for hit in corpus.search(question.text, CANDIDATES)]
        gold = [place for place, document in enumerate(keywords) if _gold(document, question)]
        asked.append(RankingExample(question.text, keywords, gold, question.id, question.country))
        orders = {
            QR: [ranked.document for ranked in answer.ranking],
            ALL: [ranked.document for ranked in every.rank(question.text, keywords)],
            KEYWORDS: keywords,
        }
        out.append(
            {
                "id": question.id,
                "text": question.text,
                "answers": list(question.answers),
                "rankings": {name: _places(documents, question) for name, documents in orders.items()},
                "tokens": _tokens(ranker, question, orders[QR]),
                "answer": {
                    "text": answer.text,
                    "correct": world.exact_match(answer.text, question.answers),
                    "supported": answer.supported,
                    "citations": [citation._asdict() for citation in answer.citations],
                },
            }
        )
    step(len(questions), len(questions))
    return out, asked


def _varied(questions: Sequence[world.Question], count: int) -> list[world.Question]:
    """The first questions that repeat neither country nor relation."""
    out: list[world.Question] = []
    for question in questions:
        if all(question.country != other.country and question.relation != other.relation for other in out):
            out.append(question)
        if len(out) == count:
            break
    return out


def _gold(document: Document, question: world.Question) -> bool:
    return document.metadata["country"] == question.country and question.relation in document.metadata["relations"]


def _places(documents: Sequence[Document], question: world.Question) -> list[dict[str, Any]]:
    """The first places of a ranking, and the gold document's where it came later."""
    entries = [
        {
            "rank": place,
            "id": document.id,
            "title": document.title,
            "text": document.text,
            "gold": _gold(document, question),
        }
        for place, document in enumerate(documents, 1)
    ]
    return entries[:TOP] + [entry for entry in entries[TOP:] if entry["gold"]]


def _tokens(ranker: QRRetriever, question: world.Question, ranking: Sequence[Document]) -> list[dict[str, Any]]:
    """What the heads looked at in the three best documents, shaded by the strongest token of the list."""
    explained = ranker.explain(question.text, ranking)
    largest = max((token.weight for tokens in explained.tokens for token in tokens), default=0.0)
    return [
        {
            "id": document.id,
            "gold": _gold(document, question),
            "tokens": [[token.text, round(token.weight, 6)] for token in explained.tokens[place]],
            "largest": round(largest, 6),
        }
        for place, document in enumerate(ranking[:3])
    ]
