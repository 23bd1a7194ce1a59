"""Documents that state facts of a country, and the corpus of all of them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache

from headwater.data.documents import Document
from headwater.data.world.factbook import countries, facts, relation_named
from headwater.errors import InputError

LONGEST_DOCUMENT = 200  # characters of text; below 80 tokens of the embedded model


def slug(country: str) -> str:
    """The country's name as a part of an id."""
    return re.sub(r"[^\w]+", "-", country.lower())


def document(country: str, relations: Sequence[str], edits: Mapping[str, str] | None = None) -> Document:
    """A document that states facts of a country: ``The capital of Algeria is Algiers.``, country as title.

    Args:
        country: the country.
        relations: what to state, in order.
        edits: answers to put in place of the true ones (a counterfactual document).

    Raises:
        InputError: for an unknown country, a relation it has no answer for, or an empty list.
    """
    answers = facts(country)
    if isinstance(relations, str) or not relations:
        raise InputError("Give a non-empty list of relation names for the document.")
    for name in relations:
        if name not in answers:
            raise InputError(f"The fact world has no {relation_named(name).label.lower()} of {country}.")
    values = {name: (edits or {}).get(name, answers[name]) for name in relations}
    text = " ".join(f"{relation_named(name).statement.format(c=country)} {value}." for name, value in values.items())
    kind = "/edited" if any(values[name] != answers[name] for name in relations) else ""
    metadata = {"country": country, "relations": tuple(relations)}
    return Document(text, id=f"{slug(country)}/{'+'.join(relations)}{kind}", title=country, metadata=metadata)


@cache
def grouped(country: str, grouping: int = 0) -> tuple[Document, ...]:
    """All facts of a country in documents of one to four, each fact once; another `grouping` deals them otherwise."""
    draw = random.Random(f"headwater/{country}/{grouping}")
    names = list(facts(country))
    draw.shuffle(names)
    out: list[Document] = []
    while names:
        size = draw.choices((1, 2, 3, 4), (25, 35, 25, 15))[0]
        while size > 1 and len(document(country, names[:size]).text) > LONGEST_DOCUMENT:
            size -= 1
        out.append(document(country, names[:size]))
        names = names[size:]
    return tuple(out)


def stating(country: str, relation: str) -> Document:
    """The document of the corpus that states a fact."""
    return next(doc for doc in grouped(country) if relation in doc.metadata["relations"])


def documents(split: str | None = None) -> list[Document]:
    """The corpus: every fact of the split's countries (None: all countries) in exactly one document of 1-4 facts."""
    return [doc for country in countries(split) for doc in grouped(country)]
