"""Every way of ordering the chunks of a long text, and what it costs (see `headwater.evaluate.long_job`)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headwater.data import world
from headwater.data.documents import Document
from headwater.errors import ContextOverflowError
from headwater.evaluate.bench.cost import Cost, measured
from headwater.evaluate.long_summary import ALL, DRAWN, FIRST, KEYWORDS, ONE, ORACLE, QR, RANDOM, SMALL
from headwater.evaluate.metrics import order
from headwater.evaluate.questions import head_scorer
from headwater.headset import HeadSet
from headwater.rank.qr import QRRetriever
from headwater.rank.ranked import Ranking
from headwater.search.bm25 import BM25

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


class Rankers:
    """Every way of ordering the chunks of a text by heads."""

    def __init__(self, lm: LanguageModel, sets: Mapping[str, HeadSet], overflow: Sequence[str]) -> None:
        """Keep the head sets of the model that reads."""
        self.sets = dict(sets)
        self.named = {name: heads for name, heads in sets.items() if name != ALL}
        self._lm, self._together = lm, head_scorer(lm, sets)
        self._alone = {name: QRRetriever(lm, heads, overflow=overflow[0]) for name, heads in sets.items()}
        self._small: dict[str, tuple[LanguageModel, QRRetriever]] = {}
        self._strategies = overflow

    def add(self, lm: LanguageModel, heads: HeadSet) -> None:
        """Rank with the heads of another model as well, in each of the strategies."""
        self.named[SMALL] = heads
        for strategy in self._strategies:
            name = SMALL if len(self._strategies) == 1 else f"{SMALL}, {strategy}"
            self._small[name] = (lm, QRRetriever(lm, heads, overflow=strategy))

    def orders(
        self, query: str, chunks: Sequence[Document]
    ) -> tuple[dict[str, list[int]], dict[str, Any], dict[str, str]]:
        """Per ranker the places of the chunks, best first; what the smaller model's rankings cost; how each was made.

        The last says "one prompt", or by which strategy a list that does not fit was ranked.
        """
        try:
            found = {name: order(row) for name, row in self._together(query, chunks).items()}
            ways = dict.fromkeys(found, ONE)
        except ContextOverflowError:
            rankings = {name: ranker.rank(query, chunks) for name, ranker in self._alone.items()}
            found = {name: _places(ranking) for name, ranking in rankings.items()}
            ways = {name: ranking.strategy for name, ranking in rankings.items()}
        costs: dict[str, Any] = {}
        for name, (lm, ranker) in self._small.items():
            with measured(lm) as cost:
                ranking = ranker.rank(query, chunks)
            found[name], ways[name] = _places(ranking), ranking.strategy
            costs[name] = plain_cost(cost)
        return found, costs, ways

    def costs(self, query: str, chunks: Sequence[Document]) -> dict[str, Any]:
        """What ranking costs with all heads, with the set, and with the first of the random sets."""
        found = {}
        for name in (ALL, QR, f"{RANDOM} 0"):
            with measured(self._lm) as cost:
                self._alone[name].rank(query, chunks)
            found[name.removesuffix(" 0")] = plain_cost(cost)
        return found


def controls(question: world.Question, chunks: Sequence[Document], gold: list[int], seed: int) -> dict[str, list[int]]:
    """Orders without a model: of the text, at random, BM25 over its chunks, and the gold chunk before random ones."""
    places = list(range(len(chunks)))
    draw = random.Random(f"headwater/chunks/{question.id}/{seed}")
    others = [place for place in places if place not in gold]
    return {
        FIRST: places,
        DRAWN: draw.sample(places, len(places)),
        KEYWORDS: order(BM25(chunks).scores(question.text)),
        ORACLE: [*gold, *draw.sample(others, len(others))],
    }


def plain_cost(cost: Cost) -> dict[str, Any]:
    """Tokens and operations."""
    return {"tokens": cost.tokens, "flops": cost.flops}


def _places(ranking: Ranking) -> list[int]:
    return [ranked.index for ranked in ranking]
