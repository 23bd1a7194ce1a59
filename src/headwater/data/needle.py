"""Needle cases: a fact that no model can know, hidden in a long text, with a question (retrieval_heads.md 3.1 and 8).

After Kamradt (2023), "Needle in a Haystack". A case says what is hidden where; `headwater.prompt.needle` builds its
prompt. The built-in needles are sentences about invented countries in the wordings of the fact world, so that the
embedded model can answer as well as large ones; the built-in text states facts of real countries.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from headwater.data.documents import check_query, check_text
from headwater.data.files import read_documents
from headwater.data.records import json_lines
from headwater.data.world.corpus import documents
from headwater.data.world.factbook import relation_named
from headwater.errors import FormatError, InputError

Purpose = Literal["detection", "testing"]
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
BUFFER = 200  # tokens of a case kept for question, template and answer
NEW_TOKENS = 50
SHORTEST, LONGEST, LENGTHS = 256, 8192, 8
_FACTS = {
    "detection": (
        ("capital", "Orvalia", "Tesmarin Vellohout"),
        ("highest_point", "Kestrovia", "Gorm Dulverrak"),
        ("currency", "Brunmarkia", "Quillon dorrimels"),
        ("leader", "Talirland", "Wenzor Abrakowin"),
        ("anthem", "Mivonia", "Lestra Omun Havari"),
        ("lowest_point", "Pelgara", "Zunderoth Yelm"),
    ),
    "testing": (
        ("capital", "Zefaria", "Korlundby Estrel"),
        ("legislature", "Ulmenia", "Harvostrad Menk"),
        ("leader", "Ostrenia", "Pirel Kashumov"),
        ("language", "Vandrakia", "Tharnoveld Isk"),
        ("anthem", "Drelland", "Sivarra Nol Timbeth"),
        ("highest_point", "Harnovia", "Ekkelbrun Toft"),
    ),
}
_SPLITS = {"detection": ("known", "development"), "testing": ("held_out",)}


@dataclass(frozen=True)
class Needle:
    """A sentence to hide, a question about it, and the part of the sentence that answers.

    Attributes:
        statement: the sentence.
        question: what the model is asked.
        answer: stands in the statement, letter by letter and once.
        name: of the needle in results and groups (None: the statement).

    Raises:
        InputError: a blank part, or an answer that is not in the statement, is there twice, or is in the question.
    """

    statement: str
    question: str
    answer: str
    name: str | None = None

    def __post_init__(self) -> None:
        """Check that the answer can be found in the statement, and there only."""
        for text in (self.statement, self.answer):
            check_text(text, "A needle")
        check_query(self.question)
        times = self.statement.count(self.answer)
        if not re.search(r"[^\W_]", self.answer) or self.answer != self.answer.strip() or times != 1:
            found = f"stands in it {times} times" if times else "does not stand in it"
            raise InputError(
                f"The needle {self.statement!r} needs its answer in it once, letter by letter: {self.answer!r} {found}."
            )
        if self.answer.casefold() in self.question.casefold():
            raise InputError(f"The question {self.question!r} gives its answer {self.answer!r} away.")
        if self.name is None:
            object.__setattr__(self, "name", self.statement)


@dataclass(frozen=True)
class NeedleCase:
    """A needle at one depth of one text of one length.

    Attributes:
        needle: what is hidden.
        haystack: paragraphs around it; none holds the answer. A text is split at its blank lines.
        length: tokens of text, needle and `headwater.prompt.needle.needle_prompt`'s buffer together, at most.
        depth: share of the text before the needle, 0 to 1.
        start: the paragraph the text begins with; behind the last one it goes on with the first.

    Raises:
        InputError: no text, a text that holds the answer, a depth outside 0 to 1, or a length below 1.
    """

    needle: Needle
    haystack: Sequence[str]
    length: int
    depth: float
    start: int = 0

    def __post_init__(self) -> None:
        """Check the text once."""
        given = paragraphs_of(self.haystack) if isinstance(self.haystack, str) else tuple(self.haystack)
        object.__setattr__(self, "haystack", given)
        if not given or not all(isinstance(paragraph, str) and paragraph.strip() for paragraph in given):
            raise InputError("Give some text to hide the needle in: paragraphs, none of them blank.")
        answer = self.answer.casefold()
        inside = next((paragraph for paragraph in given if answer in paragraph.casefold()), None)
        if inside is not None:
            raise InputError(
                f"The text holds the answer {self.answer!r} without the needle ({_around(inside, answer)!r}); take "
                "another text or another needle."
            )
        if not 0 <= self.depth <= 1:
            raise InputError(f"The depth of a needle is a share between 0 and 1, got {self.depth}.")
        if self.length < 1:
            raise InputError(f"The length of a case must be at least 1 token, got {self.length}.")

    @property
    def question(self) -> str:
        """What the model is asked."""
        return self.needle.question

    @property
    def answer(self) -> str:
        """What it should say."""
        return self.needle.answer

    @property
    def name(self) -> str:
        """Name of the needle: cases of one needle are one group."""
        return str(self.needle.name)

    @property
    def id(self) -> str:
        """Needle, length and depth."""
        return f"{self.name}/{self.length}/{self.depth:g}"

    @property
    def rotated(self) -> tuple[str, ...]:
        """The paragraphs in the order in which they are read."""
        start = self.start % len(self.haystack)
        return (*self.haystack[start:], *self.haystack[:start])


def needle_cases(
    needles: Sequence[Needle],
    haystack: Sequence[str] | str,
    lengths: Sequence[int],
    depths: Sequence[float] = DEPTHS,
    seed: int = 0,
) -> list[NeedleCase]:
    """Every needle at every depth of a text of every length.

    A needle and a length take the same text at all depths; which paragraph it begins with is drawn by the seed.

    Args:
        needles: what to hide.
        haystack: paragraphs, or a text that is split at its blank lines.
        lengths: in tokens; see `NeedleCase.length` and `lengths_for`.
        depths: shares of the text before the needle, 0 to 1.
        seed: of the first paragraphs.

    Raises:
        InputError: nothing to hide, no length or depth, one of them twice, two needles of one name, or what
            `NeedleCase` refuses.
    """
    paragraphs = paragraphs_of(haystack) if isinstance(haystack, str) else tuple(haystack)
    names = [needle.name for needle in needles]
    for what, values in (("needles", names), ("lengths", lengths), ("depths", depths)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"Give {what} without repetitions, at least one; got {list(values)}.")
    out = []
    for needle in needles:
        for length in lengths:
            draw = random.Random(f"headwater/needle-case/{needle.name}/{length}/{seed}")
            start = draw.randrange(max(1, len(paragraphs)))
            out += [NeedleCase(needle, paragraphs, length, depth, start) for depth in depths]
    return out


def lengths_for(window: int, new_tokens: int = NEW_TOKENS, buffer: int = BUFFER) -> tuple[int, ...]:
    """Eight lengths in equal ratios from 256 tokens to 8,192, or to what a window of the model leaves; one if it is
    short (retrieval_heads.md 5).

    Raises:
        InputError: a window that leaves nothing.
    """
    top = min(LONGEST, window - new_tokens - buffer)
    if top <= buffer:
        raise InputError(f"A model that reads {window} tokens leaves no room for a text with a needle in it.")
    if top < 2 * SHORTEST:
        return (top,)
    return tuple(round(SHORTEST * (top / SHORTEST) ** (step / (LENGTHS - 1))) for step in range(LENGTHS))


@cache
def built_in_needles(purpose: Purpose = "detection") -> tuple[Needle, ...]:
    """Six facts about invented countries; those for "detection" of heads and those for "testing" share nothing."""
    out = []
    for relation, country, answer in _FACTS[purpose]:
        found = relation_named(relation)
        statement = f"{found.statement.format(c=country)} {answer}."
        out.append(Needle(statement, found.questions[0].format(c=country), answer, f"{country}/{relation}"))
    return tuple(out)


@cache
def built_in_haystack(purpose: Purpose = "detection") -> tuple[str, ...]:
    """Facts of real countries (World Factbook, CC0): of the held-out ones for "testing", of all others for "detection".

    About 50,000 and 15,000 tokens of an English tokenizer.
    """
    return tuple(document.text for split in _SPLITS[purpose] for document in documents(split))


def paragraphs_of(text: str) -> tuple[str, ...]:
    """The parts of a text between blank lines, each without white space at its ends."""
    parts = (part.strip() for part in re.split(r"\n\s*\n", check_text(text, "The text")))
    return tuple(part for part in parts if part)


def read_haystack(path: str | Path) -> tuple[str, ...]:
    """The paragraphs of a file or of all files of a folder, of any type that headwater reads.

    Raises:
        InputError: there is no such file or folder.
        FormatError: nothing to read in it.
        MissingExtraError: a .pdf or .html file without the extra `docs`.
    """
    return tuple(part for document in read_documents(path).documents for part in paragraphs_of(document.text))


def read_needles(path: str | Path) -> list[Needle]:
    """Needles of a .jsonl file: `{"statement": ..., "question": ..., "answer": ..., "name": ...}`, the name optional.

    Raises:
        InputError: there is no such file.
        FormatError: a line that is no needle (it says which), a name that stands twice, or nothing in it.
    """
    source, out = Path(path), list[Needle]()
    if not source.is_file():
        raise InputError(f"There is no needle file {source}.")
    for line, record in json_lines(source):
        missing = next((key for key in ("statement", "question", "answer") if key not in record), None)
        if missing is not None:
            raise FormatError(f"{source}, line {line}: the field {missing!r} is missing.")
        try:
            name = record.get("name")
            parts = (record["statement"], record["question"], record["answer"])
            out.append(Needle(*parts, name if name is None else check_text(name, "The name")))
        except InputError as error:
            raise FormatError(f"{source}, line {line}: {error}") from error
        if out[-1].name in [needle.name for needle in out[:-1]]:
            raise FormatError(f"{source}, line {line}: the needle {out[-1].name!r} stands twice.")
    if not out:
        raise FormatError(f"{source} holds no needles.")
    return out


def needle_fingerprint(cases: Sequence[NeedleCase]) -> str:
    """Sixteen hex digits over needles, texts, lengths and depths."""
    digest, seen = hashlib.sha256(), dict[int, str]()
    for case in cases:
        if id(case.haystack) not in seen:
            seen[id(case.haystack)] = hashlib.sha256(json.dumps(list(case.haystack)).encode()).hexdigest()
        parts = [case.needle.statement, case.question, case.answer, case.length, case.depth, case.start]
        digest.update(json.dumps([*parts, seen[id(case.haystack)]]).encode())
    return digest.hexdigest()[:16]


def _around(paragraph: str, answer: str) -> str:
    """A few words of the paragraph where the answer stands."""
    at = paragraph.casefold().index(answer)
    return " ".join(paragraph[max(0, at - 30) : at + len(answer) + 30].split())
