"""Re-ranking: candidates of a first stage, put in a better order."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from headwater.data import world
from headwater.data.documents import Document
from headwater.data.formats import BeirData, read_run
from headwater.errors import InputError
from headwater.evaluate.metrics import per_query, trec_order
from headwater.evaluate.tasks.collections import collection
from headwater.evaluate.tasks.task import RankingItem, Task
from headwater.search.bm25 import BM25, K1, B

MEASURES = ("nDCG@10", "R@1", "R@5", "RR")


class _Ranking(Task):
    """Orders scored by trec_eval's measures; subclasses fill `grades`: item id -> document id -> grade."""

    kind = "ranking"
    metrics = MEASURES

    def __init__(self) -> None:
        super().__init__()
        self.grades: dict[str, Mapping[str, int]] = {}

    def score(self, item: RankingItem, output: Sequence[str]) -> dict[str, float]:
        """nDCG@10, recall@1, recall@5 and reciprocal rank; relevant documents outside the candidates count as lost."""
        found = per_query({item.id: self.grades[item.id]}, {item.id: list(output)}, self.metrics)
        return {name: values[item.id] for name, values in found.items()}

    def relevant(self, item: RankingItem) -> list[str]:
        """Ids of the documents with a grade above 0, best grade first."""
        graded = sorted(self.grades[item.id].items(), key=lambda pair: -pair[1])
        return [name for name, grade in graded if grade > 0]


class Reranking(_Ranking):
    """The top of a first-stage run over a BEIR collection.

    Every judged query is an item; one without candidates in the run counts zero.

    Args:
        folder: a BEIR folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv), or ``hub:`` and a data set of that layout.
        run: a TREC run with the candidates; None searches with BM25 (bm25s, k1 0.9, b 0.4).
        depth: candidates per query.
        split: of the judgements.
        shuffle: seed that shuffles the candidates, so that their order tells nothing (None: first-stage order, which
            methods that look at the order can copy).
    """

    def __init__(
        self, folder: str, run: str | None = None, depth: int = 100, split: str = "test", shuffle: int | None = None
    ) -> None:
        """Keep the places; nothing is read before `load`."""
        super().__init__()
        if depth < 1:
            raise InputError(f"Re-ranking needs at least 1 candidate per query, got depth={depth}.")
        self.folder, self.run, self.depth, self.split, self.shuffle = folder, run, depth, split, shuffle
        self._corpus: list[Document] = []

    @property
    def corpus(self) -> Sequence[Document]:
        """The whole collection."""
        return self._corpus

    def load(self) -> list[RankingItem]:
        """Judged queries with their candidates."""
        data = collection(self.folder, self.split)
        self._corpus = data.documents
        known = {str(document.id): document for document in data.documents}
        listed = self._searched(data) if self.run is None else self._listed(known, self.run)
        items = []
        for query, grades in data.qrels.items():
            documents = [known[name] for name in listed.get(query, ())]
            if self.shuffle is not None:
                random.Random(f"headwater/candidates/{query}/{self.shuffle}").shuffle(documents)
            self.grades[query] = grades
            items.append(RankingItem(query, query, data.queries[query], tuple(documents)))
        empty = sum(not item.documents for item in items)
        if empty:
            self.notes.append(f"{empty} judged queries have no candidates and count zero.")
        return items

    def _searched(self, data: BeirData) -> dict[str, list[str]]:
        """Candidates by BM25."""
        index = BM25(data.documents)
        self.notes.append(f"Candidates: BM25 (bm25s), k1 {K1}, b {B}, top {self.depth}.")
        return {
            query: [str(hit.document.id) for hit in index.search(data.queries[query], self.depth) if hit.score > 0]
            for query in data.qrels
        }

    def _listed(self, known: Mapping[str, Document], path: str) -> dict[str, list[str]]:
        """Candidates of a run file, in trec_eval's order."""
        listed = {query: trec_order(pairs)[: self.depth] for query, pairs in read_run(path).items()}
        for query, names in listed.items():
            strange = next((name for name in names if name not in known), None)
            if strange is not None:
                raise InputError(f"{path} lists document {strange!r} for query {query!r}, which {self.folder} lacks.")
        self.notes.append(f"Candidates: {Path(path).name}, top {self.depth}.")
        return listed


class WorldRanking(_Ranking):
    """Factbook questions about held-out countries, one document among hard distractors (`world.ranking_examples`).

    Args:
        split: "held_out", "development" or "known".
        n: questions.
        candidates: documents per question, of which one states the answer.
        seed: of questions, wordings and candidates.
        hard: distractors about look-alike countries.
    """

    def __init__(
        self, split: str = "held_out", n: int = 300, candidates: int = 20, seed: int = 0, hard: bool = False
    ) -> None:
        """Keep the sizes."""
        super().__init__()
        self.split, self.n, self.candidates, self.seed, self.hard = split, n, candidates, seed, hard

    @property
    def corpus(self) -> Sequence[Document]:
        """Every document of the world, those of the items included."""
        return self._corpus

    def load(self) -> list[RankingItem]:
        """The questions with their shuffled candidates; the group is the country."""
        pool = {document.id: document for document in world.documents()}
        items = []
        examples = world.ranking_examples(self.split, self.n, self.candidates, seed=self.seed, hard=self.hard)
        for example in examples:
            documents = tuple(d for d in example.documents if isinstance(d, Document))
            pool.update({document.id: document for document in documents})
            name = str(example.id)
            gold = [d.id for d, grade in zip(documents, example.grades(), strict=True) if grade > 0]
            self.grades[name] = {str(identifier): 1 for identifier in gold}
            items.append(RankingItem(name, str(example.group), example.query, documents))
        self._corpus = list(pool.values())
        return items

    _corpus: Sequence[Document] = ()
