"""Calibrated attention mass: what a query's heads put on each document more than an empty query's do.

QRHead (arXiv 2506.09944, eq. 2-4) and ICR (arXiv 2410.02642) in the form of their released code (qrhead.md 3.1-3.3):
attention is the MEAN over the tokens of the tail (instruction, query, suffix), the same for the null query is
subtracted, and a document's score is the SUM over its tokens of what is left, without low outliers. The documents are
prefilled once; each query and the null query are short tails over the same keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from headwater.data.documents import Document, check_query
from headwater.errors import InputError, LocalHeadError
from headwater.heads.reattn import evenness, overlap_factors
from headwater.heads.switches import MassSettings, counted_tail
from headwater.headset import Head
from headwater.instrument.prefix import SharedPrefix
from headwater.model.lm import LanguageModel
from headwater.model.memory import memory, require, within_memory
from headwater.prompt import PromptTemplate, prompt_template


def span_scores(
    tokens: torch.Tensor, spans: Sequence[tuple[int, int]], *, outlier_filter: bool = True, entropy: float = 0.0
) -> torch.Tensor:
    """Sum token scores over spans, without low outliers (qrhead.md 3.3).

    Args:
        tokens: float `[..., prefix tokens]`.
        spans: half-open token spans.
        outlier_filter: keep a token only if it is above mean - 2 sigma of its span (unbiased sigma). Inert for spans
            of fewer than two tokens, where sigma is undefined, and where sigma is zero.
        entropy: exponent of the entropy term (`headwater.heads.reattn`).

    Returns:
        float `[..., spans]`.
    """
    parts = span_parts(tokens, spans, outlier_filter=outlier_filter, entropy=entropy)
    return torch.stack([part.sum(-1) for part in parts], -1)


def span_parts(
    tokens: torch.Tensor, spans: Sequence[tuple[int, int]], *, outlier_filter: bool = True, entropy: float = 0.0
) -> list[torch.Tensor]:
    """What each token of each span adds to the score of its span: `[..., tokens of the span]`; see `span_scores`."""
    parts = []
    for start, end in spans:
        inside = tokens[..., start:end]
        if outlier_filter and end - start > 1:
            sigma = inside.std(-1, keepdim=True)
            keep = (inside > inside.mean(-1, keepdim=True) - 2 * sigma) | (sigma == 0)
            inside = inside * keep
        if entropy:
            inside = inside * evenness(inside)[..., None] ** entropy
        parts.append(inside)
    return parts


@dataclass(frozen=True)
class TokenMass:
    """Calibrated attention of every head to every prompt token, for one query over one list of documents.

    Attributes:
        heads: the heads of the first axis of `tokens`.
        tokens: fp32 `[heads, prefix tokens]`.
        spans: token span of each distinct document in the prompt.
        place: per input document its index in `spans`, or None for a blank one.
        settings: how token scores become document scores.
        local: the heads that could not see the whole prompt through their sliding window.
    """

    heads: list[Head]
    tokens: torch.Tensor
    spans: list[tuple[int, int]]
    place: list[int | None]
    settings: MassSettings
    local: list[Head]

    def require_global(self, heads: Sequence[Head]) -> None:
        """Refuse heads that could not see the whole prompt.

        Raises:
            LocalHeadError: names the first of them.
        """
        blind = [f"{layer}-{head}" for layer, head in heads if (layer, head) in self.local]
        if blind:
            raise LocalHeadError(
                f"Head {', '.join(blind[:4])} sees only a sliding window shorter than this prompt, so the first "
                "documents would get nothing: give fewer documents, heads of full-attention layers, or (in Python) "
                "allow_local=True."
            )

    def per_head(self) -> torch.Tensor:
        """Score of each document by each head alone: fp32 `[heads, documents]`, -inf for blank documents."""
        return self._by_document(self.tokens)

    def combined(self, heads: Sequence[Head] | None = None, weights: Sequence[float] | None = None) -> torch.Tensor:
        """Score of each document by several heads together: fp32 `[documents]`, -inf for blank documents.

        Heads are summed per token (with `weights`), divided by the number of heads (`reduce="mean"`), then filtered.
        """
        return self._by_document(self._reduced(heads, weights))

    def by_token(self, weights: Sequence[float] | None = None) -> list[torch.Tensor]:
        """What each counted token adds to the combined score of its document: per input document fp32 `[tokens]`.

        Zero where the outlier filter leaves a token out, empty for a blank document; their sum is the score.
        """
        rows, own = self._reduced(None, weights), self.settings
        parts = span_parts(rows, self.spans, outlier_filter=own.outlier_filter, entropy=own.entropy)
        return [rows[:0] if place is None else parts[place] for place in self.place]

    def _reduced(self, heads: Sequence[Head] | None, weights: Sequence[float] | None) -> torch.Tensor:
        rows = self.tokens
        if heads is not None:
            where = {head: row for row, head in enumerate(self.heads)}
            rows = rows[[where[head] for head in heads]]
        if weights is not None:
            rows = rows * torch.tensor(weights, dtype=rows.dtype, device=rows.device)[:, None]
        return rows.sum(0) if self.settings.reduce == "sum" else rows.mean(0)

    def _by_document(self, tokens: torch.Tensor) -> torch.Tensor:
        own = self.settings
        sums = span_scores(tokens, self.spans, outlier_filter=own.outlier_filter, entropy=own.entropy)
        blank = torch.full_like(sums[..., 0], -torch.inf)
        return torch.stack([blank if place is None else sums[..., place] for place in self.place], -1)


class PreparedDocuments:
    """A list of documents prefilled once; `mass` reads one query over it.

    Identical documents are read once and share their score (unless `dedupe` is off); blank ones are left out of the
    prompt.

    Args:
        lm: a loaded model.
        documents: the candidates; at least one is not blank.
        heads: heads to read, in the order of the result.
        settings: switches of the score.
        order: input indices in prompt order (None: as given).
        prefix: what prefills them; `TrainablePrefix` gives scores with gradients, for one backward pass.

    Raises:
        InputError: every document is blank, or nothing of the null query's tail counts.
        ContextOverflowError: the documents do not fit what the model reads.
        InsufficientMemoryError: they do not fit the memory of the device.
    """

    def __init__(
        self,
        lm: LanguageModel,
        documents: Sequence[Document],
        heads: Sequence[Head],
        settings: MassSettings,
        order: Sequence[int] | None = None,
        prefix: type[SharedPrefix] = SharedPrefix,
    ) -> None:
        """Build the prompt and prefill it."""
        self.heads = [(int(layer), int(head)) for layer, head in heads]
        self.settings = settings
        self.template: PromptTemplate = prompt_template(lm.tokenizer, settings.template, settings.instruction)
        self._null_tail = counted_tail(self.template, settings, settings.null_query) if settings.calibrate else None
        first: dict[object, int] = {}
        self.shown: list[Document] = []
        self.place: list[int | None] = [None] * len(documents)
        for index in order if order is not None else range(len(documents)):
            document = documents[index]
            if document.blank:
                continue
            if settings.max_doc_tokens is not None:
                document = self.template.shortened(document, settings.max_doc_tokens)
            same = ((document.title or "").strip(), document.text.strip()) if settings.dedupe else index
            if same not in first:
                first[same] = len(self.shown)
                self.shown.append(document)
            self.place[index] = first[same]
        if not self.shown:
            raise InputError("Every document is blank; give at least one with text.")
        built = self.template.prefix(self.shown)
        self._ids = built.ids
        self.spans = [(start + self._left_out(place), end) for place, (start, end) in enumerate(built.spans)]
        self._needed = memory(lm, len(built.ids), max((layer for layer, _ in self.heads), default=None))
        if lm.max_length is None or len(built.ids) <= lm.max_length:  # else the prefill says how long it is
            require(self._needed)
        with within_memory(f"({self._needed})"):
            self._prefix = prefix(lm, built.ids, self.heads)
        self._null: torch.Tensor | None = None

    def texts(self, place: int) -> list[str]:
        """The texts of the tokens of a shown document that count."""
        return self.template.token_texts(self.template.piece(place, self.shown[place]))[self._left_out(place) :]

    def _left_out(self, place: int) -> int:
        """Tokens at the start of a document that `doc_span` leaves out."""
        if self.settings.doc_span == "full":
            return 0
        return self.template.body_start(place, self.shown[place], title=self.settings.doc_span == "unlabelled")

    def mass(self, query: str) -> TokenMass:
        """Calibrated attention of every head to every prompt token.

        Raises:
            InputError: a blank query.
            ContextOverflowError: documents and query together do not fit.
            NonFiniteAttentionError: NaN or infinity in an attention row.
        """
        return next(self.masses([query]))

    def masses(self, queries: Sequence[str]) -> Iterator[TokenMass]:
        """`mass` of each of several queries, several of them (and the null query) to a pass over the documents."""
        own = self.settings
        tails = [counted_tail(self.template, own, check_query(query)) for query in queries]
        missing = [self._null_tail] if self._null_tail is not None and self._null is None else []
        ids, counted = zip(*missing, *tails, strict=True) if missing or tails else ((), ())
        found = self._prefix.attentions(ids, counted)
        if missing:
            with within_memory(f"({self._needed})"):
                self._null = next(found).float()
        for query, (tail, _) in zip(queries, tails, strict=True):
            with within_memory(f"({self._needed})"):
                tokens = next(found).float()
            if self._null is not None:
                tokens = tokens - self._null
            if own.overlap_idf:
                words = self.template.encode(f" {query.strip()}")
                tokens = tokens * overlap_factors(self.template.tokenizer, self._ids, self.spans, words).to(tokens)
            local = [self.heads[place] for place in self._prefix.local(tail)]
            yield TokenMass(self.heads, tokens, self.spans, self.place, own, local)
