"""`QRRetriever`: rank documents with the attention heads that read them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import ContextOverflowError, InputError, InsufficientMemoryError
from headwater.heads.mass import PreparedDocuments, TokenMass
from headwater.heads.switches import DocSpan, Order, TailPart, counted_tail, prompt_order
from headwater.headset import HeadSet, HeadsLike
from headwater.model.lm import LanguageModel
from headwater.model.memory import memory, tokens_that_fit
from headwater.prompt import prompt_template
from headwater.rank.overflow import ANCHORS, STRATEGIES, Room, anchors, slide, tournament, truncate
from headwater.rank.ranked import Explanation, Plan, Ranked, Ranking, mean_explanation, token_weights
from headwater.rank.resolve import ranking_orders, ranking_settings, resolve_heads

logger = logging.getLogger("headwater")


class QRRetriever:
    """Rank documents by the attention a query's tokens pay to them (arXiv 2506.09944; qrhead.md 3.3).

    One prefill of the documents up to the deepest chosen head, a short pass for the query and one for the null query;
    nothing is generated and nothing is trained. Scores of different document lists are not comparable: attention mass
    is relative to its list.

    What the heads were found with (template, instruction, null query, tail, document span: the provenance of the head
    set) is what they rank with, unless asked otherwise; one warning says where the two differ. Lists of heads and
    published sets say nothing of it and get the published defaults. The switches are explained at
    `headwater.heads.switches.MassSettings`.

    Args:
        lm: a loaded model.
        heads: a `HeadSet`, a path to one, a published name ("llama-3.1-8b-instruct/qr-nq"), (layer, head) pairs, heads
            as text ("13-18,13-21"), "all" (every head: ICR, arXiv 2410.02642), or None: the heads shipped, cached or
            published for this model, else found once on the built-in examples.
        template: "auto" (as the heads were found, else the chat template where there is one), "chat", "base", "bare".
        instruction: "rank", "answer", or a sentence of your own (None: as the heads were found, else "rank").
        null_query: the query whose attention is subtracted; may be "" (None: as the heads were found, else "N/A").
        calibrate: subtract it at all.
        outlier_filter: leave out tokens far below their document's mean.
        tail: "full", "query+suffix", "query" or "core" (None: as the heads were found, else "full").
        doc_span: "full", "unlabelled" or "body" (None: as the heads were found, else "full").
        order: "reversed" puts the first document last in the prompt, next to the query (best for lists that come in
            first-stage order); "given" keeps the order; "shuffled" depends on `seed` and the texts, not on the order
            they come in. Several, such as ("reversed", "shuffled"): the mean of the scores, at the cost of one ranking
            each; "shuffled" may be named repeatedly and is another order each time (qrhead.md 12.2).
        reduce: over heads, "mean" or "sum".
        dedupe: read identical documents once.
        max_doc_tokens: read so many tokens of each text; `Ranking.shortened` counts the documents cut.
        overlap_idf: ReAttn-like: query words that many documents hold count less (`headwater.heads.reattn`).
        entropy: ReAttn-like: exponent of the term against attention in one place; 0 is off.
        allow_local: rank also with heads whose sliding window is shorter than the prompt.
        overflow: what `rank` does with a list that does not fit the model: "raise", "truncate", "tournament",
            "anchors" or "slide" (see `headwater.rank.overflow`).
        window: most documents of a window of the last three (None: as many as fit).
        seed: deals the windows of a tournament, and shuffles.

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
        instruction: str | None = None,
        null_query: str | None = None,
        calibrate: bool = True,
        outlier_filter: bool = True,
        tail: TailPart | None = None,
        doc_span: DocSpan | None = None,
        order: Order | Sequence[Order] = "reversed",
        reduce: Literal["mean", "sum"] = "mean",
        dedupe: bool = True,
        max_doc_tokens: int | None = None,
        overlap_idf: bool = False,
        entropy: float = 0.0,
        allow_local: bool = False,
        overflow: str = "raise",
        window: int | None = None,
        seed: int = 0,
    ) -> None:
        """Settle heads and switches, and check them against the model."""
        if overflow not in STRATEGIES:
            raise InputError(f"Unknown overflow {overflow!r}; use one of {', '.join(STRATEGIES)}.")
        if window is not None and window < 2:
            raise InputError(f"A window needs at least 2 documents, got {window}.")
        self.lm = lm
        self.orders = ranking_orders(order)
        self.heads = resolve_heads(lm, heads, template)
        asked = {
            "template": template,
            "instruction": instruction,
            "null_query": null_query,
            "tail": tail,
            "doc_span": doc_span,
        }
        self.settings = ranking_settings(
            lm,
            self.heads,
            asked,
            calibrate=calibrate,
            outlier_filter=outlier_filter,
            reduce=reduce,
            dedupe=dedupe,
            max_doc_tokens=max_doc_tokens,
            overlap_idf=overlap_idf,
            entropy=entropy,
        )
        self.allow_local = allow_local
        self.overflow, self.window, self.seed = overflow, window, seed
        self._template = prompt_template(lm.tokenizer, self.settings.template, self.settings.instruction)
        if calibrate:
            counted_tail(self._template, self.settings, self.settings.null_query)  # refused now rather than later

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
        return self._scores([query], as_documents(documents))[0]

    def rank(self, query: str, documents: Iterable[DocumentLike], top_k: int | None = None) -> Ranking:
        """Sort documents by score, best first; ties keep the input order. Raises what `score` raises.

        A list that does not fit the model is ranked as `overflow` says; the result's `.strategy` and `.windows` tell.
        """
        given = as_documents(documents)
        try:
            if self.window is not None and self.overflow != "raise" and len(given) > self.window:
                return self._windows(query, given, top_k)
            return self._ranked(given, self._scores([query], given)[0], top_k)
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
            return [self._ranked(given, scores, top_k) for scores in self._scores(asked, given)]
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

    def fitted(self, query: str, documents: Iterable[DocumentLike]) -> list[Document]:
        """The documents as `overflow="truncate"` reads them: where the list does not fit, all cut to one length.

        Raises:
            ContextOverflowError: even 64 tokens of each are too many.
        """
        given = as_documents(documents)
        places = [place for place, document in enumerate(given) if not document.blank]
        room = self._room(check_query(query), [given[place] for place in places])
        if sum(room.lengths) > room.budget:
            kept, _ = truncate(self._cut([given[place] for place in places]), room, self._shorten)
            for place, document in zip(places, kept, strict=True):
                given[place] = document
        return given

    def explain(self, query: str, documents: Iterable[DocumentLike]) -> Explanation:
        """Scores with their reasons: per head, and per token of every document. Raises what `score` raises."""
        given = as_documents(documents)
        check_query(query)
        if not given:
            nothing = np.zeros(0, np.float32)
            return Explanation(query, nothing, list(self.heads.heads), np.zeros((len(self.heads), 0), np.float32), [])
        found = []
        for order in self._orders(given):
            prepared = self._prepare(given, order)
            mass = self._checked(prepared.mass(query))
            found.append(
                Explanation(
                    query,
                    self._combined(mass),
                    list(self.heads.heads),
                    mass.per_head().cpu().numpy().astype(np.float32),
                    token_weights(prepared, mass.by_token(self.heads.coefficients)),
                )
            )
        return mean_explanation(found)

    def _orders(self, documents: Sequence[Document]) -> Iterator[list[int]]:
        """The orders of the documents in the prompts."""
        texts = [(document.title or "", document.text) for document in documents]
        places = sorted(range(len(texts)), key=texts.__getitem__)
        shuffles = 0
        for order in self.orders:
            drawn = prompt_order(order, len(texts), f"{self.seed + shuffles}:{sorted(texts)}")
            yield [places[place] for place in drawn] if order == "shuffled" else drawn
            shuffles += order == "shuffled"

    def _prepare(self, documents: Sequence[Document], order: Sequence[int]) -> PreparedDocuments:
        return PreparedDocuments(self.lm, documents, self.heads.heads, self.settings, order)

    def _room(self, query: str, documents: Sequence[Document]) -> Room:
        """How long the documents are in a prompt, and what the rest of it leaves them."""
        template, settings = self._template, self.settings
        asked = [query, settings.null_query] if settings.calibrate else [query]
        tails = [counted_tail(template, settings, each)[0] for each in asked]
        separator = len(template.encode(template.separator))
        last = len(documents) + len(ANCHORS)  # the longest number a document can get
        lengths = [
            separator + len(template.encode(template.piece(last, document))) for document in self._cut(documents)
        ]
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
        shortened = self._shortened(shown)
        windows = 1

        def score(some: Sequence[Document]) -> np.ndarray:
            return self._scores([query], some)[0]

        if self.overflow == "truncate":
            kept, _ = truncate(self._cut(shown), room, self._shorten)
            shortened = sum(new is not old for new, old in zip(kept, shown, strict=True))
            scores[places] = score(kept)
            found: list[Ranked] = self._ranked(documents, scores, top_k)
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
        logger.debug("%d documents ranked by %s in %d prompts.", len(documents), self.overflow, windows)
        return Ranking(found, self.overflow, windows, shortened)

    def _shorten(self, document: Document, tokens: int) -> Document:
        """The document without what lies behind so many tokens of its piece in the prompt."""
        template = self._template
        used = len(template.encode(template.separator))
        used += len(template.encode(template.piece(10_000, replace(document, text=""))))
        return template.shortened(document, tokens - used - 2)

    def _cut(self, documents: Sequence[Document]) -> list[Document]:
        """The documents as they are read: what has more than `max_doc_tokens` is cut."""
        most = self.settings.max_doc_tokens
        return [each if most is None else self._template.shortened(each, most) for each in documents]

    def _shortened(self, documents: Sequence[Document]) -> int:
        return sum(new is not old for new, old in zip(self._cut(documents), documents, strict=True))

    def _checked(self, mass: TokenMass) -> TokenMass:
        if not self.allow_local:
            mass.require_global(self.heads.heads)
        return mass

    def _combined(self, mass: TokenMass) -> np.ndarray:
        return mass.combined(weights=self.heads.coefficients).cpu().numpy().astype(np.float32)

    def _scores(self, queries: Sequence[str], documents: Sequence[Document]) -> list[np.ndarray]:
        """Scores of the documents for each query, mean over the orders."""
        for query in queries:
            check_query(query)
            if self.settings.calibrate and query.strip() == self.settings.null_query:
                logger.warning("The query equals the null query %r: every score is zero.", self.settings.null_query)
        if not documents:
            return [np.zeros(0, np.float32) for _ in queries]
        found = []
        for order in self._orders(documents):
            masses = self._prepare(documents, order).masses(queries)
            found.append([self._combined(self._checked(mass)) for mass in masses])
        return [np.mean(scores, axis=0) for scores in zip(*found, strict=True)]

    def _ranked(self, documents: Sequence[Document], scores: np.ndarray, top_k: int | None) -> Ranking:
        order = np.argsort(-scores, kind="stable")
        listed = _listed(documents, [(int(i), float(scores[i])) for i in order], top_k)
        return Ranking(listed, shortened=self._shortened(documents))


def _listed(documents: Sequence[Document], order: Sequence[tuple[int, float]], top_k: int | None) -> list[Ranked]:
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k}.")
    return [Ranked(place, documents[place].id, score, documents[place]) for place, score in order[:top_k]]
