"""`MassSettings`: every switch of the document score that detectors and rankers share (qrhead.md 4)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from headwater.data.documents import check_text
from headwater.errors import InputError
from headwater.prompt import PromptTemplate

TailPart = Literal["full", "query+suffix", "query", "core"]
DocSpan = Literal["full", "unlabelled", "body"]
Order = Literal["reversed", "given", "shuffled"]
CHOICES = {
    "tail": ("full", "query+suffix", "query", "core"),
    "doc_span": ("full", "unlabelled", "body"),
    "reduce": ("mean", "sum"),
    "order": ("reversed", "given", "shuffled"),
}
PROMPT_SWITCHES = ("template", "instruction", "null_query", "tail", "doc_span")  # what a ranker takes from a head set


@dataclass(frozen=True)
class MassSettings:
    """The switches of the score that detectors and rankers share. Defaults are those of QRHead's released code.

    Attributes:
        template: "auto", "chat", "base" or "bare" (see `headwater.prompt.prompt_template`).
        instruction: "rank", "answer", or a sentence of your own.
        null_query: the query whose attention is subtracted; "" puts nothing behind `Query:`.
        calibrate: subtract it at all.
        outlier_filter: leave out tokens more than two sigma below their document's mean.
        tail: the tokens that attention is averaged over: "full" (instruction, query, suffix), "query+suffix", "query"
            (its words only, as the QRHead paper says), "core" (instruction, query, first token of the suffix: CoRe's
            code). The prompt stays the same.
        doc_span: the tokens of a document that are summed: "full" (`[i] title\\ntext`), "unlabelled" (without `[i]`:
            CoRe), "body" (the text alone; the title where there is no text). The prompt stays the same.
        reduce: over heads, "mean" or "sum"; the order of the documents is the same.
        dedupe: read identical documents once and let them share their score; otherwise copies dilute each other.
        max_doc_tokens: read so many tokens of each text (None: all of it); titles are never cut.
        overlap_idf: ReAttn-like, see `headwater.heads.reattn`.
        entropy: ReAttn-like, the exponent gamma; 0 is off.

    Raises:
        InputError: a value that is none of these.
    """

    template: str = "auto"
    instruction: str = "rank"
    null_query: str = "N/A"
    calibrate: bool = True
    outlier_filter: bool = True
    tail: TailPart = "full"
    doc_span: DocSpan = "full"
    reduce: Literal["mean", "sum"] = "mean"
    dedupe: bool = True
    max_doc_tokens: int | None = None
    overlap_idf: bool = False
    entropy: float = 0.0

    def __post_init__(self) -> None:
        """Refuse unknown values before any forward runs; white space is no null query."""
        for name in ("tail", "doc_span", "reduce"):
            check_choice(name, getattr(self, name))
        if self.max_doc_tokens is not None and self.max_doc_tokens < 1:
            raise InputError(f"max_doc_tokens must be at least 1, got {self.max_doc_tokens}.")
        if not (math.isfinite(self.entropy) and self.entropy >= 0):
            raise InputError(f"The exponent of the entropy must be 0 or more, got {self.entropy}.")
        object.__setattr__(self, "null_query", check_text(self.null_query, "The null query").strip())


def check_choice(name: str, value: object) -> None:
    """Refuse a value that a switch does not know.

    Raises:
        InputError: names those it knows.
    """
    if value not in CHOICES[name]:
        raise InputError(f"Unknown {name} {value!r}; use one of {', '.join(CHOICES[name])}.")


def counted_tail(template: PromptTemplate, settings: MassSettings, query: str) -> tuple[list[int], tuple[int, int]]:
    """The tail of a query up to its last token that counts, and the half-open span of those that count.

    What stands behind the last of them cannot change their attention, so it need not run.

    Raises:
        InputError: nothing counts (an empty null query, of which only its words or its suffix would).
    """
    tail = template.parted_tail(query)
    start = tail.own if settings.tail in ("query", "query+suffix") else 0
    stop = {"query": tail.suffix, "core": tail.suffix + 1}.get(settings.tail, len(tail.ids))
    stop = min(stop, len(tail.ids))
    if start == stop:
        raise InputError(
            f"tail={settings.tail!r} leaves no token of an empty null query to average over: use tail='full', a null "
            "query such as 'N/A', or calibrate=False."
        )
    return tail.ids[:stop], (start, stop)


def prompt_order(order: Order, documents: int, key: str) -> list[int]:
    """The places of the documents of a list in the order of the prompt; "shuffled" is drawn from `key`."""
    places = list(range(documents))
    if order == "reversed":
        places.reverse()
    elif order == "shuffled":
        random.Random(key).shuffle(places)
    return places
