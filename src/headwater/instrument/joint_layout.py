"""Rows of a joint pass: which token stands where, whose it is, and what it may see (llara.md 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True)
class Layout:
    """Rows of examples with their tails. Int64 tensors; `[B, L]` where nothing else is said.

    Attributes:
        ids: token ids, 0 on pads.
        owners: number of the example, -1 on pads.
        segments: 0 prefix and text, 1.. the tails, -1 pads.
        positions: 0 .. n-1 for the text, n .. again and again for each tail, 0 on pads.
        slots: places of the slots in the flattened rows, `[examples, tails, slots]`.
        before: places in front of every text token that has one, example by example, `[M]`.
        said: ids of these tokens, `[M]`.
    """

    ids: torch.Tensor
    owners: torch.Tensor
    segments: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    before: torch.Tensor
    said: torch.Tensor

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        return Layout(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def lay_out(
    texts: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    slots: int,
    prefix: int = 0,
    width: int | None = None,
    multiple: int = 1,
) -> Layout:
    """Put examples into rows, padded on the right.

    Args:
        texts: token ids of prefix and text.
        tails: token ids of the tails behind each of them.
        slots: how many tokens at the end of a tail are slots.
        prefix: tokens of a text that nothing has to say.
        width: tokens of a row that several examples share; None: a row for each.
        multiple: rows have a multiple of so many tokens.
    """
    behind = sum(len(tail) for tail in tails)
    sizes = [len(text) + behind for text in texts]
    rows = pack(sizes, width) if width is not None else [[number] for number in range(len(texts))]
    longest = max(sum(sizes[number] for number in row) for row in rows)
    length = -(-longest // multiple) * multiple
    ids, owners, segments, positions = (torch.full((len(rows), length), fill) for fill in (0, -1, -1, 0))
    places: list[list[list[int]]] = [[] for _ in texts]
    before: list[list[int]] = [[] for _ in texts]
    for height, row in enumerate(rows):
        start = 0
        for number in row:
            text = texts[number]
            stop = start + sizes[number]
            own = [0] * len(text) + [segment for segment, tail in enumerate(tails, 1) for _ in tail]
            steps = [*range(len(text)), *(len(text) + place for tail in tails for place in range(len(tail)))]
            ids[height, start:stop] = torch.tensor([*text, *(token for tail in tails for token in tail)])
            owners[height, start:stop] = number
            segments[height, start:stop] = torch.tensor(own)
            positions[height, start:stop] = torch.tensor(steps)
            flat = height * length + start
            before[number] = [flat + place - 1 for place in range(max(1, prefix), len(text))]
            end = flat + len(text)
            for tail in tails:
                end += len(tail)
                places[number].append(list(range(end - slots, end)))
            start = stop
    said = [token for text in texts for token in text[max(1, prefix) :]]
    return Layout(
        ids,
        owners,
        segments,
        positions,
        torch.tensor(places, dtype=torch.long).reshape(len(texts), len(tails), slots),
        torch.tensor([place for own in before for place in own], dtype=torch.long),
        torch.tensor(said, dtype=torch.long),
    )


def pack(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Which examples share a row of `width` tokens: the longest first, each into the first row with room.

    An example that is longer than a row gets one of its own. Rows and their members are in the order of the examples.
    """
    rows: list[list[int]] = []
    left: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        place = next((place for place, room in enumerate(left) if room >= sizes[number]), len(rows))
        if place == len(rows):
            rows.append([])
            left.append(width)
        rows[place].append(number)
        left[place] -= sizes[number]
    return sorted(sorted(row) for row in rows)


def padded(rows: Sequence[Sequence[int]], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask `[rows, longest]`; 0 on pads."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        own = slice(longest - len(row), None) if left else slice(0, len(row))
        ids[place, own] = torch.tensor(list(row), dtype=torch.long)
        mask[place, own] = 1
    return ids, mask
