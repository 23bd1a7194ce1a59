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

from headwater.data.documents import Document
from headwater.errors import InputError, LocalHeadError
from headwater.headset import Head
from headwater.instrument.prefix import SharedPrefix
from headwater.model.lm import LanguageModel
from headwater.model.memory import memory, require, within_memory
from headwater.prompt import PromptTemplate, prompt_template


@dataclass(frozen=True)
class MassSettings:
    """The switches of the score that detectors and rankers share.

    Attributes:
        template: "auto", "chat" or "base" (see `headwater.prompt.prompt_template`).
        instruction: "rank", "answer", or a sentence of your own.
        null_query: the query whose attention is subtracted.
        calibrate: subtract it at all.
        outlier_filter: leave out tokens more than two sigma below their document's mean.
    """

    template: str = "auto"
    instruction: str = "rank"
    null_query: str = "N/A"
    calibrate: bool = True
    outlier_filter: bool = True


def span_scores(tokens: torch.Tensor, spans: Sequence[tuple[int, int]], *, outlier_filter: bool = True) -> torch.Tensor:
    """Sum token scores over spans, without low outliers (qrhead.md 3.3).

    Args:
        tokens: float `[..., prefix tokens]`.
        spans: half-open token spans.
        outlier_filter: keep a token only if it is above mean - 2 sigma of its span (unbiased sigma). Inert for spans
            of fewer than two tokens, where sigma is undefined, and where sigma is zero.

    Returns:
        float `[..., spans]`.
    """
    sums = []
    for start, end in spans:
        inside = tokens[..., start:end]
        if outlier_filter and end - start > 1:
            sigma = inside.std(-1, keepdim=True)
            keep = (inside > inside.mean(-1, keepdim=True) - 2 * sigma) | (sigma == 0)
            inside = inside * keep
        sums.append(inside.sum(-1))
    return torch.stack(sums, -1)


@dataclass(frozen=True)
class TokenMass:
    """Calibrated attention of every head to every prompt token, for one query over one list of documents.

    Attributes:
        heads: the heads of the first axis of `tokens`.
        tokens: fp32 `[heads, prefix tokens]`.
        spans: token span of each distinct document in the prompt.
        place: per input document its index in `spans`, or None for a blank one.
        outlier_filter: whether sums leave out low outliers.
        local: the heads that could not see the whole prompt through their sliding window.
    """

    heads: list[Head]
    tokens: torch.Tensor
    spans: list[tuple[int, int]]
    place: list[int | None]
    outlier_filter: bool
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

        Heads are summed per token (with `weights`), then filtered, then divided by the number of heads.
        """
        rows = self.tokens
        if heads is not None:
            where = {head: row for row, head in enumerate(self.heads)}
            rows = rows[[where[head] for head in heads]]
        if weights is not None:
            rows = rows * torch.tensor(weights, dtype=rows.dtype, device=rows.device)[:, None]
        return self._by_document(rows.mean(0))

    def _by_document(self, tokens: torch.Tensor) -> torch.Tensor:
        sums = span_scores(tokens, self.spans, outlier_filter=self.outlier_filter)
        blank = torch.full_like(sums[..., 0], -torch.inf)
        return torch.stack([blank if place is None else sums[..., place] for place in self.place], -1)


class PreparedDocuments:
    """A list of documents prefilled once; `mass` reads one query over it.

    Identical documents are read once and share their score (two copies would dilute each other); blank ones are left
    out of the prompt.

    Args:
        lm: a loaded model.
        documents: the candidates; at least one is not blank.
        heads: heads to read, in the order of the result.
        settings: switches of the score.
        order: input indices in prompt order (None: as given).

    Raises:
        InputError: every document is blank.
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
    ) -> None:
        """Build the prompt and prefill it."""
        self.heads = [(int(layer), int(head)) for layer, head in heads]
        self.settings = settings
        self.template: PromptTemplate = prompt_template(lm.tokenizer, settings.template, settings.instruction)
        first: dict[tuple[str, str], int] = {}
        self.shown: list[Document] = []
        self.place: list[int | None] = [None] * len(documents)
        for index in order if order is not None else range(len(documents)):
            document = documents[index]
            if document.blank:
                continue
            text = ((document.title or "").strip(), document.text.strip())
            if text not in first:
                first[text] = len(self.shown)
                self.shown.append(document)
            self.place[index] = first[text]
        if not self.shown:
            raise InputError("Every document is blank; give at least one with text.")
        prefix = self.template.prefix(self.shown)
        self.spans = prefix.spans
        self._needed = memory(lm, len(prefix.ids), max((layer for layer, _ in self.heads), default=None))
        if lm.max_length is None or len(prefix.ids) <= lm.max_length:  # else the prefill says how long it is
            require(self._needed)
        with within_memory(f"({self._needed})"):
            self._prefix = SharedPrefix(lm, prefix.ids, self.heads)
        self._null: torch.Tensor | None = None

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
        tails = [self.template.tail(query) for query in queries]
        missing = self.settings.calibrate and self._null is None
        found = self._prefix.attentions([self.template.tail(self.settings.null_query)] * missing + tails)
        if missing:
            with within_memory(f"({self._needed})"):
                self._null = next(found).float()
        for tail in tails:
            with within_memory(f"({self._needed})"):
                tokens = next(found)
            calibrated = tokens.float() if self._null is None else tokens.float() - self._null
            local = [self.heads[place] for place in self._prefix.local(tail)]
            yield TokenMass(self.heads, calibrated, self.spans, self.place, self.settings.outlier_filter, local)
