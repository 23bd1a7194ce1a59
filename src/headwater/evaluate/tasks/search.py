"""First-stage retrieval: the whole collection is searched."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.data.documents import Document
from headwater.evaluate.metrics import per_query
from headwater.evaluate.tasks.collections import collection
from headwater.evaluate.tasks.task import SearchItem, Task

DEPTH = 100  # results that systems are asked for


class Search(Task):
    """The judged queries of a BEIR collection.

    Args:
        folder: a BEIR folder, or ``hub:`` and a data set of that layout.
        split: of the judgements.
        drop_identical: leave out a document that has its query's id, as BEIR's own evaluation does (ArguAna's queries
            are documents of its corpus). Wrong where queries and documents are numbered independently.
    """

    kind = "search"
    metrics = ("nDCG@10", "R@10", "R@100", "RR")

    def __init__(self, folder: str, split: str = "test", drop_identical: bool = True) -> None:
        """Keep the places; nothing is read before `load`."""
        super().__init__()
        self.folder, self.split, self.drop_identical = folder, split, drop_identical
        self.grades: dict[str, dict[str, int]] = {}
        self._corpus: list[Document] = []

    @property
    def corpus(self) -> Sequence[Document]:
        """The collection."""
        return self._corpus

    def load(self) -> list[SearchItem]:
        """The judged queries."""
        data = collection(self.folder, self.split)
        self._corpus, self.grades = data.documents, data.qrels
        shared = len({str(document.id) for document in data.documents} & set(data.qrels))
        if shared and self.drop_identical:
            self.notes.append(f"{shared} queries share an id with a document, which is left out of their results.")
        elif shared:
            self.notes.append(f"{shared} queries share an id with a document; these documents stay in the results.")
        self.notes.append(f"{len(self._corpus):,} documents.")
        return [SearchItem(query, query, data.queries[query]) for query in data.qrels]

    def score(self, item: SearchItem, output: Sequence[str]) -> dict[str, float]:
        """nDCG@10, recall at 10 and 100, reciprocal rank; no results count zero."""
        kept = [name for name in output if not (self.drop_identical and name == item.id)]
        found = per_query({item.id: self.grades[item.id]}, {item.id: kept}, self.metrics)
        return {name: values[item.id] for name, values in found.items()}

    def relevant(self, item: SearchItem) -> list[str]:
        """Ids of the documents with a grade above 0, best grade first."""
        graded = sorted(self.grades[item.id].items(), key=lambda pair: -pair[1])
        return [name for name, grade in graded if grade > 0]
