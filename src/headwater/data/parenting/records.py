"""What a model said without documents, and whether it knows (parenting.md 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headwater.data.abstain import abstains
from headwater.data.parenting.items import KNOWN, UNKNOWN, WRONG
from headwater.data.parenting.match import hits
from headwater.data.parenting.questions import ProbeQuestion
from headwater.errors import InputError

KNOWN_SHARE, WRONG_SHARE = 0.75, 0.5  # of the samples: 6 and 4 of 8


@dataclass(frozen=True)
class ProbeRecord:
    """One question asked without documents.

    Attributes:
        id: of the question.
        asked: the wordings that were asked.
        answers: true answers at the time.
        greedy: the greedy answer to each wording; the first is what the model remembers.
        samples: sampled answers, dealt over the wordings in turn.
        label: "known", "unknown" or "wrong" (see `label`); "unknown" where the first greedy answer was cut off.
        ended: whether the first greedy answer came to its end: one that was cut off is nothing to learn.
    """

    id: str
    asked: tuple[str, ...]
    answers: tuple[str, ...]
    greedy: tuple[str, ...]
    samples: tuple[str, ...]
    label: str
    ended: bool = True

    @property
    def memory(self) -> str:
        """The greedy answer to the first wording."""
        return self.greedy[0]

    @property
    def short(self) -> dict[str, Any]:
        """What items carry along."""
        return {"greedy": self.memory, "samples": list(self.samples), "label": self.label}

    def record(self) -> dict[str, Any]:
        """The record as JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, question: ProbeQuestion, wordings: int, found: dict[str, Any]) -> ProbeRecord:
        """The record of a question from JSON.

        Raises:
            InputError: a record of another question, other wordings or other answers.
        """
        asked, answers = question.wordings[:wordings], question.answers
        if found.get("asked") != list(asked) or found.get("answers") != list(answers):
            raise InputError(
                f"The probe of {question.id!r} was made with other words or answers than the question has now; delete "
                "probe.jsonl and probe.json, or give another folder."
            )
        try:
            said = tuple(found["greedy"]), tuple(found["samples"])
            return cls(question.id, asked, answers, *said, found["label"], found["ended"])
        except (KeyError, TypeError) as error:
            raise InputError(f"The probe of {question.id!r} is not whole; delete probe.jsonl.") from error


def label(greedy: Sequence[str], samples: Sequence[str], answers: Sequence[str]) -> str:
    """Whether a model knows an answer.

    "known": the greedy answer to every wording is right, and so are three quarters of the samples. "wrong": no greedy
    answer is right, the first does not decline to answer, and half of the samples agree with it. Else "unknown". For a
    question without true answers "wrong" means that the model believes something.
    """
    right = [hits(said, answers) for said in greedy]
    if all(right) and sum(hits(said, answers) for said in samples) >= KNOWN_SHARE * len(samples):
        return KNOWN
    agree = sum(hits(said, greedy[0]) for said in samples)
    if not any(right) and not abstains(greedy[0]) and agree >= WRONG_SHARE * len(samples):
        return WRONG
    return UNKNOWN
