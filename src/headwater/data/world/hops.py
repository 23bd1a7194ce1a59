"""Questions that need two documents: the capital of the country that has a border of so many km with this one."""

from __future__ import annotations

import random

from headwater.data.documents import Document
from headwater.data.world.answers import states
from headwater.data.world.corpus import slug, stating
from headwater.data.world.examples import ReadingExample, check_counts, distractors, enough, gives
from headwater.data.world.factbook import countries, facts, neighbours, relation_named
from headwater.data.world.wordings import Question, accepted
from headwater.errors import InputError

WORDINGS = (
    "What is the {relation} of the country that has a border of {length} with {country}?",
    "A country has a border of {length} with {country}. What is its {relation}?",
    "Which {relation} has the neighbour of {country} whose border is {length}?",
)
MOST_BORDERS = 4  # sentences of a border document at most


def border_document(country: str, others: list[str]) -> Document:
    """A document that states how long the borders of a country with some of its neighbours are.

    Raises:
        InputError: for an unknown country, or one that is no neighbour.
    """
    lengths = neighbours(country)
    strange = [name for name in others if name not in lengths]
    if strange or not others:
        raise InputError(f"{country} has no border with {strange[0] if strange else 'nobody'} in the fact world.")
    text = " ".join(f"The border of {country} with {name} is {lengths[name]}." for name in others)
    metadata = {"country": country, "relations": (), "neighbours": tuple(others)}
    return Document(text, id=f"{slug(country)}/borders", title=country, metadata=metadata)


def hop_examples(
    split: str, n: int, documents: int = 5, seed: int = 0, wording: int | None = None
) -> list[ReadingExample]:
    """`n` two-hop questions: one document gives the neighbour by the length of its border, another its fact.

    The asked country is of the split, its neighbour may be of any. Distractors: half state other facts of the right
    neighbour, half the asked relation of other countries, neighbours of the asked one first; none states the answer.
    `gold` holds the border document, then the document with the fact; `question.country` is the country named in the
    question. There is one question for each neighbour at most.

    Args:
        split: of the asked countries.
        n: number of examples.
        documents: shown in all, at least 2.
        seed: of the order and of everything drawn.
        wording: index into `hops.WORDINGS` (-1: the one no training text has); None draws one of the others.

    Raises:
        InputError: for an unknown split or wording, or numbers that cannot be met.
    """
    check_counts(n, documents - 1)
    if wording is not None and not -len(WORDINGS) <= wording < len(WORDINGS):
        raise InputError(f"Two-hop questions have wordings 0 to {len(WORDINGS) - 1} (-1: the last), got {wording}.")
    draw = random.Random(f"headwater/hops/{split}/{seed}/{documents}")
    pairs = [(country, other) for country in countries(split) for other in neighbours(country)]
    draw.shuffle(pairs)
    out: list[ReadingExample] = []
    for country, other in pairs:
        if len(out) == n:
            break
        lengths = neighbours(country)
        if list(lengths.values()).count(lengths[other]) > 1:
            continue
        relation = draw.choice(list(facts(other)))
        answer = facts(other)[relation]
        bridge = border_document(country, _some(country, other, draw))
        if states(bridge.text, answer):
            continue
        index = draw.randrange(len(WORDINGS) - 1) if wording is None else wording
        noun = relation_named(relation).noun
        text = WORDINGS[index].format(relation=noun, length=lengths[other], country=country)
        name = f"{slug(country)}/{slug(other)}/{relation}/{index % len(WORDINGS)}"
        asked = Question(text, country, relation, accepted(relation, answer), name)
        about = Question(text, other, relation, asked.answers, name)
        siblings = [stating(c, relation) for c in lengths if c != other and relation in facts(c)]
        near = [doc for doc in siblings if not gives(doc, answer)][: (documents - 2) // 2]
        more = distractors(about, split, documents - 2, draw, False, avoid=(answer,))
        rest = [doc for doc in more if doc not in near][: documents - 2 - len(near)]
        gold = stating(other, relation)
        shown = [bridge, gold, *near, *rest]
        draw.shuffle(shown)
        out.append(ReadingExample(asked, tuple(shown), (shown.index(bridge), shown.index(gold)), asked.answers))
    return enough(out, n, split)


def _some(country: str, other: str, draw: random.Random) -> list[str]:
    """The right neighbour and up to three more, shuffled."""
    more = [name for name in neighbours(country) if name != other]
    some = [other, *draw.sample(more, min(len(more), MOST_BORDERS - 1))]
    draw.shuffle(some)
    return some
