"""What a task is: examples, and a score for each output. A task knows no system and no model.

There are five kinds, by what a system is asked for:

| kind | item | output |
|---|---|---|
| ranking | a query and its candidate documents | the ids of the candidates, best first |
| search | a query; the documents are the task's `corpus` | document ids, best first |
| reading | a question and documents, perhaps none | the answer, a string |
| choice | a prompt and its possible continuations | one log probability per continuation |
| text | a text | its `TextLoss` under a language model |
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from headwater.data.documents import Document
from headwater.errors import InputError


@dataclass(frozen=True)
class Item:
    """One example.

    Attributes:
        id: unique within its task.
        group: what items have in common (a country, an article); intervals resample groups.
        facets: what results are broken down by, for example ``{"position": "3"}``.
        unit: items of one unit (a question at every position, alone and beside documents) are sampled together; by
            default every item is its own.
    """

    id: str
    group: str
    facets: Mapping[str, str] = field(default_factory=dict, kw_only=True, hash=False)
    unit: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class RankingItem(Item):
    """A query with candidates in first-stage order; every candidate has an id of its own."""

    query: str
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class SearchItem(Item):
    """A query to the whole corpus."""

    query: str


@dataclass(frozen=True)
class ReadingItem(Item):
    """A question to answer from documents.

    Attributes:
        answers: what counts as right; empty where abstaining is right.
        others: answers that give something away: the memory's where documents were edited, a wrong document's.
        gold: places of the documents that are needed to answer.
    """

    question: str
    documents: tuple[Document, ...]
    answers: tuple[str, ...]
    others: tuple[str, ...] = ()
    gold: tuple[int, ...] = ()


@dataclass(frozen=True)
class ChoiceItem(Item):
    """A prompt and its continuations, of which the one at `right` is wanted."""

    prompt: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class TextItem(Item):
    """A text to predict."""

    text: str


class TextLoss(NamedTuple):
    """Summed negative log likelihood (nats) of a text, its tokens that were predicted, and its UTF-8 bytes."""

    nats: float
    tokens: int
    bytes: int


class Task(ABC):
    """Base of all tasks.

    Attributes:
        kind: "ranking", "search", "reading", "choice" or "text".
        metrics: names of what `score` gives, the headline first.
        lower_is_better: the metrics among them of which less is better.
        name: in results; set by whoever builds the task.
        definition: the form and the arguments it was built from, as they go into a run's configuration.
        notes: what a reader of the results should know (documents dropped, questions sampled); grows in `load`.
    """

    kind: ClassVar[str]
    metrics: tuple[str, ...]
    lower_is_better: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        """Start without notes."""
        self.name = type(self).__name__
        self.definition: dict[str, Any] = {}
        self.notes: list[str] = []

    @abstractmethod
    def load(self) -> Sequence[Any]:
        """All items, of the class that goes with `kind`; reads files, called once.

        Raises:
            InputError: a file is missing; the message says which.
            FormatError: a file is not what it should be.
        """

    @abstractmethod
    def score(self, item: Any, output: Any) -> dict[str, float]:
        """One value per metric for what a system gave for an item; empty for an item that only serves `finish`."""

    def relevant(self, item: Any) -> list[str]:
        """Ids of the documents that a ranking or search should find, best first; none for other kinds."""
        return []

    @property
    def corpus(self) -> Sequence[Document]:
        """Every document of the task; search systems look here, BM25 takes its word statistics from it.

        Empty where items bring all there is.
        """
        return ()

    @cached_property
    def by_id(self) -> dict[str, Document]:
        """The corpus by id."""
        return {str(document.id): document for document in self.corpus}

    def finish(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Figures that need all records of a system together (each has "id", "scores", "output"); default: none."""
        return {}


def sample(items: Sequence[Any], limit: int | None, name: str) -> list[Any]:
    """`limit` units of the items, drawn by a fixed seed and in their own order; all where there are no more.

    Raises:
        InputError: for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"A task needs at least 1 example, got a limit of {limit}.")
    units = list(dict.fromkeys(item.unit or item.id for item in items))
    if limit is None or limit >= len(units):
        return list(items)
    kept = set(random.Random(f"headwater/sample/{name}").sample(units, limit))
    return [item for item in items if (item.unit or item.id) in kept]
