"""Conflicts: questions whose documents say something else than what the model remembers (pear.md 8.2)."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from headwater.data.documents import Document, DocumentLike, as_documents, check_query, check_text
from headwater.data.records import json_document, json_lines
from headwater.data.world.answers import normalise, states
from headwater.data.world.contexts import counterfactual, other_answer
from headwater.data.world.examples import ReadingExample
from headwater.data.world.wordings import questions
from headwater.errors import FormatError, InputError


@dataclass(frozen=True)
class ConflictExample:
    """A question, documents that answer it, and the other answer.

    Attributes:
        question: what the model is asked.
        documents: what it is shown (strings or `Document`).
        context: the answer that the documents state.
        memory: the true answer, which a model may remember.
        group: what examples have in common (in the fact world: the country); None: the question.

    Raises:
        InputError: a blank part, no documents, or two answers that are the same.
    """

    question: str
    documents: Sequence[DocumentLike]
    context: str
    memory: str
    group: str | None = None

    def __post_init__(self) -> None:
        """Check once."""
        check_query(self.question)
        shown = [document for document in as_documents(self.documents) if not document.blank]
        if not shown:
            raise InputError(f"The conflict {self.question!r} has no documents; give at least one.")
        object.__setattr__(self, "documents", tuple(shown))
        for name in ("context", "memory"):
            text = check_text(getattr(self, name), f"The answer of the {name}").strip()
            if not text:
                raise InputError(f"The answer of the {name} to {self.question!r} is blank.")
            object.__setattr__(self, name, text)
        if normalise(self.context) == normalise(self.memory):
            raise InputError(f"Documents and memory give the same answer to {self.question!r}: {self.memory!r}.")
        if self.group is None:
            object.__setattr__(self, "group", self.question)

    @property
    def shown(self) -> list[Document]:
        """The documents."""
        return as_documents(self.documents)

    @property
    def sentence(self) -> str:
        """The sentence of the documents that states their answer; several where a full stop parts it.

        Raises:
            InputError: there is none.
        """
        for document in self.shown:
            parts = re.split(r"(?<=[.!?])\s+", document.text.strip())
            for size in range(1, len(parts) + 1):
                for start in range(len(parts) - size + 1):
                    text = " ".join(parts[start : start + size])
                    if states(text, self.context):
                        return text
        raise InputError(f"No document of {self.question!r} states the answer {self.context!r} in these words.")


ConflictLike = ConflictExample | ReadingExample


def as_conflicts(examples: Sequence[ConflictLike]) -> list[ConflictExample]:
    """Conflicts as they are, and those of the fact world (`hw.world.conflict_examples`).

    Raises:
        InputError: no examples, an example of another kind, or one whose documents do not contradict the truth.
    """
    out = []
    for example in examples:
        if isinstance(example, ConflictExample):
            out.append(example)
        elif isinstance(example, ReadingExample) and example.stated:
            asked = example.question
            given = (asked.text, example.documents, example.stated[0], asked.answers[0])
            out.append(ConflictExample(*given, group=asked.country))
        else:
            raise InputError(
                f"Expected conflicts between documents and memory, got {type(example).__name__}: give ConflictExample "
                "or hw.world.conflict_examples."
            )
    if not out:
        raise InputError("There are no conflicts, so there is nothing to find heads with.")
    return out


@cache
def built_in_conflicts(count: int) -> tuple[ConflictExample, ...]:
    """Questions about known countries with one edited document of two facts or more.

    They come from the end of the list whose beginning the bench asks (`hw.world.conflict_examples("known", n)`), so
    that the questions are not the same; the countries are.
    """
    out: list[ConflictExample] = []
    for question in reversed(questions("known")):
        if len(out) == count:
            break
        answer = other_answer(question, random.Random(f"headwater/conflict heads/{question.id}"))
        if answer is None:
            continue
        document = counterfactual(question, answer)
        if len(document.metadata["relations"]) > 1:
            given = (question.text, (document,), answer, question.answers[0])
            out.append(ConflictExample(*given, group=question.country))
    return tuple(out)


def read_conflicts(path: str | Path) -> list[ConflictExample]:
    """Conflicts of a .jsonl file: `{"question": ..., "documents": [...], "context": ..., "memory": ...}` a line.

    Documents are texts or objects with `text` and `title`; a `group` is optional.

    Raises:
        InputError: there is no such file.
        FormatError: a line that is no conflict (it says which), or nothing in it.
    """
    source, out = Path(path), list[ConflictExample]()
    if not source.is_file():
        raise InputError(f"There is no file of conflicts {source}.")
    for line, record in json_lines(source):
        missing = next((key for key in ("question", "documents", "context", "memory") if key not in record), None)
        if missing is not None:
            raise FormatError(f"{source}, line {line}: the field {missing!r} is missing.")
        if not isinstance(record["documents"], list):
            raise FormatError(f"{source}, line {line}: the field 'documents' is not a list.")
        shown = [
            entry if isinstance(entry, str) else json_document(entry, str(place), source, line)
            for place, entry in enumerate(record["documents"])
        ]
        try:
            group = record.get("group")
            parts = (record["question"], shown, record["context"], record["memory"])
            out.append(ConflictExample(*parts, group if group is None else check_text(group, "The group")))
        except InputError as error:
            raise FormatError(f"{source}, line {line}: {error}") from error
    if not out:
        raise FormatError(f"{source} holds no conflicts.")
    return out


def conflict_fingerprint(examples: Sequence[ConflictExample]) -> str:
    """Sixteen hex digits over questions, documents and answers."""
    digest = hashlib.sha256()
    for example in examples:
        documents = [(document.title, document.text) for document in example.shown]
        digest.update(json.dumps([example.question, documents, example.context, example.memory]).encode())
    return digest.hexdigest()[:16]
