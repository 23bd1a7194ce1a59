"""Lists that do not fit one prompt: shorten the documents, or rank them in windows (qrhead.md 6.7).

Attention mass is relative to its window, so scores of two windows are never compared directly:

- ``truncate``: every document is cut to the same number of tokens, 64 at least; one prompt.
- ``tournament``: windows dealt at random; the better half of each goes on, until one window is left. About 2x the
  tokens of one prompt.
- ``anchors``: three fixed documents stand in every window, and scores are taken relative to theirs. About 1x.
- ``slide``: windows from the back of the list to its front, half a window at a time, each sorted (RankGPT, arXiv
  2304.09542). About 2x; the order that was given matters.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from headwater.data.documents import Document
from headwater.errors import ContextOverflowError

STRATEGIES = ("raise", "truncate", "tournament", "anchors", "slide")
SHORTEST = 64  # tokens that truncation leaves of a document
ANCHORS = (
    "The committee met in spring and agreed to meet again in autumn. Nothing else was decided.",
    "Water boils at a lower temperature on high mountains, because the air presses less there.",
    "The second volume contains the index, a list of plates, and the corrections to the first.",
)
Score = Callable[[Sequence[Document]], np.ndarray]


@dataclass(frozen=True)
class Room:
    """What a prompt holds.

    Attributes:
        lengths: tokens of each document in the prompt, separators included.
        budget: tokens that are left for documents.
        limit: tokens the model reads.
        window: most documents of a window, or None.
    """

    lengths: Sequence[int]
    budget: int
    limit: int
    window: int | None = None

    def fits(self, places: Sequence[int]) -> bool:
        """Whether these documents make one window."""
        total = sum(self.lengths[place] for place in places)
        return total <= self.budget and (self.window is None or len(places) <= self.window)

    def overflow(self) -> ContextOverflowError:
        """The error for documents too long to be compared."""
        return ContextOverflowError(
            f"The longest documents do not fit one prompt with another one: the model reads {self.limit:,} tokens; "
            "shorten them, or use overflow='truncate' (--overflow truncate).",
            tokens=self.limit - self.budget + sum(self.lengths),
            limit=self.limit,
        )


Order = list[tuple[int, float]]  # place in the list, score; best first


def tournament(documents: Sequence[Document], score: Score, room: Room, seed: int) -> tuple[Order, int]:
    """The better half of every window goes on until one window is left; order and number of windows."""
    draw = random.Random(seed)
    alive, count = list(range(len(documents))), 0
    rounds: list[Order] = []
    while True:
        groups = _deal(draw.sample(alive, len(alive)), room)
        count += len(groups)
        ranked = [_sorted(documents, sorted(group), score) for group in groups]
        if len(groups) == 1:
            rounds.append(ranked[0])
            return [pair for finished in reversed(rounds) for pair in finished], count
        kept = [(len(group) + 1) // 2 for group in ranked]
        following = [place for group, k in zip(ranked, kept, strict=True) for place, _ in group[:k]]
        if len(following) == len(alive):
            raise room.overflow()
        out = [
            (rank, -value, place)
            for g, k in zip(ranked, kept, strict=True)
            for rank, (place, value) in enumerate(g)
            if rank >= k
        ]
        rounds.append([(place, -value) for _, value, place in sorted(out)])
        alive = following


def anchors(documents: Sequence[Document], score: Score, room: Room, taken: int) -> tuple[Order, int]:
    """Scores as deviations from those of three fixed documents in the same window; `taken`: tokens of those three."""
    fixed = [Document(text) for text in ANCHORS]
    inside = Room(room.lengths, room.budget - taken, room.limit, room.window)
    groups = _deal(list(range(len(documents))), inside)
    if any(not inside.fits(group) for group in groups):
        raise room.overflow()
    out: Order = []
    for group in groups:
        scores = score([*fixed, *(documents[place] for place in group)])
        known = scores[: len(fixed)]
        spread = float(known.std(ddof=1)) or 1.0
        out += [
            (place, float((s - known.mean()) / spread)) for place, s in zip(group, scores[len(fixed) :], strict=True)
        ]
    return sorted(out, key=lambda pair: (-pair[1], pair[0])), len(groups)


def slide(documents: Sequence[Document], score: Score, room: Room) -> tuple[Order, int]:
    """One pass of overlapping windows from the back to the front."""
    longest = np.cumsum(sorted(room.lengths, reverse=True))
    width = int((longest <= room.budget).sum())
    width = width if room.window is None else min(width, room.window)
    if width < 2:
        raise room.overflow()
    order: Order = [(place, 0.0) for place in range(len(documents))]
    start, count = max(0, len(order) - width), 0
    while True:
        places = [place for place, _ in order[start : start + width]]
        order[start : start + width] = _sorted(documents, places, score)
        count += 1
        if start == 0:
            return order, count
        start = max(0, start - max(1, width // 2))


def truncate(
    documents: Sequence[Document], room: Room, shorten: Callable[[Document, int], Document]
) -> tuple[list[Document], int]:
    """The documents cut to one number of tokens at which all fit, and how many were cut.

    Raises:
        ContextOverflowError: even 64 tokens of each are too many.
    """
    low, high = 0, max(room.lengths)
    while low < high:  # the largest cap that fits
        cap = (low + high + 1) // 2
        if sum(min(length, cap) for length in room.lengths) <= room.budget:
            low = cap
        else:
            high = cap - 1
    if low < SHORTEST:
        raise ContextOverflowError(
            f"{len(documents)} documents cut to {SHORTEST} tokens do not fit what the model reads ({room.limit:,}); "
            "use overflow='tournament' (--overflow tournament).",
            tokens=room.limit - room.budget + len(documents) * SHORTEST,
            limit=room.limit,
        )
    cut = [length > low for length in room.lengths]
    return [shorten(d, low) if short else d for d, short in zip(documents, cut, strict=True)], sum(cut)


def _deal(places: Sequence[int], room: Room) -> list[list[int]]:
    """Windows of nearly equal numbers of documents, as few as fit."""
    for count in range(1, len(places) + 1):
        groups = [list(places[start::count]) for start in range(count)]
        if all(room.fits(group) for group in groups):
            return groups
    raise room.overflow()


def _sorted(documents: Sequence[Document], places: Sequence[int], score: Score) -> Order:
    scores = score([documents[place] for place in places])
    order = np.argsort(-scores, kind="stable")
    return [(places[i], float(scores[i])) for i in order]
