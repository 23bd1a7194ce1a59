"""Rankings without a model: the order that is there, keywords, and run files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headwater.data.formats import read_run
from headwater.errors import InputError
from headwater.evaluate.metrics import order, trec_order
from headwater.evaluate.systems.system import System
from headwater.evaluate.tasks.search import DEPTH
from headwater.evaluate.tasks.task import RankingItem, SearchItem, Task
from headwater.search.bm25 import BM25


class FirstStage(System):
    """The candidates in the order in which the task gives them."""

    def run(self, item: RankingItem) -> list[str]:
        """Ids as given."""
        return [str(document.id) for document in item.documents]


class Keywords(System):
    """BM25 (bm25s, k1 0.9, b 0.4) with the word statistics of the task's whole corpus."""

    def prepare(self, task: Task, items: Sequence[Any]) -> None:
        """Index the corpus, or the candidates of all items where the task has none."""
        documents = list(task.corpus)
        if not documents:
            documents = list({d.id: d for item in items for d in item.documents}.values())
        self._index = BM25(documents) if documents else None
        self._places = {str(document.id): place for place, document in enumerate(documents)}

    def run(self, item: RankingItem | SearchItem) -> list[str]:
        """Ids by score, ties in the order given; a search leaves out documents without any query word."""
        if self._index is None:
            return []
        if isinstance(item, SearchItem):
            return [str(hit.document.id) for hit in self._index.search(item.query, DEPTH) if hit.score > 0]
        names = [str(document.id) for document in item.documents]
        scores = self._index.scores(item.query)[[self._places[name] for name in names]]
        return [names[place] for place in order(scores)]

    def describe(self) -> dict[str, Any]:
        """k1 and b."""
        return {} if self._index is None else {"k1": self._index.k1, "b": self._index.b}


class RunFile(System):
    """A TREC run made elsewhere, in trec_eval's order.

    Args:
        path: the run file.
    """

    def __init__(self, path: str) -> None:
        """Read the run.

        Raises:
            InputError: no such file.
            FormatError: not a TREC run.
        """
        self.path = path
        self._listed = {query: trec_order(pairs) for query, pairs in read_run(path).items()}

    def prepare(self, task: Task, items: Sequence[Any]) -> None:
        """Refuse a run of other queries.

        Raises:
            InputError: when it lists none of the task's queries.
        """
        if not any(item.id in self._listed for item in items):
            raise InputError(f"{self.path} lists none of the queries of the task {task.name}.")

    def run(self, item: RankingItem | SearchItem) -> list[str]:
        """Its list for the query, nothing where it has none.

        A re-ranking task takes the run as it is, documents outside the candidates included: its own first stage may
        have found others.
        """
        return self._listed.get(item.id, [])

    def describe(self) -> dict[str, Any]:
        """The file."""
        return {"run": self.path}
