"""What contrastive tuning trains on: queries with positives and negatives, dealt into batches (llara.md 3.6, 3.8)."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from headwater.adapt.listwise import held_out
from headwater.data import world
from headwater.data.documents import Document, RankingExample, as_documents
from headwater.errors import InputError
from headwater.search.mine import document_keys, text_key

logger = logging.getLogger("headwater")

MOST_NEGATIVES = 15
BUILT_IN = 1024  # training questions where none are given, about the known countries
BUILT_IN_DEVELOPMENT = 64


def to_train_and_check(
    train: Sequence[RankingExample] | None, development: Sequence[RankingExample] | None, seed: int
) -> tuple[list[RankingExample], list[RankingExample]]:
    """What is trained on, and what the best step is chosen on (nothing: the last step is kept).

    Args:
        train: None: questions about the known countries of the fact world.
        development: None: a tenth of the groups of `train`, or questions about other countries beside the built-in
            ones.
        seed: of which tenth.

    Raises:
        InputError: `development` holds examples, and none of them a gold document with text.
    """
    if train is None:
        train = world.ranking_examples("known", BUILT_IN)
        if development is None:
            development = world.ranking_examples("development", BUILT_IN_DEVELOPMENT)
    if development is None:
        kept, held = held_out(list(train), seed)
        return kept, held if any(map(_good, held)) else []
    if development and not any(map(_good, development)):
        raise InputError(
            "No development example has a gold document with text, so no step can be chosen on them; give others, or "
            "an empty list to keep the last step."
        )
    return list(train), list(development)


def _good(example: RankingExample) -> tuple[Document, ...]:
    """Its gold documents that have text."""
    pairs = zip(as_documents(example.documents), example.grades(), strict=True)
    return tuple(document for document, grade in pairs if grade > 0 and not document.blank)


@dataclass(frozen=True)
class TrainingQuery:
    """A query and its passages.

    Attributes:
        query: its text.
        positives: documents with a grade above 0.
        negatives: its other documents.
        known: keys of all positives that any example gives for this query.
    """

    query: str
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...]
    known: frozenset[str]


def training_queries(examples: Sequence[RankingExample], negatives: int | None) -> tuple[list[TrainingQuery], int]:
    """Queries to train on, and how many negatives each of them gets.

    Args:
        examples: those without a positive that has text are left out, with a log line.
        negatives: of each query; None: as many as every query has, at most 15.

    Raises:
        InputError: nothing is left, or a query has fewer negatives than asked for.
    """
    found = []
    known: dict[str, frozenset[str]] = {}
    for example in examples:
        good = _good(example)
        if not good:
            continue
        pairs = zip(as_documents(example.documents), example.grades(), strict=True)
        keys = frozenset().union(*map(document_keys, good))
        name = text_key(example.query)
        known[name] = known.get(name, frozenset()) | keys
        rest = [document for document, grade in pairs if not grade > 0 and not document.blank]
        found.append((example.query, good, rest))
    if len(found) < len(examples):
        logger.warning("%d examples have no gold document with text; they are left out.", len(examples) - len(found))
    if not found:
        raise InputError("No example has a gold document that can be read, so there is nothing to train on.")
    queries = []
    for query, good, rest in found:
        own = known[text_key(query)]
        clean = tuple(document for document in rest if own.isdisjoint(document_keys(document)))
        queries.append(TrainingQuery(query, good, clean, own))
    fewest = min(queries, key=lambda each: len(each.negatives))
    if negatives is None:
        negatives = min(MOST_NEGATIVES, len(fewest.negatives))
        if negatives < min(MOST_NEGATIVES, max(len(each.negatives) for each in queries)):
            logger.warning(
                "Every query gets %d negatives, as %r has no more: mine more, or leave it out.",
                negatives,
                fewest.query[:80],
            )
        return queries, negatives
    if len(fewest.negatives) < negatives:
        raise InputError(
            f"The query {fewest.query[:80]!r} has {len(fewest.negatives)} negatives, not {negatives}: mine more "
            "(`headwater llara mine`), or ask for fewer with negatives=."
        )
    return queries, negatives


@dataclass(frozen=True)
class Dealt:
    """A query in a batch.

    Attributes:
        index: of the query in the list of all.
        round: how often the query was dealt before.
        documents: a positive, then the negatives.
    """

    index: int
    round: int
    documents: tuple[Document, ...]


class Deck:
    """Deals queries into batches, each query once before any comes again; the same for the same seed."""

    def __init__(self, queries: Sequence[TrainingQuery], share: int, negatives: int, seed: int) -> None:
        """Each batch holds `share` queries, each with one positive and so many negatives."""
        self.queries, self.share, self.negatives, self.seed = list(queries), share, negatives, seed
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def batch(self, number: int) -> list[Dealt]:
        """The batch of this number, from 0."""
        places = range(number * self.share, (number + 1) * self.share)
        return [self._dealt(*divmod(place, len(self.queries))) for place in places]

    def _shuffled(self, round_: int) -> list[int]:
        return random.Random(f"{self.seed}:{round_}").sample(range(len(self.queries)), len(self.queries))

    def _dealt(self, round_: int, place: int) -> Dealt:
        index = self._order(round_)[place]
        own = self.queries[index]
        draw = random.Random(f"{self.seed}:{round_}:{index}")
        return Dealt(index, round_, (draw.choice(own.positives), *draw.sample(own.negatives, self.negatives)))
