"""Rankings by the model under test, and by models of other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headwater.data.documents import Document
from headwater.evaluate.metrics import order
from headwater.evaluate.systems.lists import Keywords
from headwater.evaluate.systems.system import ModelSystem, System
from headwater.evaluate.tasks.search import DEPTH
from headwater.evaluate.tasks.task import RankingItem, SearchItem, Task
from headwater.heads import RandomHeads
from headwater.rank.external import CrossEncoderModel, DenseModel
from headwater.rank.listwise import RankGPT
from headwater.rank.qr import QRRetriever

if TYPE_CHECKING:
    from headwater.headset import HeadSet
    from headwater.model.lm import LanguageModel

OVERFLOW = "tournament"  # for lists that do not fit one prompt


class HeadRanking(ModelSystem):
    """`QRRetriever` with a head set; lists that do not fit the model are ranked by tournament.

    Args:
        lm: the model.
        heads: whatever `QRRetriever` takes: None for the model's own, "all" for ICR.
    """

    def __init__(self, lm: LanguageModel, heads: HeadSet | str | None = None) -> None:
        """Settle the heads."""
        super().__init__(lm)
        self.ranker = QRRetriever(lm, heads=heads, overflow=OVERFLOW)

    def run(self, item: RankingItem) -> list[str]:
        """Ids by score, ties in the order given."""
        ranking = self.ranker.rank(item.query, item.documents)
        self.details = {"prompts": ranking.windows}
        return [str(ranked.id) for ranked in ranking]

    def describe(self) -> dict[str, Any]:
        """Heads, and what is done to lists that do not fit."""
        every = len(self.ranker.heads) == len(self.lm.anatomy.all_heads)
        return {"heads": "all" if every else str(self.ranker.heads), "overflow": OVERFLOW}


class RandomHeadRanking(HeadRanking):
    """As many heads as the model's own set has, drawn by the seed: the control of every head set."""

    def __init__(self, lm: LanguageModel, seed: int) -> None:
        """Draw the heads."""
        size = len(QRRetriever(lm).heads)
        super().__init__(lm, RandomHeads(top_k=size, seed=seed).find(lm))


class RankGPTRanking(ModelSystem):
    """RankGPT (arXiv 2304.09542) with the model under test.

    Args:
        lm: the model.
        one_shot: the whole list in one prompt instead of windows of 20.
    """

    def __init__(self, lm: LanguageModel, one_shot: bool = False) -> None:
        """Prepare the ranker."""
        super().__init__(lm)
        self.one_shot = one_shot

    def run(self, item: RankingItem) -> list[str]:
        """Ids as the model lists them; what it leaves out keeps its order and comes last."""
        ranker = RankGPT(self.lm, window=max(2, len(item.documents))) if self.one_shot else RankGPT(self.lm)
        ranking = ranker.rank(item.query, item.documents)
        self.details = {"calls": ranking.calls, "complete lists": ranking.well_formed}
        return [str(ranked.id) for ranked in ranking]


class Dense(System):
    """A sentence-transformers model: cosine or whatever similarity the model was made with.

    Args:
        name: id or path.
        device: where it runs.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        """Load the model."""
        self.name = name
        self.model = DenseModel(name, device)

    def prepare(self, task: Task, items: Sequence[Any]) -> None:
        """Encode the corpus of a search task."""
        self._index = self.model.index(task.corpus) if task.kind == "search" else None

    def run(self, item: RankingItem | SearchItem) -> list[str]:
        """Ids by similarity."""
        if isinstance(item, SearchItem):
            assert self._index is not None
            return [str(hit.document.id) for hit in self._index.search(item.query, DEPTH)]
        return _by_score(item.documents, self.model.scores(item.query, item.documents))

    def describe(self) -> dict[str, Any]:
        """The model."""
        return {"model": self.name}


class CrossEncoding(System):
    """A sentence-transformers cross-encoder.

    Args:
        name: id or path.
        device: where it runs.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        """Load the model."""
        self.name = name
        self.model = CrossEncoderModel(name, device)

    def run(self, item: RankingItem) -> list[str]:
        """Ids by score."""
        return _by_score(item.documents, self.model.scores(item.query, item.documents))

    def describe(self) -> dict[str, Any]:
        """The model."""
        return {"model": self.name}


class SearchThenRank(System):
    """BM25 finds candidates in the corpus, a ranker orders the best of them; the rest follow in BM25's order.

    Args:
        ranker: a system of kind "ranking".
        depth: candidates it gets.
    """

    def __init__(self, ranker: System, depth: int = 20) -> None:
        """Keep the ranker."""
        self.ranker, self.depth = ranker, depth
        self._keywords = Keywords()

    def prepare(self, task: Task, items: Sequence[Any]) -> None:
        """Index the corpus."""
        self._keywords.prepare(task, items)
        self._documents: dict[str, Document] = {str(document.id): document for document in task.corpus}

    def run(self, item: SearchItem) -> list[str]:
        """Ids, the re-ranked ones first."""
        found = self._keywords.run(item)
        best = tuple(self._documents[name] for name in found[: self.depth])
        if not best:
            return []
        ranked: list[str] = self.ranker.run(RankingItem(item.id, item.group, item.query, best))
        self.details = self.ranker.details
        return ranked + found[self.depth :]

    def describe(self) -> dict[str, Any]:
        """The ranker's own description and the depth."""
        return {**self.ranker.describe(), "candidates": self.depth}


def _by_score(documents: Sequence[Document], scores: Any) -> list[str]:
    return [str(documents[place].id) for place in order(scores)]
