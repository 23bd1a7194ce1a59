"""Head sets named on the command line, by files, published names or lists of heads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.headset.headset import HeadSet


def named(texts: Sequence[str]) -> dict[str, str]:
    """Names that stay apart, and what each stands for: the last parts of paths and names where those are enough."""
    names = [text if _is_list(text) else Path(text).stem for text in texts]
    if len(set(names)) < len(names):
        names = list(texts)
    if len(set(names)) < len(names):
        names = [f"{name} ({place})" for place, name in enumerate(names, 1)]
    return dict(zip(names, texts, strict=True))


def read_set(text: str, query_heads: int | None = None) -> HeadSet:
    """A head set file of any format, a published name, or heads `13-18,13-21`.

    Raises:
        InputError: a DuoAttention pattern without the number of query heads, or what `HeadSet.load` raises.
    """
    from headwater.headset.headset import HeadSet, parse_heads
    from headwater.headset.importers import read_duo_attention

    if _is_list(text):
        return HeadSet(parse_heads(text))
    if Path(text).is_dir() or text.endswith(".tsv"):
        if query_heads is None:
            raise InputError(f"{text} is a DuoAttention pattern, of key/value heads; say --query-heads too.")
        scores = read_duo_attention(text, query_heads)
        return scores.top(scores.scores.size)
    return HeadSet.load(text)


def _is_list(text: str) -> bool:
    return re.fullmatch(r"[\d\s,-]+", text) is not None
