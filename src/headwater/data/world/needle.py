"""A fact hidden in text about something else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from headwater.data.documents import Document
from headwater.data.world.answers import states
from headwater.data.world.corpus import document
from headwater.data.world.examples import ReadingExample, check_counts, enough
from headwater.data.world.wordings import questions
from headwater.errors import InputError


def needle_examples(
    split: str,
    n: int,
    paragraphs: Sequence[str],
    length: int,
    depth: float | None = None,
    measure: Callable[[str], int] = len,
    seed: int = 0,
    wording: int | None = None,
) -> list[ReadingExample]:
    """`n` questions, each with one long document of foreign paragraphs in which one sentence states the answer.

    The sentence stands on a line of its own between two paragraphs. `metadata` of the document holds ``start`` and
    ``end``, its characters, and ``depth``, the share of the text before it.

    Args:
        split: of the countries.
        n: number of examples.
        paragraphs: the hay, for example paragraphs of a novel; those that state the answer or name the country are left
            out. Each document starts at another paragraph and wraps around.
        length: size of the document at most, in units of `measure`.
        depth: share of the paragraphs before the needle, 0 to 1 (None: drawn for each question).
        measure: size of a text (default: characters; for tokens pass ``lambda t: len(tokenizer(t).input_ids)``).
        seed: of questions, starts and depths.
        wording: as in `questions`.

    Raises:
        InputError: for an unknown split, a depth outside 0 to 1, numbers that cannot be met, or a length into which the
            needle and one paragraph do not fit.
    """
    check_counts(n, 1)
    if depth is not None and not 0 <= depth <= 1:
        raise InputError(f"The depth of a needle is a share between 0 and 1, got {depth}.")
    if not paragraphs or isinstance(paragraphs, str):
        raise InputError("Give a list of paragraphs to hide the needle in.")
    sizes = [measure(p + "\n") for p in paragraphs]
    out = []
    for q in questions(split, seed, wording, limit=n):
        draw = random.Random(f"headwater/needle/{q.id}/{seed}/{length}")
        needle = document(q.country, [q.relation]).text
        room, hay = length - measure(needle + "\n"), []
        first = draw.randrange(len(paragraphs))
        for index in range(len(paragraphs)):
            place = (first + index) % len(paragraphs)
            if sizes[place] > room:
                break
            if states(paragraphs[place], q.answers[0]) or states(paragraphs[place], q.country):
                continue
            room -= sizes[place]
            hay.append(paragraphs[place])
        if not hay:
            raise InputError(f"A needle and a paragraph of {sizes[first]} do not fit into {length}; give more room.")
        share = draw.random() if depth is None else depth
        text, start = _hidden(needle, hay, share)
        while measure(text) > length and len(hay) > 1:  # sizes of parts need not add up to that of the whole
            hay.pop()
            text, start = _hidden(needle, hay, share)
        where = {"country": q.country, "relations": (q.relation,), "start": start}
        where |= {"end": start + len(needle), "depth": start / len(text)}
        shown = Document(text, id=f"{q.id}/needle", metadata=where)
        out.append(ReadingExample(q, (shown,), (0,), q.answers))
    return enough(out, n, split)


def _hidden(needle: str, hay: list[str], share: float) -> tuple[str, int]:
    """The text with the needle after so large a share of the paragraphs, and where the needle starts."""
    cut = round(share * len(hay))
    start = sum(len(paragraph) + 1 for paragraph in hay[:cut])
    return "\n".join([*hay[:cut], needle, *hay[cut:]]), start
