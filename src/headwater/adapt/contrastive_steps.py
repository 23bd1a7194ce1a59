"""The loss of a batch, the teacher's scores, and the quality on held-out queries, of contrastive tuning."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from headwater.adapt.contrastive_data import Dealt, Deck
from headwater.adapt.contrastive_loss import ContrastiveLoss, Lists
from headwater.adapt.gradcache import grad_cache
from headwater.data.documents import Document, RankingExample, as_documents
from headwater.data.lines import Lines
from headwater.errors import ModelError
from headwater.heads.query_focused import ndcg
from headwater.rank.qr import QRRetriever
from headwater.search.embedder import Embedder
from headwater.search.mine import Judge, document_keys, judged

logger = logging.getLogger("headwater")


def judge_name(judge: Judge) -> str:
    """What tells a teacher from others: its function, its model and its heads where it has such."""
    owner = getattr(judge, "__self__", None)
    parts = [str(getattr(judge, "__qualname__", type(judge).__name__))]
    if isinstance(owner, QRRetriever):
        parts += [owner.lm.fingerprint, str(sorted(owner.heads.heads))]
    elif owner is not None:
        parts += [str(getattr(owner, part)) for part in ("name", "fingerprint") if hasattr(owner, part)]
    return " ".join(parts)


def taught_scores(judge: Judge, deck: Deck, batches: Sequence[int], path: Path) -> dict[str, list[float]]:
    """A teacher's scores of the lists in some batches of a deck, by round and query.

    Args:
        judge: gives scores for (query, documents).
        deck: deals the lists.
        batches: numbers of the batches.
        path: keeps what is scored, so that an interrupted training does not score it again.

    Raises:
        InputError: the teacher gives another number of scores, NaN or infinity.
    """
    lines = Lines(path)
    found = {name: record["scores"] for name, record in lines.done.items()}
    logger.info("The teacher scores %d lists.", len(batches) * deck.share)
    for number in batches:
        for dealt in deck.batch(number):
            name = _list_name(dealt)
            if name in found:
                continue
            query = deck.queries[dealt.index].query
            found[name] = judged(judge, query, dealt.documents, "The teacher").tolist()
            lines.add({"id": name, "scores": found[name]})
    return found


class Bench:
    """One training: the loss of each batch."""

    def __init__(
        self,
        student: Embedder,
        deck: Deck,
        objective: ContrastiveLoss,
        taught: Mapping[str, list[float]],
        lengths: tuple[int, int],
        chunk: int | None,
        dropout: float,
    ) -> None:
        """`lengths` are the most tokens of a query and of a document; `chunk` and `dropout` as in the tuning."""
        self.student, self.deck, self.objective, self.taught = student, deck, objective, taught
        self.chunk, self.dropout = chunk, dropout
        self.asks, self.reads = (
            Embedder(
                student.lm,
                prompt=replace(student.prompt, max_length=min(length, student.prompt.max_length)),
                instruction=student.instruction,
            )
            for length in lengths
        )
        self.parameters = [parameter for parameter in student.lm.model.parameters() if parameter.requires_grad]

    def loss(self, number: int) -> torch.Tensor:
        """Of the batch of this number, with gradients."""
        dealt = self.deck.batch(number)
        own = [self.deck.queries[each.index] for each in dealt]
        documents = [document for each in dealt for document in each.documents]
        teacher = [self.taught[_list_name(each)] for each in dealt] if self.taught else None
        lists = Lists(
            [document_keys(document) for document in documents],
            [query.known for query in own],
            None if teacher is None else torch.tensor(teacher),
        )
        texts = (
            ("query", self.asks.rows([query.query for query in own], "query")),
            ("document", self.reads.rows(documents, "document")),
        )
        size = self.chunk or len(documents)
        chunks = [(kind, rows[at : at + size]) for kind, rows in texts for at in range(0, len(rows), size)]

        def encode(chunk: tuple[str, list[list[int]]]) -> torch.Tensor:
            return self.student.encode(chunk[1], chunk[0])

        def joined(vectors: torch.Tensor) -> torch.Tensor:
            return self.objective(vectors[: len(own)], vectors[len(own) :], lists)

        self.student.lm.model.train(self.dropout > 0)
        if self.chunk is None:
            value = joined(torch.cat([encode(chunk) for chunk in chunks]))
        else:
            value = grad_cache(encode, chunks, joined, self.parameters)
        if not torch.isfinite(value):
            raise ModelError(f"The contrastive loss of batch {number} is {float(value)}: use a lower learning rate.")
        return value


class Development:
    """Quality on held-out queries, over the documents of all of them."""

    def __init__(self, student: Embedder, examples: Sequence[RankingExample]) -> None:
        """Examples without a gold document with text only add to the documents."""
        self.student = student
        places: dict[str, int] = {}  # of the documents, by every key they are known by
        self.pool: list[Document] = []
        self.queries: list[str] = []
        graded: list[dict[int, float]] = []
        for example in examples:
            pairs = [
                (document, grade)
                for document, grade in zip(as_documents(example.documents), example.grades(), strict=True)
                if not document.blank
            ]
            own: dict[int, float] = {}
            for document, grade in pairs:
                keys = document_keys(document)
                place = next((places[key] for key in keys if key in places), len(self.pool))
                if place == len(self.pool):
                    self.pool.append(document)
                places.update(dict.fromkeys(keys, place))
                own[place] = max(grade, own.get(place, 0.0))
            if any(grade > 0 for grade in own.values()):
                self.queries.append(example.query)
                graded.append(own)
        self.grades = torch.tensor(
            [[own.get(place, 0.0) for place in range(len(self.pool))] for own in graded], dtype=torch.float64
        )

    def measured(self) -> dict[str, float]:
        """Mean nDCG@10."""
        self.student.lm.model.eval()
        queries = torch.from_numpy(self.student.embed(self.queries, "query"))
        documents = torch.from_numpy(self.student.embed(self.pool, "document"))
        scores = (queries @ documents.T).double()
        found = [ndcg(row[None], grades, 10).item() for row, grades in zip(scores, self.grades, strict=True)]
        return {"ndcg@10": sum(found) / len(found)}


def _list_name(dealt: Dealt) -> str:
    return f"{dealt.round}:{dealt.index}"
