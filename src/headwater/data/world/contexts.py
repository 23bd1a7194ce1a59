"""Context against memory: edited documents, and documents that do not hold the answer."""

from __future__ import annotations

import random

from headwater.data.documents import Document
from headwater.data.world.answers import states
from headwater.data.world.corpus import document, stating
from headwater.data.world.examples import (
    ReadingExample,
    check_counts,
    distractors,
    enough,
    mixed,
)
from headwater.data.world.factbook import countries, facts
from headwater.data.world.wordings import Question, accepted, questions


def other_answer(question: Question, draw: random.Random) -> str | None:
    """An answer that the relation has for a known country and that cannot be taken for the true one (None: none)."""
    true, title = question.answers[0], question.country
    values = {facts(c)[question.relation] for c in countries("known") if question.relation in facts(c)}
    fit = sorted(v for v in values if not states(v, true) and not states(true, v) and not states(title, v))
    return draw.choice(fit) if fit else None


def counterfactual(question: Question, answer: str) -> Document:
    """The gold document with `answer` in place of the true one; other facts that would give either away are left out.

    Raises:
        InputError: for a country or relation that the world does not have.
    """
    country, relation = question.country, question.relation
    values = facts(country)
    kept = [
        name
        for name in stating(country, relation).metadata["relations"]
        if name == relation or not any(states(values[name], a) for a in (question.answers[0], answer))
    ]
    return document(country, kept, edits={relation: answer})


def conflict_examples(
    split: str, n: int, documents: int = 1, seed: int = 0, wording: int | None = None, hard: bool = False
) -> list[ReadingExample]:
    """`n` questions whose gold document was edited to state another country's answer.

    `question.answers` is what the world says (and a model that knows the country remembers), `stated` what the document
    says. No document states the true answer, and no distractor states the edited one. Questions for which no other
    answer can be told apart from the true one are skipped.

    Raises:
        InputError: for an unknown split, or numbers that cannot be met.
    """
    check_counts(n, documents)
    out: list[ReadingExample] = []
    for q in questions(split, seed, wording):
        if len(out) == n:
            break
        draw = random.Random(f"headwater/conflict/{q.id}/{seed}/{documents}/{hard}")
        answer = other_answer(q, draw)
        if answer is not None:
            others = distractors(q, split, documents - 1, draw, hard, avoid=(q.answers[0], answer))
            out.append(mixed(q, counterfactual(q, answer), others, accepted(q.relation, answer), draw))
    return enough(out, n, split)


def noise_examples(
    split: str, n: int, documents: int = 4, seed: int = 0, wording: int | None = None, hard: bool = False
) -> list[ReadingExample]:
    """`n` questions with `documents` documents none of which states the answer; distractors as in `ranking_examples`.

    Raises:
        InputError: for an unknown split, or numbers that cannot be met.
    """
    check_counts(n, documents)
    out = []
    for q in questions(split, seed, wording, limit=n):
        draw = random.Random(f"headwater/noise/{q.id}/{seed}/{documents}/{hard}")
        shown = distractors(q, split, documents, draw, hard, avoid=q.answers[:1])
        draw.shuffle(shown)
        out.append(ReadingExample(q, tuple(shown), (), ()))
    return enough(out, n, split)
