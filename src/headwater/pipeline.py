"""Documents in, cited answer out: candidates, ranked by the model's heads, read by the model, cited exactly."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import ContextOverflowError, InputError
from headwater.read.citation import Citation, cite
from headwater.read.reader import OnText, Reader
from headwater.read.support import known_support
from headwater.search.bm25 import BM25
from headwater.search.chunk import split

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel
    from headwater.rank.qr import Ranked

log = logging.getLogger(__name__)
_CHARS_PER_TOKEN = 2.5  # a careful guess for English, to size passages before anything is tokenized
_PASSAGE_CHARS = (160, 1000)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer:
    """What `Pipeline.ask` returns.

    Attributes:
        question: as asked.
        text: the model's answer.
        supported: whether the answer stands word for word in one of the documents read, and the model was sure enough
            of it (`confidence` at least the pipeline's `support`).
        ranking: every candidate passage, best first; `.document.metadata["passage_start"]` is its place in the
            original document.
        citations: the sentence of the highest-ranked document read that holds the answer; empty when unsupported.
        read: how many of the ranking's first passages the model read.
        notes: what had to be left out to fit the model's context, one sentence each.
        confidence: geometric mean of the probabilities of the answer's tokens.
    """

    question: str
    text: str
    supported: bool
    ranking: list[Ranked]
    citations: tuple[Citation, ...]
    read: int
    notes: tuple[str, ...] = ()
    confidence: float = 0.0


class Ranker(Protocol):
    """Anything that orders documents for a query, `QRRetriever` first."""

    def rank(self, query: str, documents: list[Document], top_k: int | None = None) -> list[Ranked]:
        """Documents best first."""
        ...


class Pipeline:
    """Answers questions over documents with one model that both ranks and reads.

    `index` is an `Index`, or a list of documents (or strings), searched in memory with BM25, or an object whose
    `search(query, k=...)` returns hits with `.document`, `.score` and `.index`. Listed documents are split into
    passages that fit the model; documents without an id are named by their position ("0", "1", ...). A small model may
    rank for a large one that reads: `Pipeline(large, index, QRRetriever(small))`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        index: Any,
        ranker: Ranker | None = None,
        *,
        candidates: int = 20,
        read: int = 5,
        max_new_tokens: int = 32,
        template: str = "auto",
        support: float | None = None,
        retrieve: str | None = None,
    ) -> None:
        """Prepare index, ranker and reader.

        Args:
            lm: the model.
            index: documents, or something with `search`.
            ranker: orders the candidates (None: `QRRetriever(lm)`).
            candidates: how many candidates are ranked.
            read: how many of the best are read.
            max_new_tokens: longest answer, in tokens.
            template: prompt template, as in `prompt_template`.
            support: how sure the model has to be for an answer to count as supported, 0 to 1 (None: as calibrated for
                these weights, see `headwater.read.support`, else 0).
            retrieve: how an `Index` finds candidates: "bm25", "dense" or "hybrid" (None: its own default).

        Raises:
            InputError: for no documents, duplicate document ids, counts below 1, a support outside 0 to 1, or
                `retrieve` other than "bm25" with a list of documents.
        """
        if candidates < 1 or read < 1:
            raise InputError(f"candidates and read must be at least 1, got {candidates} and {read}.")
        if support is not None and not 0 <= support <= 1:
            raise InputError(f"support must be between 0 and 1, got {support}.")
        self.lm = lm
        self.candidates, self.read = candidates, read
        self.reader = Reader(lm, max_new_tokens, template)
        listed = not hasattr(index, "search")
        if listed and retrieve not in (None, "bm25"):
            raise InputError(f"A list of documents is searched by words; give an Index for retrieve={retrieve!r}.")
        self.index = BM25(self._passages(index)) if listed else index
        self._how = {} if listed or retrieve is None else {"mode": retrieve}
        if ranker is None:
            from headwater.rank.qr import QRRetriever

            ranker = QRRetriever(lm)
        self.ranker = ranker
        self.support = known_support(lm, template) if support is None else support

    def ask(self, question: str, on_text: OnText | None = None) -> Answer:
        """Find, rank, read, cite.

        Args:
            question: the question.
            on_text: called with each new piece of the answer while the model writes it.

        Raises:
            InputError: for a blank question.
            ContextOverflowError: when even one passage does not fit the model.
        """
        check_query(question)
        notes: list[str] = []
        hits = self.index.search(question, k=self.candidates, **self._how)
        if not hits:
            note = "No word of the question stands in the documents."
            log.warning("%s", note)
            return Answer(question, "", False, [], (), 0, (note,))
        found = [_named(hit) for hit in hits]
        if all(hit.score == 0 for hit in hits):
            notes.append(f"No word of the question stands in the documents; the first {len(found)} were ranked.")
        ranking = _fit(lambda kept: self.ranker.rank(question, kept), found, "ranked", notes)
        best = [ranked.document for ranked in ranking[: self.read] if not ranked.document.blank]
        reading, read = _fit(lambda kept: (self.reader.read(question, kept, on_text), len(kept)), best, "read", notes)
        citation = cite(reading.text, best[:read], question)
        if citation is not None and reading.confidence < self.support:
            citation = None
        for note in notes:
            log.warning("%s", note)
        return Answer(
            question,
            reading.text,
            citation is not None,
            ranking,
            () if citation is None else (citation,),
            read,
            tuple(notes),
            reading.confidence,
        )

    def _passages(self, documents: Iterable[DocumentLike]) -> list[Document]:
        """Named passages short enough that all candidates fit one prompt."""
        named = [
            document if document.id is not None else Document(document.text, str(i), document.title, document.metadata)
            for i, document in enumerate(as_documents(documents))
        ]
        ids = Counter(document.id for document in named)
        twice = next((name for name, count in ids.items() if count > 1), None)
        if twice is not None:
            raise InputError(f"The document id {twice!r} stands twice; citations need unique ids.")
        cut = [passage.as_document() for passage in split(named, passage_chars(self.lm, self.candidates))]
        if not cut:
            raise InputError("There are no documents with any text.")
        return cut


def passage_chars(lm: LanguageModel, candidates: int) -> int:
    """How long passages may be so that so many fit one prompt of the model, in characters: 160 to 1,000."""
    fits = int((lm.max_length or 1 << 20) * _CHARS_PER_TOKEN / candidates)
    return max(_PASSAGE_CHARS[0], min(_PASSAGE_CHARS[1], fits))


def _named(hit: Any) -> Document:
    """The document of a hit; without an id it is called by its place in the collection, so that it can be cited."""
    document: Document = hit.document
    return document if document.id is not None else replace(document, id=str(hit.index))


def _fit(use: Callable[[list[Document]], _T], documents: list[Document], verb: str, notes: list[str]) -> _T:
    """Call `use` on as many of the first documents as the model's context takes; leaving some out is noted."""
    kept = documents
    while True:
        try:
            out = use(kept)
        except ContextOverflowError as error:
            if len(kept) == 1:
                raise
            share = error.limit / error.tokens
            kept = kept[: max(1, min(len(kept) - 1, int(len(kept) * share)))]
            continue
        if len(kept) < len(documents):
            notes.append(f"Only the first {len(kept)} of {len(documents)} passages fit the model and were {verb}.")
        return out
