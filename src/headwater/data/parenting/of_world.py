"""The fact world as questions to probe with."""

from __future__ import annotations

import random

from headwater.data import world
from headwater.data.documents import Document
from headwater.data.parenting.questions import Passage, ProbeQuestion, QuestionSet
from headwater.data.world.contexts import counterfactual, other_answer
from headwater.data.world.corpus import slug, stating
from headwater.data.world.wordings import accepted, question

PLACED = {"development": "development", "held_out": "test"}


def world_questions() -> QuestionSet:
    """Every fact of the fact world that the most frequent answer of its relation does not get right.

    Groups are countries. Development countries are for development and held-out ones for test; only known countries
    may train, and those that do serve for nothing else. The same topic is the same country or the same relation.
    Edited documents are the world's own counterfactual ones.
    """
    found: list[ProbeQuestion] = []
    for country in world.countries():
        for relation, answer in world.facts(country).items():
            answers = accepted(relation, answer)
            if world.exact_match(world.majority_answer(relation), answers):
                continue  # a guess gets it right, so nothing shows whether it is known
            *wordings, unseen = world.RELATIONS[relation].questions  # no training text has the last one
            found.append(
                ProbeQuestion(
                    f"world/{slug(country)}/{relation}",
                    country,
                    tuple(wording.format(c=country) for wording in wordings),
                    answers,
                    str(stating(country, relation).id),
                    (unseen.format(c=country),),
                    relation,
                )
            )
    passages = [
        Passage(document, str(document.metadata["country"]), frozenset(document.metadata["relations"]))
        for document in world.documents()
    ]
    placed = {country: split for name, split in PLACED.items() for country in world.countries(name)}
    return QuestionSet("world", tuple(found), tuple(passages), placed=placed, editor=_edited)


def _edited(asked: ProbeQuestion, draw: random.Random) -> tuple[Document, tuple[str, ...]] | None:
    """The world's counterfactual document."""
    fact = question(asked.group, asked.field, 0, draw)
    other = other_answer(fact, draw)
    return None if other is None else (counterfactual(fact, other), accepted(asked.field, other))
