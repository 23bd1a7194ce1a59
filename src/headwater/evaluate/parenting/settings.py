"""Sizes of the Parenting experiment."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headwater.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What the experiment is made of; the defaults are those of docs/results/parenting.md.

    Attributes:
        asked: questions of the fact world that the model is asked without documents.
        questions: of every test, at most.
        development: of every development set, at most: steps and learning rates are chosen on them.
        train: items of every training set, at most.
        documents: least and most documents of a prompt; extraction has three at least.
        shown: documents of a reading question about a held-out country, one of them gold.
        steps: of every training.
        batch: examples of each set in a step.
        every: steps between looks at the development questions.
        rank: of the adapters.
        rates: learning rates to choose from, with the first seed.
        mining_steps: of each of the four mining runs.
        mining_rate: learning rate of mining.
        keep: how much closed-book accuracy a step that is chosen may have lost on the development questions.
        stop: at how much lost training stops.
        seeds: of the first four rows.
        some: of the other rows.
        text_tokens: of plain text for perplexity.
        answered: prompts answered at once.
        seed: the first seed, and that of splits, sets, mining and bootstrap.
    """

    asked: int = 2000
    questions: int = 150
    development: int = 50
    train: int = 600
    documents: tuple[int, int] = (1, 3)
    shown: int = 3
    steps: int = 60
    batch: int = 6
    every: int = 20
    rank: int = 8
    rates: tuple[float, ...] = (5e-4, 1.5e-3, 5e-3)
    mining_steps: int = 60
    mining_rate: float = 1e-3
    keep: float = 0.02
    stop: float = 0.1
    seeds: int = 5
    some: int = 3
    text_tokens: int = 5_000
    answered: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be run.

        Raises:
            InputError: a size below its least value, or no learning rate.
        """
        least = {"asked": 20, "questions": 2, "development": 2, "train": 2, "shown": 1, "text_tokens": 2}
        ones = ("steps", "batch", "every", "rank", "mining_steps", "seeds", "some", "answered")
        for name, smallest in {**least, **dict.fromkeys(ones, 1)}.items():
            if getattr(self, name) < smallest:
                raise InputError(f"{name} must be at least {smallest}, got {getattr(self, name)}.")
        if not self.rates or min(self.rates) <= 0:
            raise InputError(f"rates are learning rates above 0, got {list(self.rates)}.")

    @classmethod
    def of_size(cls, questions: int | None = None, seed: int = 0) -> Settings:
        """The defaults, or a small run with at most so many questions of every test and training item of every set.

        Of a small run the steps and the seeds are few, too: it shows that everything works, and no result.
        """
        own = cls(seed=seed)
        if questions is None or questions >= own.questions:
            return own if questions is None else replace(own, questions=questions)
        return replace(
            own,
            asked=max(400, min(own.asked, 30 * questions)),
            questions=questions,
            development=min(own.development, questions),
            train=min(own.train, 4 * questions),
            steps=min(own.steps, questions),
            mining_steps=min(own.mining_steps, questions),
            every=max(1, min(own.every, questions // 2)),
            seeds=2,
            some=1,
        )

    def seeds_of(self, which: str) -> list[int]:
        """Seeds of a row: "none" (one, nothing is drawn), "some" or "all"."""
        count = {"none": 1, "some": min(self.some, self.seeds), "all": self.seeds}[which]
        return [self.seed + i for i in range(count)]
