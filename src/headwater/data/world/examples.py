"""Reading and ranking examples: one document that states the answer among distractors that do not."""

from __future__ import annotations

import difflib
import random
from dataclasses import dataclass
from functools import cache

from headwater.data.documents import Document, RankingExample
from headwater.data.world.answers import states
from headwater.data.world.corpus import grouped, stating
from headwater.data.world.factbook import countries, facts
from headwater.data.world.wordings import Question, questions
from headwater.errors import InputError


@dataclass(frozen=True)
class ReadingExample:
    """A question, the documents to read, and what they state.

    Attributes:
        question: the question; its `answers` are the true ones.
        documents: what is shown, shuffled.
        gold: indices of the documents that are needed to answer, in the order in which they are needed; empty where
            no document states an answer.
        stated: the answers that the gold documents state: the true ones, others after a counterfactual edit, none
            where there is only noise.
    """

    question: Question
    documents: tuple[Document, ...]
    gold: tuple[int, ...]
    stated: tuple[str, ...]


@cache
def look_alikes(country: str, pool: tuple[str, ...]) -> tuple[str, ...]:
    """The pool, most confusable first: shared letters and words of the name, and the same region."""

    def likeness(other: str) -> float:
        letters = difflib.SequenceMatcher(None, country.lower(), other.lower()).ratio()
        words = len(set(country.lower().split()) & set(other.lower().split()))
        same_region = facts(country).get("region") == facts(other).get("region")
        return letters + 0.5 * words + 0.3 * same_region

    return tuple(sorted((c for c in pool if c != country), key=lambda other: (-likeness(other), other)))


def gives(doc: Document, answer: str) -> bool:
    """Whether the document's title or one of its values states the answer (`is` of the sentences is not `.is`)."""
    values = facts(str(doc.title))
    return any(states(text, answer) for text in (str(doc.title), *(values[r] for r in doc.metadata["relations"])))


def distractors(
    question: Question, split: str, count: int, draw: random.Random, hard: bool, avoid: tuple[str, ...]
) -> list[Document]:
    """`count` documents without any of the answers to `avoid`: half about the asked country, half about the relation.

    Those about the relation are of other countries of the split and, where these are not enough, of known ones.

    Raises:
        InputError: the world has fewer of them.
    """
    country, relation = question.country, question.relation
    others = count // 2

    def harmless(doc: Document) -> bool:
        return not any(gives(doc, answer) for answer in avoid)

    own: dict[str | None, Document] = {}
    for grouping in range(8):  # a country with few documents lends the same facts in other groups
        fresh = [d for d in grouped(country, grouping) if d.id not in own and relation not in d.metadata["relations"]]
        draw.shuffle(fresh)
        own.update({d.id: d for d in fresh if harmless(d)})
        if len(own) >= others:
            break
    chosen = list(own.values())[:others]
    pool = tuple(c for c in (countries(split) + (countries("known") if hard else ())) if c != country)
    order = list(look_alikes(country, tuple(dict.fromkeys(pool))) if hard else draw.sample(pool, len(pool)))

    def add(names: list[str]) -> None:
        for other in names:
            if len(chosen) == count:
                break
            chosen.extend(d for d in grouped(other) if relation in d.metadata["relations"] and harmless(d))

    add(order)
    if len(chosen) < count:  # drawn only now, so that lists which the split can fill stay what they are
        more = [other for other in countries("known") if other != country and other not in order]
        add(draw.sample(more, len(more)))
    if len(chosen) < count:
        raise InputError(
            f"Only {len(chosen)} distractors can be built for {question.text!r} in split {split!r}; "
            "ask for fewer documents."
        )
    return chosen


def check_counts(n: int, documents: int) -> None:
    """Refuse a negative number of examples, or examples without documents."""
    if n < 0 or documents < 1:
        raise InputError(f"Need n >= 0 and at least 1 document, got n={n}, documents={documents}.")


def enough(examples: list[ReadingExample], n: int, split: str) -> list[ReadingExample]:
    """The examples, if there are `n` of them."""
    if len(examples) < n:
        raise InputError(f"Split {split!r} has {len(examples)} questions of this kind, asked for {n}.")
    return examples


def mixed(
    question: Question, gold: Document, others: list[Document], stated: tuple[str, ...], draw: random.Random
) -> ReadingExample:
    """One gold document, shuffled among the others."""
    documents = [gold, *others]
    draw.shuffle(documents)
    return ReadingExample(question, tuple(documents), (documents.index(gold),), stated)


def reading_examples(
    split: str, n: int, documents: int = 5, seed: int = 0, wording: int | None = None, hard: bool = False
) -> list[ReadingExample]:
    """`n` questions with one document that states the answer among `documents`; distractors as in `ranking_examples`.

    About known countries these are the *agreement* examples: memory and context say the same.

    Raises:
        InputError: for an unknown split, or numbers that cannot be met.
    """
    check_counts(n, documents)
    out = []
    for q in questions(split, seed, wording, limit=n):
        draw = random.Random(f"headwater/candidates/{q.id}/{seed}/{documents}/{hard}")
        others = distractors(q, split, documents - 1, draw, hard, avoid=q.answers[:1])
        out.append(mixed(q, stating(q.country, q.relation), others, q.answers, draw))
    return enough(out, n, split)


def ranking_examples(
    split: str, n: int, candidates: int = 20, seed: int = 0, wording: int | None = None, hard: bool = False
) -> list[RankingExample]:
    """`n` questions with `candidates` documents each, of which one states the answer.

    Half of the distractors state the same relation of other countries of the same split (and of known ones, where the
    split has too few), half state other relations of the asked country; none states the answer. `hard=True` takes the
    countries from the split and the known ones together, those with look-alike names or in the same region first.
    `group` is the country.

    Raises:
        InputError: for an unknown split, or numbers that cannot be met.
    """
    if candidates < 2:
        raise InputError(f"Ranking needs at least 2 candidates, got {candidates}.")
    return [
        RankingExample(
            e.question.text,
            e.documents,
            [e.documents[e.gold[0]].id or e.gold[0]],
            id=e.question.id,
            group=e.question.country,
        )
        for e in reading_examples(split, n, candidates, seed, wording, hard)
    ]
