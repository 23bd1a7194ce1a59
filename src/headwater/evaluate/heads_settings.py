"""Names and sizes of the experiments on head sets (`headwater.evaluate.heads_job`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

QR, ALL, RANDOM, SHUFFLED = "query-focused", "all heads", "random heads", "shuffled labels"
MATCHED = "layer-matched random heads"
NDCG, CORE, WU = "query-focused (ndcg)", "contrastive", "retrieval"
POOL, ON_NQ = "query-focused (more examples)", "query-focused (found on NQ)"
COUNTS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
EXAMPLES = (8, 16, 32, 64, 128)
COLLECTIONS = {"dl19": "dl19", "dl20": "dl20", "nq": "nq-rerank"}  # name -> task of the bench
# Two lengths instead of three: in texts of 512 words a small model finds little, so nothing can be lost there.
MASKED_TASKS = (
    {"task": "invented-facts", "lengths": (128, 256), "name": "needle"},
    {"task": "world-gold-5", "name": "reading"},
    {"task": "world-hops", "name": "two-hop"},
)
_WITH_QUESTIONS = {  # what shrinks with the number of questions, and the least of it
    "long_questions": 2,
    "examples": 12,
    "pool": 24,
    "collection_questions": 2,
    "collection_examples": 2,
    "cost_questions": 1,
    "masked_questions": 4,
}


@dataclass(frozen=True)
class Settings:
    """What the experiments are made of; the defaults are those of docs/results/heads.md.

    Attributes:
        questions: held-out questions that are ranked, with 20 and with 50 candidates.
        long_questions: held-out questions at every length.
        pool: development questions that the sets of fewer examples are drawn from.
        examples: the first so many of them, for everything else; half as many at every length.
        draws: random sets of examples of each number.
        random_sets: random head sets, and as many drawn from the layers of the query-focused heads.
        lengths: of prompts in tokens at most; those beyond what the model reads are left out.
        needle_lengths: tokens of the texts in which retrieval heads look for needles.
        needle_depths: where the needles stand in them.
        collection_questions: of every collection, at most.
        collection_depth: BM25 candidates of each.
        collection_examples: further questions of NQ that heads are found on.
        shuffles: shuffled orders of each list.
        cost_questions: of every kind of list, for times.
        masked_questions: of every task, with heads taken out.
        masked_sizes: how many heads are taken out.
        masked_draws: random sets of each size.
        seed: of everything that is drawn.
    """

    questions: int = 300
    long_questions: int = 100
    pool: int = 256
    examples: int = 128
    draws: int = 5
    random_sets: int = 10
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    needle_lengths: tuple[int, ...] = (256, 512, 1024)
    needle_depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    collection_questions: int = 100
    collection_depth: int = 20
    collection_examples: int = 64
    shuffles: int = 3
    cost_questions: int = 8
    masked_questions: int = 40
    masked_sizes: tuple[int, ...] = (2, 4, 8, 16)
    masked_draws: int = 5
    seed: int = 0

    @classmethod
    def of_size(cls, questions: int, seed: int) -> Settings:
        """With so many held-out questions; fewer than the default make everything else smaller too."""
        share = min(1.0, questions / cls.questions)
        sizes: dict[str, Any] = {
            name: max(least, round(getattr(cls, name) * share)) for name, least in _WITH_QUESTIONS.items()
        }
        return cls(questions=questions, **sizes, seed=seed)


def shown_as(names: Iterable[str]) -> dict[str, list[str]]:
    """The rows that head sets are shown in, with the sets of each: random draws of one kind share a row."""
    out: dict[str, list[str]] = {}
    for name in names:
        out.setdefault(next((kind for kind in (RANDOM, MATCHED) if name.startswith(kind)), name), []).append(name)
    return out
