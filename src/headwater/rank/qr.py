"""`QRRetriever`: rank documents with the attention heads that read them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import ContextOverflowError, HeadSetError, InputError, InsufficientMemoryError
from headwater.heads.mass import MassSettings, PreparedDocuments, TokenMass
from headwater.headset import HeadSet, HeadsLike, as_heads, parse_heads
from headwater.instrument.rows import by_layer
from headwater.model.lm import LanguageModel
from headwater.model.memory import memory, tokens_that_fit
from headwater.prompt import prompt_template
from headwater.rank.default_heads import default_heads
from headwater.rank.overflow import ANCHORS, STRATEGIES, Room, anchors, slide, tournament, truncate
from headwater.rank.ranked import Explanation, Plan, Ranked, Ranking, TokenWeight

logger = logging.getLogger("headwater")


class QRRetriever:
    """Rank documents by the attention a query's tokens pay to them (arXiv 2506.09944; qrhead.md 3.3).

    One prefill of the documents up to the deepest chosen head, a short pass for the query and one for the null query;
    nothing is generated and nothing is trained. Scores of different document lists are not comparable: attention mass
    is relative to its list.

    Args:
        lm: a loaded model.
        heads: a `HeadSet`, a path to one, a published name ("llama-3.1-8b-instruct/qr-nq"), (layer, head) pairs, heads
            as text ("13-18,13-21"), "all" (every head: ICR, arXiv 2410.02642), or None: the heads shipped, cached or
            published for this model, else found once on the built-in examples.
        template: "auto", "chat" or "base".
        instruction: "rank", "answer", or a sentence of your own.
        null_query: the query whose attention is subtracted.
        calibrate: subtract it at all.
        outlier_filter: leave out tokens far below their document's mean.
        order: "reversed" puts the first document last in the prompt, next to the query (best for lists that come in
            first-stage order); "given" keeps the order.
        allow_local: rank also with heads whose sliding window is shorter than the prompt.
        overflow: what `rank` does with a list that does not fit the model: "raise", "truncate", "tournament",
            "anchors" or "slide" (see `headwater.rank.overflow`).
        window: most documents of a window of the last three (None: as many as fit).
        seed: deals the windows of a tournament.

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
        overflow: str = "raise",
        window: int | None = None,
        seed: int = 0,
    ) -> None:
        """Settle the heads and check them against the model."""
        if overflow not in STRATEGIES:
            raise InputError(f"Unknown overflow {overflow!r}; use one of {', '.join(STRATEGIES)}.")
        if window is not None and window < 2:
            raise InputError(f"A window needs at least 2 documents, got {window}.")
        if order not in ("reversed", "given"):
            raise InputError(f"Unknown order {order!r}; use 'reversed' or 'given'.")
        if calibrate and not null_query.strip():
            raise InputError("The null query is blank; use for example 'N/A', or calibrate=False.")
        self.lm = lm
        self.heads = _resolve(lm, heads, template)
        self.order = order
        self.allow_local = allow_local
        self.overflow, self.window, self.seed = overflow, window, seed
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

    def rank(self, query: str, documents: Iterable[DocumentLike], top_k: int | None = None) -> Ranking:
        """Sort documents by score, best first; ties keep the input order. Raises what `score` raises.

        A list that does not fit the model is ranked as `overflow` says; the result's `.strategy` and `.windows` tell.
        """
        given = as_documents(documents)
        try:
            if self.window is not None and self.overflow != "raise" and len(given) > self.window:
                return self._windows(query, given, top_k)
            return _ranked(given, next(self._scores([query], given)), top_k)
        except (ContextOverflowError, InsufficientMemoryError):
            if self.overflow == "raise":
                raise
            return self._windows(query, given, top_k)

    def rank_many(
        self, queries: Iterable[str], documents: Iterable[DocumentLike], top_k: int | None = None
    ) -> list[Ranking]:
        """Rank the same documents for many queries; the documents are prefilled once where they fit one prompt."""
        if isinstance(queries, str):
            raise InputError("Expected a list of queries, got a single one; wrap it in a list.")
        given, asked = as_documents(documents), list(queries)
        try:
            return [_ranked(given, scores, top_k) for scores in self._scores(asked, given)]
        except (ContextOverflowError, InsufficientMemoryError):
            if self.overflow == "raise":
                raise
            return [self.rank(query, given, top_k) for query in asked]

    def plan(self, query: str, documents: Iterable[DocumentLike]) -> Plan:
        """What ranking these documents takes, without running the model."""
        given = [document for document in as_documents(documents) if not document.blank]
        room = self._room(check_query(query), given)
        tokens = room.limit - room.budget + sum(room.lengths)
        return Plan(len(given), self.lm.max_length or room.limit, memory(self.lm, tokens, self.heads.last_layer))

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

    def _room(self, query: str, documents: Sequence[Document]) -> Room:
        """How long the documents are in a prompt, and what the rest of it leaves them."""
        template = prompt_template(self.lm.tokenizer, self.settings.template, self.settings.instruction)
        tails = [template.tail(query)] + [template.tail(self.settings.null_query)] * self.settings.calibrate
        separator = len(template.encode(template.separator))
        last = len(documents) + len(ANCHORS)  # the longest number a document can get
        lengths = [separator + len(template.encode(template.piece(last, document))) for document in documents]
        limit = self.lm.max_length or 1 << 40
        if self.overflow != "raise":
            limit = min(limit, tokens_that_fit(self.lm, self.heads.last_layer) or limit)
        return Room(lengths, limit - len(template.prefix([]).ids) - max(map(len, tails)), limit, self.window)

    def _windows(self, query: str, documents: Sequence[Document], top_k: int | None) -> Ranking:
        """Rank a list that does not fit one prompt."""
        places = [place for place, document in enumerate(documents) if not document.blank]
        shown = [documents[place] for place in places]
        room = self._room(query, shown)
        scores = np.full(len(documents), -np.inf, np.float32)
        shortened = 0
        windows = 1

        def score(some: Sequence[Document]) -> np.ndarray:
            return next(self._scores([query], some))

        if self.overflow == "truncate":
            kept, shortened = truncate(shown, room, self._shorten)
            scores[places] = score(kept)
            found: list[Ranked] = _ranked(documents, scores, top_k)
        else:
            if self.overflow == "tournament":
                order, windows = tournament(shown, score, room, self.seed)
            elif self.overflow == "anchors":
                taken = sum(self._room(query, [Document(text) for text in ANCHORS]).lengths)
                order, windows = anchors(shown, score, room, taken)
            else:
                order, windows = slide(shown, score, room)
            full = [(places[place], value) for place, value in order]
            full += [(place, -np.inf) for place, document in enumerate(documents) if document.blank]
            found = _listed(documents, full, top_k)
        logger.info("%d documents ranked by %s in %d prompts.", len(documents), self.overflow, windows)
        return Ranking(found, self.overflow, windows, shortened)

    def _shorten(self, document: Document, tokens: int) -> Document:
        """The document without what lies behind so many tokens of its piece in the prompt."""
        template = prompt_template(self.lm.tokenizer, self.settings.template, self.settings.instruction)
        used = len(template.encode(template.separator))
        used += len(template.encode(template.piece(10_000, replace(document, text=""))))
        text = document.text.strip()
        return replace(document, text="".join(template.token_texts(text)[: max(1, tokens - used - 2)]))

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


def _ranked(documents: Sequence[Document], scores: np.ndarray, top_k: int | None) -> Ranking:
    order = np.argsort(-scores, kind="stable")
    return Ranking(_listed(documents, [(int(i), float(scores[i])) for i in order], top_k))


def _listed(documents: Sequence[Document], order: Sequence[tuple[int, float]], top_k: int | None) -> list[Ranked]:
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k}.")
    return [Ranked(place, documents[place].id, score, documents[place]) for place, score in order[:top_k]]


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
    elif os.path.exists(heads) or "/" in str(heads):
        found = HeadSet.load(heads)
    else:
        raise HeadSetError(
            f"{str(heads)!r} is not a head set file, a published set (`headwater heads published`), 'all', or a list "
            "of heads such as 13-18,13-21."
        )
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
