"""A model set by hand that is torn: one head reads, one remembers, one says what nobody asked for.

`torn_lm` is the planted reader with three heads in layer 1: `READER` copies the value word of the context, and where
there is none says `MEMORY` softly; `REMEMBERING` always says `MEMORY`; `CHATTING` always says `NOISE`. All other heads
do nothing. So turning `READER` up helps the documents' answer, and memory's where nothing is shown; turning `CHATTING`
down helps whatever is wanted; taking `REMEMBERING` out moves the model towards its documents.
"""

from __future__ import annotations

import random

import torch

from headwater.data.conflict import ConflictExample
from planted_reader import _HEAD_DIM, FILLERS, READER, VALUES, WORDS, reading_lm

REMEMBERING, CHATTING = (1, 0), (1, 1)
MEMORY, NOISE = VALUES[0], FILLERS[-1]


def torn_lm(reading: float = 0.2, remembering: float = 0.15, chatting: float = 0.25):
    """The planted model; the strengths are what each head writes per unit it reads."""
    lm, words = reading_lm(), len(WORDS)
    attention = lm.model.model.layers[1].self_attn
    first, second = slice(0, _HEAD_DIM), slice(_HEAD_DIM, 2 * _HEAD_DIM)  # the two key/value heads
    values = [WORDS.index(word) for word in VALUES]
    with torch.no_grad():
        for place in range(words):
            if place not in values:
                attention.v_proj.weight[second][0, place] = 0.5  # VALUES[0] is MEMORY
        attention.o_proj.weight[:, READER[1] * _HEAD_DIM : (READER[1] + 1) * _HEAD_DIM] *= reading
        attention.v_proj.weight[first] = 0.0
        attention.v_proj.weight[first][0, 2 * words] = 1.0
        for (_, head), word, strength in ((REMEMBERING, MEMORY, remembering), (CHATTING, NOISE, chatting)):
            attention.o_proj.weight[words + WORDS.index(word), head * _HEAD_DIM] = strength
    return lm


def torn_examples(n: int = 4) -> list[ConflictExample]:
    """Questions beside a document of two sentences, the first of which states a value word that is not `MEMORY`."""
    draw, out = random.Random(0), []
    for number in range(n):
        value = VALUES[1 + number % (len(VALUES) - 1)]
        text = f"{' '.join(draw.sample(FILLERS[:-1], 3))} {value} . {' '.join(draw.sample(FILLERS[:-1], 4))} ."
        out.append(ConflictExample(f"w0 w{number + 1}", [text], value, MEMORY, group=f"group {number % 2}"))
    return out
