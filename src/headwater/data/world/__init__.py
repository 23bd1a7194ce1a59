"""The fact world: short real facts about countries, questions about them, and documents that state them.

Facts come from the World Factbook (public domain, CC0) and ship with the package (`data/factbook`). Every country is in
one split: ``known`` (the embedded model was trained on it), ``development`` (for finding heads and choosing settings)
or ``held_out`` (for reporting). No training text of the embedded model names a country of the last two.

Everything is a function of its arguments and the seed. Usable with any model; needs nothing but the standard library.

Facts: `RELATIONS`, `countries`, `facts`, `neighbours`, `majority_answer`. Texts: `document`, `documents`, `questions`.
Examples: `reading_examples` (gold among distractors; about known countries: agreement), `conflict_examples`
(counterfactual document), `noise_examples` (no document holds the answer), `needle_examples` (a fact in foreign text),
`long_examples` (a fact among many others in one long text), `hop_examples` (two documents are needed),
`ranking_examples` (for rankers and head detectors). Answers: `normalise`, `exact_match`, `states`.
"""

from __future__ import annotations

from headwater.data.world.answers import exact_match, normalise, states
from headwater.data.world.contexts import conflict_examples, counterfactual, noise_examples
from headwater.data.world.corpus import LONGEST_DOCUMENT, document, documents
from headwater.data.world.examples import ReadingExample, ranking_examples, reading_examples
from headwater.data.world.factbook import (
    SPLITS,
    Relation,
    countries,
    facts,
    majority_answer,
    neighbours,
    relations,
)
from headwater.data.world.hops import border_document, hop_examples
from headwater.data.world.long import long_examples
from headwater.data.world.needle import needle_examples
from headwater.data.world.wordings import Question, questions

__all__ = [
    "LONGEST_DOCUMENT",
    "RELATIONS",
    "SPLITS",
    "Question",
    "ReadingExample",
    "Relation",
    "border_document",
    "conflict_examples",
    "counterfactual",
    "countries",
    "document",
    "documents",
    "exact_match",
    "facts",
    "hop_examples",
    "long_examples",
    "majority_answer",
    "needle_examples",
    "neighbours",
    "noise_examples",
    "normalise",
    "questions",
    "ranking_examples",
    "reading_examples",
    "states",
]


def __getattr__(name: str) -> dict[str, Relation]:
    """`RELATIONS`: relation name -> `Relation`, read on first use."""
    if name == "RELATIONS":
        return relations()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
