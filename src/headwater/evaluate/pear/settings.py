"""What the PEAR experiment is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headwater.errors import InputError
from headwater.heads.suppression import RUNS, Run


@dataclass(frozen=True)
class Settings:
    """Sizes and seeds; the defaults are those of docs/results/pear.md.

    Attributes:
        questions: questions of every test, for the decisive rows.
        long: of these, how many are asked with the long list of documents.
        first: the first so many of a test, for all other rows.
        places: how many are asked with the gold document first, in the middle and last, of the decisive rows only.
        alone: questions of every test for rows that cannot share a batch (other decoding, other weights).
        development: development questions of every kind, on which the number of heads and rivals' settings are chosen.
        few: documents of a short list, one of them gold.
        many: documents of a long list; halved until every prompt fits the model.
        noise: documents that do not hold the answer.
        seeds: of detection and learning together; random sets are as many.
        some: seeds of the slower controls.
        twice: the first so many development questions of every kind, for a rival that takes two runs per token.
        top_k: heads (None: chosen on the development questions among the default number and `sizes`).
        sizes: numbers of heads to choose from, beside the default one.
        constants: factors for the same heads without learning.
        weights: of context-aware decoding, to choose from.
        steps: of learning.
        runs: of detection, (sequences, block length).
        min_copy_accuracy: of detection.
        text_tokens: of plain text whose predictions are compared.
        new_tokens: an answer's longest.
        seed: the first seed, and that of questions and of the bootstrap.
    """

    questions: int = 1000
    long: int = 300
    first: int = 100
    places: int = 60
    alone: int = 100
    development: int = 150
    few: int = 5
    many: int = 20
    noise: int = 4
    seeds: int = 5
    some: int = 3
    twice: int = 50
    top_k: int | None = None
    sizes: tuple[int, ...] = (4, 8)
    constants: tuple[float, ...] = (0.5, 0.7, 0.9)
    weights: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5)
    steps: int = 60
    runs: tuple[Run, ...] = RUNS
    min_copy_accuracy: float = 0.2
    text_tokens: int = 5_000
    new_tokens: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be run.

        Raises:
            InputError: a size below its least value.
        """
        least = {
            "questions": 2,
            "long": 2,
            "first": 2,
            "places": 2,
            "alone": 2,
            "development": 2,
            "few": 2,
            "many": 3,
            "noise": 1,
        }
        for name, smallest in {**least, "seeds": 1, "some": 1, "twice": 1, "steps": 1, "new_tokens": 1}.items():
            if getattr(self, name) < smallest:
                raise InputError(f"{name} must be at least {smallest}, got {getattr(self, name)}.")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k must be at least 1, got {self.top_k}.")

    @classmethod
    def of_size(cls, questions: int | None = None, top_k: int | None = None, seed: int = 0) -> Settings:
        """The defaults, or no number of questions above `questions`."""
        own = cls(top_k=top_k, seed=seed)
        if questions is None:
            return own
        limited = ("long", "first", "places", "alone", "development", "twice")
        less = {name: min(getattr(own, name), questions) for name in limited}
        return replace(own, questions=questions, **less)
