"""The match rule M of Parenting (parenting.md 3.6): when what a model said is one of some answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

from headwater.data.world.answers import normalise

LONGEST = 32  # tokens of an output that are looked at
# Scripts without spaces between words (kana, bopomofo, Han and its extensions): every character is a token.
_UNSPACED = re.compile(
    "([\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
Verdict = Literal["document", "memory", "both", "neither"]


@lru_cache(maxsize=2**16)  # the same documents are looked through for many answers
def tokens(text: str) -> tuple[str, ...]:
    """Words of a text after NFKC, in lower case, without punctuation, English articles and the possessive 's.

    Signs and decimal points of numbers stay, so that 2.9 is not 29. Chinese and Japanese characters are tokens of their
    own, whatever the space between them.
    """
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    plain = re.sub(r"(?<=\d)-(?=\d)", " ", plain)  # 1939-1945 is two numbers; the sign of UTC-1 is one
    plain = re.sub(r"(?<=\w)'[sS]?(?!\w)", "", plain)  # Denver's walls and the players' wages state Denver and players
    return tuple(_UNSPACED.sub(r" \1 ", normalise(plain)).split())


def first_line(output: str) -> str:
    """The first line of an output that is not blank."""
    return output.strip().split("\n")[0].strip()


def hits(output: str, answers: str | Iterable[str]) -> bool:
    """Whether one of the answers stands as a sequence of tokens in the first 32 tokens of the output's first line."""
    return any_in(tokens(first_line(output))[:LONGEST], answers)


def stated_in(text: str, answers: str | Iterable[str]) -> bool:
    """Whether one of the answers stands anywhere in a text."""
    return any_in(tokens(text), answers)


def same(output: str, answers: str | Iterable[str]) -> bool:
    """Exact match: the first line of the output is one of the answers."""
    said = tokens(first_line(output))
    return bool(said) and any(said == tokens(answer) for answer in _several(answers))


def verdict(output: str, in_documents: Sequence[str], in_memory: Sequence[str]) -> Verdict:
    """Whose answer an output gives; one that hits both counts for neither, and is told apart as "both"."""
    document, memory = hits(output, in_documents), hits(output, in_memory)
    if document and memory:
        return "both"
    return "document" if document else "memory" if memory else "neither"


def any_in(said: Sequence[str], answers: str | Iterable[str]) -> bool:
    """Whether one of the answers stands in a list of tokens; an answer without tokens stands nowhere."""
    for answer in _several(answers):
        wanted = tokens(answer)
        if wanted and any(said[at : at + len(wanted)] == wanted for at in range(len(said) - len(wanted) + 1)):
            return True
    return False


def _several(answers: str | Iterable[str]) -> Iterable[str]:
    return (answers,) if isinstance(answers, str) else answers
