"""Questions to probe a model with, and the passages that answer them or stand beside them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from headwater.data.documents import Document, check_query
from headwater.errors import InputError

SPLITS = ("train", "development", "test")
PHRASE = "phrase"  # of an answer: of no type that others could stand for
_MONTH = re.compile(
    r"\b(january|february|march|april|may|june|july|august|september|october|november|december)\b", re.IGNORECASE
)
_SMALL = re.compile(r"an?|the|of|and|in|on|at|for|to|de|la|le|von|van|der|&|-", re.IGNORECASE)


@dataclass(frozen=True)
class Passage:
    """A document that may be shown.

    Attributes:
        document: the text, with an id.
        group: the article or country that it is about.
        fields: the kinds of fact that it states, where the source knows them (relations of the fact world).
        whole: the paragraph that it is a part of, where it is one.
    """

    document: Document
    group: str
    fields: frozenset[str] = frozenset()
    whole: str = ""

    @property
    def start(self) -> str:
        """What is the same where two sources hold the same paragraph, cut or not (`start_of`)."""
        return start_of(self.whole or self.document.text)


@dataclass(frozen=True)
class ProbeQuestion:
    """A question, its answers and the paragraph that it was asked about.

    Attributes:
        id: unique within its source.
        group: article or country: what must not be parted between training and test.
        wordings: ways to ask; the probe asks the first, training the others where there are others.
        answers: true answers, the most usual first; empty for a question that its paragraph does not answer.
        paragraph: id of the passage that it was asked about.
        tested: further wordings, for development and test only.
        field: the kind of fact asked for, "" where the source knows none; other groups' passages that state this kind
            are on the same topic.
        type: answers of one type may stand for each other in an edited document; "phrase" is of none.

    Raises:
        InputError: a question without an id, a group or a wording.
    """

    id: str
    group: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...]
    paragraph: str
    tested: tuple[str, ...] = ()
    field: str = ""
    type: str = PHRASE

    def __post_init__(self) -> None:
        """Check once."""
        if not self.id or not self.group or not self.wordings or not self.paragraph:
            raise InputError(f"The question {self.id!r} needs an id, a group, a wording and a paragraph.")
        for wording in (*self.wordings, *self.tested):
            check_query(wording)

    def asked(self, split: str) -> list[tuple[int, str]]:
        """Wordings for the items of a split, the best first, with their places in `wordings` and `tested` together.

        Training never sees those of `tested`. The wording of the probe comes last where there are others: facts were
        called known by it.
        """
        numbered = list(enumerate((*self.wordings, *self.tested)))
        own, tested = numbered[: len(self.wordings)], numbered[len(self.wordings) :]
        if split == "train":
            return own[1:] + own[:1]
        return tested + own[1:] if tested or len(own) > 1 else own


Editor = Callable[[ProbeQuestion, random.Random], tuple[Document, tuple[str, ...]] | None]


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one source with its passages.

    Attributes:
        name: of the source: "world", or the name of a file.
        questions: with ids that stand once.
        passages: everything that may be shown beside them.
        reserved: why this source may not train, where it may not; None where it may.
        placed: group -> split, for groups that belong to one by nature.
        editor: of a source that makes its own edited documents: the paragraph of a question with another answer in
            place of the true one, and the ways to write that answer; None where there is no other.

    Raises:
        InputError: an id that stands twice, or a paragraph that is not among the passages.
    """

    name: str
    questions: tuple[ProbeQuestion, ...]
    passages: tuple[Passage, ...]
    reserved: str | None = None
    placed: Mapping[str, str] = field(default_factory=dict, hash=False)
    editor: Editor | None = None

    def __post_init__(self) -> None:
        """Check once."""
        shown = {passage.document.id for passage in self.passages}
        if len(shown) < len(self.passages) or None in shown:
            raise InputError(f"{self.name}: passages need ids, each of its own.")
        seen: set[str] = set()
        for question in self.questions:
            if question.id in seen:
                raise InputError(f"{self.name}: the question id {question.id!r} stands twice; ids must be unique.")
            seen.add(question.id)
            if question.paragraph not in shown:
                raise InputError(f"{self.name}: question {question.id!r} is about no passage there is.")

    @cached_property
    def groups(self) -> list[str]:
        """Groups of the questions, each once, in their order."""
        return list(dict.fromkeys(question.group for question in self.questions))

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any question, answer or passage."""
        digest = hashlib.sha256()
        for q in self.questions:
            parts = [q.id, q.group, q.wordings, q.tested, q.answers, q.paragraph, q.field, q.type]
            digest.update(json.dumps(parts).encode())
        for p in self.passages:
            digest.update(json.dumps([p.document.id, p.group, p.document.title, p.document.text]).encode())
        return digest.hexdigest()[:16]


def answer_type(answer: str) -> str:
    """What kind of thing an answer is, by its looks: year, date, number, name, or phrase (of no kind)."""
    if re.fullmatch(r"1\d{3}|20\d{2}", answer.strip()):
        return "year"
    if re.search(r"\d", answer) and _MONTH.search(answer):
        return "date"
    if re.match(r"[^\w]*\d", answer):
        return "number of something" if re.search(r"[^\W\d]", answer) else "number"
    names = [word for word in answer.split() if not _SMALL.fullmatch(word)]
    if names and all(word[0].isupper() for word in names):
        return "name of one word" if len(answer.split()) == 1 else "name"
    return PHRASE


def start_of(text: str) -> str:
    """The first 120 letters and digits of a text, in lower case: what makes two passages the same."""
    return "".join(character for character in text.lower() if character.isalnum())[:120]
