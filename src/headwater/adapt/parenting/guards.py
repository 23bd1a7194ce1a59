"""What a training may not lose, and which of its steps to keep (parenting.md 3.5, "Guards")."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headwater.adapt.parenting.losses import PromptWriter
from headwater.data.parenting.items import ParentingItem
from headwater.data.parenting.match import LONGEST, hits, verdict
from headwater.errors import ContextOverflowError, InputError
from headwater.model.greedy import greedy_lines
from headwater.model.lm import LanguageModel

MEASURES = ("R_Ad", "R_Ro", "closed_book")
Measure = Callable[[LanguageModel], Mapping[str, float]]
_EXACT = 1e-9  # a drop of exactly one point is allowed, and one of exactly five stops, whatever the rounding


@dataclass(frozen=True)
class GreedyMeasure:
    """Answers development questions greedily and counts by the match rule M (3.6).

    Attributes:
        conflicts: items of kind "a"; R_Ad is the share whose answer is the documents' and not the memory's.
        noise: items of kind "r"; R_Ro is the share whose answer is the memory's.
        questions: items of kind "empty": known questions without documents; `closed_book` is the share answered right.
        template: of the prompts, as in `prompt_template`.
        batch: prompts of one forward pass.
        instruction: before questions without documents, as in `closed_book`.
    """

    conflicts: Sequence[ParentingItem]
    noise: Sequence[ParentingItem]
    questions: Sequence[ParentingItem]
    template: str = "auto"
    batch: int = 16
    instruction: str = "auto"

    def __post_init__(self) -> None:
        """Refuse an empty set.

        Raises:
            InputError: names it.
        """
        for kind, items in (("a", self.conflicts), ("r", self.noise), ("empty", self.questions)):
            if not items:
                raise InputError(
                    f"There are no development items of the set {kind!r}, so nothing says which step to keep; give "
                    "some, or no development items at all."
                )

    def check(self, lm: LanguageModel) -> None:
        """Refuse items that leave a model no room for an answer.

        Raises:
            ContextOverflowError: names the first of them.
        """
        writer, limit = PromptWriter(lm, self.template, self.instruction), lm.max_length
        for item in (*self.conflicts, *self.noise, *self.questions):
            needed = len(writer.prompt(item)) + LONGEST
            if limit and needed > limit:
                raise ContextOverflowError(
                    f"The development item {item.id!r} takes {needed:,} tokens with its answer, {lm.name!r} reads "
                    f"{limit:,}: give fewer or shorter documents.",
                    tokens=needed,
                    limit=limit,
                )

    def __call__(self, lm: LanguageModel) -> dict[str, float]:
        """The three shares."""
        writer = PromptWriter(lm, self.template, self.instruction)

        def share(items: Sequence[ParentingItem], right: Callable[[str, ParentingItem], bool]) -> float:
            said = greedy_lines(lm, [writer.prompt(item) for item in items], LONGEST, self.batch)
            return sum(right(text, item) for text, item in zip(said, items, strict=True)) / len(items)

        return {
            "R_Ad": share(self.conflicts, lambda text, item: _verdict(text, item) == "document"),
            "R_Ro": share(self.noise, lambda text, item: _verdict(text, item) == "memory"),
            "closed_book": share(self.questions, lambda text, item: hits(text, item.right)),
        }


def _verdict(text: str, item: ParentingItem) -> str:
    return verdict(text, item.in_documents, item.in_memory)


@dataclass(frozen=True)
class Guards:
    """Adherence, robustness and memory on development questions, looked at during a training.

    Attributes:
        measure: from the model under training to shares between 0 and 1, by name: "R_Ad" (conflicts answered as the
            documents say), "R_Ro" (noise answered from memory), "closed_book" (known questions answered without
            documents); further names are written down only.
        keep: a step can be kept if closed-book accuracy fell by at most this share since the start.
        stop: training stops where it fell by this share or more.
    """

    measure: Measure
    keep: float = 0.01
    stop: float = 0.05

    def look(self, lm: LanguageModel) -> dict[str, float]:
        """What the model can do now, with the harmonic mean of R_Ad and R_Ro.

        Raises:
            InputError: `measure` left one out, or gave something else than a share.
        """
        found = dict(self.measure(lm))
        for name in MEASURES:
            value = found.get(name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InputError(f"The guard has to give {', '.join(MEASURES)} between 0 and 1, got {name}={value!r}.")
        return {**{name: float(value) for name, value in found.items()}, "harmonic": harmonic(found)}

    def best(self, curve: Sequence[Mapping[str, float]]) -> int:
        """The step with the best harmonic mean among those that kept the closed book; the first of equals."""
        floor = curve[0]["closed_book"] - self.keep - _EXACT
        fit = [point for point in curve if point["closed_book"] >= floor]
        return int(max(fit, key=lambda point: (point["harmonic"], -point["step"]))["step"])

    def reason(self, curve: Sequence[Mapping[str, float]]) -> str:
        """Why training has to stop ("": it need not)."""
        lost = curve[0]["closed_book"] - curve[-1]["closed_book"]
        if lost <= _EXACT or lost < self.stop - _EXACT:
            return ""
        return (
            f"Closed-book accuracy fell by {100 * lost:.1f} points up to step {int(curve[-1]['step'])}: training "
            "stops. Use a lower learning_rate."
        )


def harmonic(found: Mapping[str, float]) -> float:
    """Harmonic mean of R_Ad and R_Ro; 0 where one of them is 0."""
    a, r = found["R_Ad"], found["R_Ro"]
    return 2 * a * r / (a + r) if a > 0 and r > 0 else 0.0


def sample(items: Sequence[ParentingItem], count: int, seed: str) -> list[ParentingItem]:
    """At most so many of some items, drawn at random, in their order."""
    if len(items) <= count:
        return list(items)
    return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), count))]
