"""`QRRetriever`: rank documents with the attention heads that read them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import HeadSetError, InputError
from headwater.heads.mass import MassSettings, PreparedDocuments, TokenMass
from headwater.headset import Head, HeadSet, HeadsLike, as_heads, parse_heads
from headwater.instrument.rows import by_layer
from headwater.model.lm import LanguageModel
from headwater.rank.default_heads import default_heads

logger = logging.getLogger("headwater")


@dataclass(frozen=True)
class Ranked:
    """One document of a ranking.

    Attributes:
        index: its place in the list that was given, 0-based.
        id: its id, or None.
        score: calibrated attention mass, mean over the heads; -inf for a blank document.
        document: the document.
    """

    index: int
    id: str | None
    score: float
    document: Document


@dataclass(frozen=True)
class TokenWeight:
    """A token of a document and the calibrated attention it got, mean over the heads."""

    text: str
    weight: float


@dataclass(frozen=True)
class Explanation:
    """Why documents got their scores.

    Attributes:
        query: the query.
        scores: float32 `[documents]`, as `QRRetriever.score` gives them.
        heads: the heads that ranked.
        head_scores: float32 `[heads, documents]`, each head alone.
        tokens: per document its tokens with their weights; their texts join to what was read: `[i] title\\ntext`.
    """

    query: str
    scores: np.ndarray
    heads: list[Head]
    head_scores: np.ndarray
    tokens: list[list[TokenWeight]]


class QRRetriever:
    """Rank documents by the attention a query's tokens pay to them (arXiv 2506.09944; qrhead.md 3.3).

    One prefill of the documents up to the deepest chosen head, a short pass for the query and one for the null query;
    nothing is generated and nothing is trained. Scores of different document lists are not comparable: attention mass
    is relative to its list.

    Args:
        lm: a loaded model.
        heads: a `HeadSet`, a path to one, (layer, head) pairs, heads as text ("13-18,13-21"), "all" (every head: ICR,
            arXiv 2410.02642), or None: the heads shipped or cached for this model, else found once on the built-in
            examples.
        template: "auto", "chat" or "base".
        instruction: "rank", "answer", or a sentence of your own.
        null_query: the query whose attention is subtracted.
        calibrate: subtract it at all.
        outlier_filter: leave out tokens far below their document's mean.
        order: "reversed" puts the first document last in the prompt, next to the query (best for lists that come in
            first-stage order); "given" keeps the order.
        allow_local: rank also with heads whose sliding window is shorter than the prompt.

    Raises:
        HeadSetError: the head set was made for a model of another shape.
        InputError: an unknown switch.
    """

    def __init__(
        self,
        lm: LanguageModel,
        heads: HeadSet | HeadsLike | str | Path | None = None,
        *,
        template: str = "auto",
        instruction: str = "rank",
        null_query: str = "N/A",
        calibrate: bool = True,
        outlier_filter: bool = True,
        order: Literal["reversed", "given"] = "reversed",
        allow_local: bool = False,
    ) -> None:
        """Settle the heads and check them against the model."""
        if order not in ("reversed", "given"):
            raise InputError(f"Unknown order {order!r}; use 'reversed' or 'given'.")
        if calibrate and not null_query.strip():
            raise InputError("The null query is blank; use for example 'N/A', or calibrate=False.")
        self.lm = lm
        self.heads = _resolve(lm, heads, template)
        self.order = order
        self.allow_local = allow_local
        self.settings = MassSettings(template, instruction, null_query, calibrate, outlier_filter)

    def score(self, query: str, documents: Iterable[DocumentLike]) -> np.ndarray:
        """Score each document.

        Args:
            query: the question.
            documents: `Document`s or strings.

        Returns:
            float32 `[documents]` in input order; blank documents get -inf; empty for no documents.

        Raises:
            InputError: a blank query, or all documents blank.
            ContextOverflowError: the list does not fit what the model reads.
            LocalHeadError: a head's sliding window is shorter than the prompt.
        """
        given = as_documents(documents)
        return next(self._scores([query], given))

    def rank(self, query: str, documents: Iterable[DocumentLike], top_k: int | None = None) -> list[Ranked]:
        """Sort documents by score, best first; ties keep the input order. Raises what `score` raises."""
        given = as_documents(documents)
        return _ranked(given, next(self._scores([query], given)), top_k)

    def rank_many(
        self, queries: Iterable[str], documents: Iterable[DocumentLike], top_k: int | None = None
    ) -> list[list[Ranked]]:
        """Rank the same documents for many queries; the documents are prefilled once."""
        if isinstance(queries, str):
            raise InputError("Expected a list of queries, got a single one; wrap it in a list.")
        given = as_documents(documents)
        return [_ranked(given, scores, top_k) for scores in self._scores(list(queries), given)]

    def explain(self, query: str, documents: Iterable[DocumentLike]) -> Explanation:
        """Scores with their reasons: per head, and per token of every document. Raises what `score` raises."""
        given = as_documents(documents)
        check_query(query)
        if not given:
            nothing = np.zeros(0, np.float32)
            return Explanation(query, nothing, list(self.heads.heads), np.zeros((len(self.heads), 0), np.float32), [])
        prepared = self._prepare(given)
        mass = self._checked(prepared.mass(query))
        weights = self.heads.coefficients
        mean = mass.tokens if weights is None else mass.tokens * mass.tokens.new_tensor(weights)[:, None]
        per_token = mean.mean(0).tolist()
        shown = []
        for place, (start, end) in enumerate(prepared.spans):
            texts = prepared.template.token_texts(prepared.template.piece(place, prepared.shown[place]))
            shown.append([TokenWeight(t, w) for t, w in zip(texts, per_token[start:end], strict=True)])
        return Explanation(
            query,
            mass.combined(weights=weights).cpu().numpy().astype(np.float32),
            list(self.heads.heads),
            mass.per_head().cpu().numpy().astype(np.float32),
            [[] if place is None else shown[place] for place in prepared.place],
        )

    def _prepare(self, documents: Sequence[Document]) -> PreparedDocuments:
        order = range(len(documents))
        return PreparedDocuments(
            self.lm, documents, self.heads.heads, self.settings, order[::-1] if self.order == "reversed" else order
        )

    def _checked(self, mass: TokenMass) -> TokenMass:
        if not self.allow_local:
            mass.require_global(self.heads.heads)
        return mass

    def _scores(self, queries: Sequence[str], documents: Sequence[Document]) -> Iterator[np.ndarray]:
        for query in queries:
            check_query(query)
            if self.settings.calibrate and query.strip() == self.settings.null_query.strip():
                logger.warning("The query equals the null query %r: every score is zero.", self.settings.null_query)
        if not documents:
            yield from (np.zeros(0, np.float32) for _ in queries)
            return
        for mass in self._prepare(documents).masses(queries):
            yield self._checked(mass).combined(weights=self.heads.coefficients).cpu().numpy().astype(np.float32)


def _ranked(documents: Sequence[Document], scores: np.ndarray, top_k: int | None) -> list[Ranked]:
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k}.")
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Ranked(int(i), documents[i].id, float(scores[i]), documents[i]) for i in order]


def _resolve(lm: LanguageModel, heads: HeadSet | HeadsLike | str | Path | None, template: str) -> HeadSet:
    """Turn what the user gave into a head set of this model."""
    if heads is None:
        return default_heads(lm, template)
    if isinstance(heads, HeadSet):
        found = heads
    elif not isinstance(heads, (str, Path)):
        found = HeadSet(as_heads(heads))
    elif heads == "all":
        return HeadSet(lm.anatomy.all_heads, provenance={"method": "all", "model": lm.name})
    elif re.fullmatch(r"[\d\s,-]+", str(heads)):
        found = HeadSet(parse_heads(str(heads)))
    elif os.path.exists(heads):
        found = HeadSet.load(heads)
    else:
        raise HeadSetError(f"{str(heads)!r} is not a head set file, 'all', or a list of heads such as 13-18,13-21.")
    here = lm.anatomy
    shape, own = found.provenance.get("shape"), [here.num_layers, here.num_heads, here.num_kv_heads]
    if shape is not None and list(shape) != own:
        raise HeadSetError(
            f"This head set was made for a model of {shape[0]} layers x {shape[1]} heads ({shape[2]} key/value heads); "
            f"{lm.name!r} has {own[0]} x {own[1]} ({own[2]})."
        )
    by_layer(found, here)
    made_for = found.provenance.get("fingerprint")
    if made_for is not None and made_for != lm.fingerprint:
        logger.warning(
            "This head set was made for other weights (%s) than those of %s.", found.provenance.get("model"), lm.name
        )
    return found
