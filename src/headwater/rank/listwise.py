"""`RankGPT`: the model is asked for an order of the passages, and writes one down."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import ContextOverflowError, InputError
from headwater.model.greedy import greedy
from headwater.prompt import prompt_template
from headwater.rank.ranked import Ranked, Ranking

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

PARSERS = ("tolerant", "strict")
CUE = "Ranked Passages: ["
_PASSAGES = 20  # that max_new_tokens are meant for
_ORDER = re.compile(r"\s*\[[0-9]+\](\s*>\s*\[[0-9]+\])*\s*\.?\s*")


class ListwiseRanking(Ranking):
    """Documents best first, and how often the model was asked.

    Attributes:
        calls: prompts the ranking took; also `windows`.
        well_formed: how many of their answers were `[a] > [b] > ...` with every passage exactly once.
    """

    def __init__(self, documents: Iterable[Ranked], calls: int, well_formed: int) -> None:
        """Keep the list and the two counts."""
        super().__init__(documents, "one prompt" if calls < 2 else "slide", calls)
        self.calls, self.well_formed = calls, well_formed


class RankGPT:
    """Rank documents by permutation generation (RankGPT, arXiv 2304.09542; qrhead.md 3.7).

    A window of passages `[i] title text` is put between two mentions of the query, and the model, whose answer is
    begun with `Ranked Passages: [`, goes on greedily: `3] > [1] > [2]`. The window slides from the back of the list to
    its front; the last one begins at the front, whatever the step. D documents take ceil((D - window) / step) + 1
    calls, one where they all fit a window (the one-shot form), none where there is nothing to order. The order that was
    given matters: it decides which passages meet, and stays where an answer says nothing.

    Args:
        lm: a loaded model.
        window: passages of a prompt.
        step: how far the window moves.
        words: words that a passage is cut to, its title included.
        parse: "tolerant" takes the numbers in their order, drops strangers and repeats, and appends what is missing
            (the authors'); "strict" keeps the order as it was when the answer has any flaw.
        max_new_tokens: tokens an answer may have, for up to 20 passages; in proportion for more. An answer is also
            over once it has named every passage.
        template: "auto", "chat" or "base".

    Raises:
        InputError: an unknown parser or template, or a number out of range.
    """

    def __init__(
        self,
        lm: LanguageModel,
        window: int = 20,
        step: int = 10,
        words: int = 300,
        parse: Literal["tolerant", "strict"] = "tolerant",
        max_new_tokens: int = 100,
        template: str = "auto",
    ) -> None:
        """Check the numbers and prepare the prompt template."""
        if window < 2 or not 1 <= step <= window:
            raise InputError(
                f"RankGPT needs a window of at least 2 passages and a step of 1 to the window, got window={window}, "
                f"step={step}."
            )
        if words < 1 or max_new_tokens < 1:
            raise InputError(f"words and max_new_tokens must be at least 1, got {words} and {max_new_tokens}.")
        if parse not in PARSERS:
            raise InputError(f"Unknown parse {parse!r}; use one of {', '.join(PARSERS)}.")
        self.lm, self.window, self.step, self.words = lm, window, step, words
        self.strict, self.max_new_tokens = parse == "strict", max_new_tokens
        self._template = prompt_template(lm.tokenizer, template)

    def rank(self, query: str, documents: Iterable[DocumentLike], top_k: int | None = None) -> ListwiseRanking:
        """Sort documents, best first.

        Args:
            query: the question.
            documents: `Document`s or strings, in first-stage order.
            top_k: how many to give back (None: all); all are ranked.

        Returns:
            The ranking. A score is minus the place (0.0, -1.0, ...) and says nothing about how relevant a document is;
            blank documents come last, with -inf.

        Raises:
            InputError: a blank query, all documents blank, or top_k below 1.
            ContextOverflowError: a prompt and its answer are longer than the model reads.
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k must be at least 1, got {top_k}.")
        given, query = as_documents(documents), check_query(query)
        places = [place for place, document in enumerate(given) if not document.blank]
        if given and not places:
            raise InputError("Every document is blank; give at least one with text.")
        calls = well_formed = 0
        start = max(0, len(places) - self.window)
        while len(places) > 1:
            inside = places[start : start + self.window]
            order, flawless = self._ask(query, [given[place] for place in inside])
            places[start : start + self.window] = [inside[i] for i in order]
            calls, well_formed = calls + 1, well_formed + flawless
            if start == 0:
                break
            start = max(0, start - self.step)
        found = [Ranked(p, given[p].id, float(-place), given[p]) for place, p in enumerate(places)]
        found += [Ranked(p, document.id, -math.inf, document) for p, document in enumerate(given) if document.blank]
        return ListwiseRanking(found[:top_k], calls, well_formed)

    def score(self, query: str, documents: Iterable[DocumentLike]) -> np.ndarray:
        """The scores of `rank`: float32 `[documents]` in input order. Raises what `rank` raises."""
        ranking = self.rank(query, documents)
        scores = np.zeros(len(ranking), np.float32)
        for ranked in ranking:
            scores[ranked.index] = ranked.score
        return scores

    def _ask(self, query: str, documents: Sequence[Document]) -> tuple[list[int], bool]:
        """New order of one window, and whether the answer had no flaw."""
        ids = self._prompt(query, documents)
        room = math.ceil(self.max_new_tokens * max(1.0, len(documents) / _PASSAGES))
        if len(ids) + room > self.lm.max_length:
            raise ContextOverflowError(
                f"A window of {len(documents)} passages takes {len(ids)} tokens and {room} for the answer, but "
                f"{self.lm.name} reads {self.lm.max_length}; use a smaller window or fewer words.",
                tokens=len(ids) + room,
                limit=self.lm.max_length,
            )
        return parse_order(self._generate(ids, room, len(documents)), len(documents), self.strict)

    def _prompt(self, query: str, documents: Sequence[Document]) -> list[int]:
        """Token ids of one window's prompt, up to the beginning of the answer."""
        template, count = self._template, len(documents)
        pieces = [
            f"Here are {count} passages, each behind a number in square brackets. They will have to be ordered by how "
            f"well they answer this query: {query}"
        ]
        for number, document in enumerate(documents, 1):
            words = f"{document.title or ''} {document.text}".split()[: self.words]
            pieces.append(f"[{number}] {' '.join(words)}")
        pieces.append(f"Query: {query}")
        pieces.append(
            f"Order the {count} passages above by how well they answer the query, the best one first. Reply in the "
            "form [a] > [b] > ... with the number of every passage once, and write nothing else."
        )
        separator = template.encode(template.separator)
        ids = [*template.header, *template.encode(pieces[0])]
        for piece in pieces[1:]:
            ids += [*separator, *template.encode(piece)]
        ids += template.suffix if template.name == "chat" else separator
        return [*ids, *template.encode(CUE)]

    def _generate(self, ids: list[int], room: int, count: int) -> str:
        """The answer's text, the bracket of the cue in front."""
        import torch

        def text(new: Iterable[int]) -> str:
            return "[" + str(self.lm.tokenizer.decode(list(new), skip_special_tokens=True))

        def stop(seen: Any, scores: Any, **_: Any) -> Any:
            closed = {int(number) for number in re.findall("[0-9]+(?=[^0-9])", text(seen[0, len(ids) :].tolist()))}
            return torch.tensor([closed >= set(range(1, count + 1))], device=seen.device)

        return text(greedy(self.lm, ids, room, stopping_criteria=[stop]))


def parse_order(answer: str, count: int, strict: bool = False) -> tuple[list[int], bool]:
    """Read an order of `count` passages out of an answer such as `[3] > [1] > [2]`.

    Args:
        answer: what the model wrote, the opening bracket included.
        count: how many passages there were; the first is number 1.
        strict: keep the order as it was when the answer has any flaw, instead of taking what can be taken.

    Returns:
        All places 0 to count - 1, best first, and whether the answer had no flaw.
    """
    named = [int(number) - 1 for number in re.findall("[0-9]+", answer)]
    flawless = _ORDER.fullmatch(answer) is not None and sorted(named) == list(range(count))
    kept = [] if strict and not flawless else [place for place in dict.fromkeys(named) if 0 <= place < count]
    seen = set(kept)
    return [*kept, *(place for place in range(count) if place not in seen)], flawless
