"""Questions about single facts."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from headwater.data.world.corpus import slug
from headwater.data.world.factbook import countries, facts, relation_named
from headwater.errors import InputError


@dataclass(frozen=True)
class Question:
    """A question about one fact.

    Attributes:
        text: the question.
        country: whom it is about.
        relation: name of the relation it asks for.
        answers: accepted answers, the Factbook's own first.
        id: stable name, ``country/relation/wording``.
    """

    text: str
    country: str
    relation: str
    answers: tuple[str, ...]
    id: str


def accepted(relation: str, answer: str) -> tuple[str, ...]:
    """The answer, and for a number with a unit the bare number too."""
    bare = re.match(r"^\$?([\d.,]+)(?! [mb]illion)", answer)
    if relation_named(relation).kind == "number" and bare and bare.group(1) != answer:
        return (answer, bare.group(1))
    return (answer,)


def questions(split: str, seed: int = 0, wording: int | None = None, limit: int | None = None) -> list[Question]:
    """One question per fact of the split, shuffled by the seed.

    Args:
        split: ``known``, ``development`` or ``held_out``.
        seed: of the order, and of the wordings where they are drawn.
        wording: index into `Relation.questions` (-1: the wording no training text has); None draws one of the others.
        limit: keep the first so many.

    Raises:
        InputError: for an unknown split, wording or limit.
    """
    names = countries(split)
    draw = random.Random(f"headwater/questions/{split}/{seed}")
    pairs = [(country, relation) for country in names for relation in facts(country)]
    draw.shuffle(pairs)
    if limit is not None and limit < 0:
        raise InputError(f"limit must not be negative, got {limit}.")
    return [question(country, relation, wording, draw) for country, relation in pairs[:limit]]


def question(country: str, relation: str, wording: int | None, draw: random.Random) -> Question:
    """The question for one fact; `wording` as in `questions`."""
    wordings = relation_named(relation).questions
    index = draw.randrange(len(wordings) - 1) if wording is None else wording
    if not -len(wordings) <= index < len(wordings):
        raise InputError(f"Relation {relation!r} has wordings 0 to {len(wordings) - 1} (-1: the last), got {wording}.")
    answers = accepted(relation, facts(country)[relation])
    name = f"{slug(country)}/{relation}/{index % len(wordings)}"
    return Question(wordings[index].format(c=country), country, relation, answers, name)
