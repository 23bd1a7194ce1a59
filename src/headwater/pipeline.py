"""Documents in, cited answer out: BM25 candidates, ranked by the model's heads, read by the model, cited exactly."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import ContextOverflowError, InputError
from headwater.read.reader import Reader
from headwater.search.bm25 import BM25
from headwater.search.chunk import sentences, split

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel
    from headwater.rank.qr import Ranked

log = logging.getLogger(__name__)
_CHARS_PER_TOKEN = 2.5  # a careful guess for English, to size passages before anything is tokenized
_PASSAGE_CHARS = (160, 1000)
_T = TypeVar("_T")


class Citation(NamedTuple):
    """Where an answer stands: `document.text[start:end] == quote` for the document with this id, always."""

    document_id: str
    start: int
    end: int
    quote: str


@dataclass(frozen=True)
class Answer:
    """What `Pipeline.ask` returns.

    Attributes:
        question: as asked.
        text: the model's answer.
        supported: whether the answer stands word for word in one of the documents read.
        ranking: every candidate passage, best first; `.document.metadata["passage_start"]` is its place in the
            original document.
        citations: the sentence of the highest-ranked document read that holds the answer; empty when unsupported.
        read: how many of the ranking's first passages the model read.
        notes: what had to be left out to fit the model's context, one sentence each.
    """

    question: str
    text: str
    supported: bool
    ranking: list[Ranked]
    citations: tuple[Citation, ...]
    read: int
    notes: tuple[str, ...] = ()


class Ranker(Protocol):
    """Anything that orders documents for a query, `QRRetriever` first."""

    def rank(self, query: str, documents: list[Document], top_k: int | None = None) -> list[Ranked]:
        """Documents best first."""
        ...


class Pipeline:
    """Answers questions over documents with one model that both ranks and reads.

    `index` is a list of documents (or strings), searched in memory with BM25, or an object whose
    `search(query, k=...)` returns hits with `.document`, `.score` and `.index`. Listed documents are split into
    passages that fit the model; documents without an id are named by their position ("0", "1", ...).
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
    ) -> None:
        """Prepare index, ranker and reader.

        Args:
            lm: the model.
            index: documents, or something with `search`.
            ranker: orders the candidates (None: `QRRetriever(lm)`).
            candidates: how many BM25 candidates are ranked.
            read: how many of the best are read.
            max_new_tokens: longest answer, in tokens.
            template: prompt template, as in `prompt_template`.

        Raises:
            InputError: for no documents, duplicate document ids, or counts below 1.
        """
        if candidates < 1 or read < 1:
            raise InputError(f"candidates and read must be at least 1, got {candidates} and {read}.")
        self.lm = lm
        self.candidates, self.read = candidates, read
        self.reader = Reader(lm, max_new_tokens, template)
        self.index = index if hasattr(index, "search") else BM25(self._passages(index))
        if ranker is None:
            from headwater.rank.qr import QRRetriever

            ranker = QRRetriever(lm)
        self.ranker = ranker

    def ask(self, question: str) -> Answer:
        """Find, rank, read, cite.

        Raises:
            InputError: for a blank question.
            ContextOverflowError: when even one passage does not fit the model.
        """
        check_query(question)
        notes: list[str] = []
        hits = self.index.search(question, k=self.candidates)
        if not hits:
            raise InputError("The index holds no documents.")
        found = [_named(hit) for hit in hits]
        if all(hit.score == 0 for hit in hits):
            notes.append(f"No word of the question stands in the documents; the first {len(found)} were ranked.")
        ranking = _fit(lambda kept: self.ranker.rank(question, kept), found, "ranked", notes)
        best = [ranked.document for ranked in ranking[: self.read] if not ranked.document.blank]
        reading = _fit(lambda kept: (self.reader.read(question, kept), len(kept)), best, "read", notes)
        citation = cite(reading[0].text, best[: reading[1]], question)
        for note in notes:
            log.warning("%s", note)
        return Answer(
            question,
            reading[0].text,
            citation is not None,
            ranking,
            () if citation is None else (citation,),
            reading[1],
            tuple(notes),
        )

    def _passages(self, documents: Iterable[DocumentLike]) -> list[Document]:
        """Named passages short enough that all candidates fit one prompt."""
        named = [
            document if document.id is not None else Document(document.text, str(i), document.title, document.metadata)
            for i, document in enumerate(as_documents(documents))
        ]
        ids = [document.id for document in named]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(f"The document id {twice!r} stands twice; citations need unique ids.")
        limit = self.lm.max_length or 1 << 20
        fits = int(limit * _CHARS_PER_TOKEN / self.candidates)
        cut = [passage.as_document() for passage in split(named, max(_PASSAGE_CHARS[0], min(_PASSAGE_CHARS[1], fits)))]
        if not cut:
            raise InputError("There are no documents with any text.")
        return cut


def cite(answer: str, documents: Iterable[Document], question: str = "") -> Citation | None:
    """The sentence that holds the answer, in the first document where it stands.

    Letter case and the kind of white space do not matter; whole words and whole numbers do ("3" is not found in
    "3.5"). Of several sentences of a document the one that shares most words with the question is quoted.
    Documents that are passages carry `metadata["passage_start"]`, and the offsets returned are into the original.

    Returns:
        None when the answer is empty or stands nowhere.
    """
    wanted = _answer_pattern(answer)
    if wanted is None:
        return None
    asked = set(re.findall(r"\w+", question.lower()))
    for position, document in enumerate(documents):
        text = document.text
        best: tuple[int, int, int] | None = None
        spans = sentences(text)
        for match in wanted.finditer(text):
            touched = [span for span in spans if span[0] < match.end() and span[1] > match.start()]
            start, end = touched[0][0], touched[-1][1]
            shared = len(asked & set(re.findall(r"\w+", text[start:end].lower())))
            if best is None or shared > best[0]:
                best = (shared, start, end)
        if best is not None:
            _, start, end = best
            offset = int(document.metadata.get("passage_start", 0))
            name = document.id if document.id is not None else str(position)
            return Citation(name, offset + start, offset + end, text[start:end])
    return None


def _named(hit: Any) -> Document:
    """The document of a hit; without an id it is called by its place in the collection, so that it can be cited."""
    document: Document = hit.document
    return document if document.id is not None else replace(document, id=str(hit.index))


def _answer_pattern(answer: str) -> re.Pattern[str] | None:
    words = answer.strip().strip(".").split()
    if not words or not any(character.isalnum() for character in answer):
        return None
    inner = r"\s+".join(re.escape(word) for word in words)
    # Whole words, and whole numbers: not the 5 of -5, 3.5, 5.3 or 5:30.
    sign = r"(?<![^\d][-+])(?<!\A[-+])" if words[0][0].isdigit() else ""
    return re.compile(rf"(?<!\w)(?<!\d[.,:]){sign}{inner}(?!\w)(?![.,:]\d)", re.IGNORECASE)


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
