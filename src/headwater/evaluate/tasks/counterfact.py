"""CounterFact prompts: what the context just said against what the model knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from headwater.errors import InputError
from headwater.evaluate.tasks.records import Record, checked, read_records
from headwater.evaluate.tasks.task import ChoiceItem, Task


class Counterfact(Task):
    """Two continuations of a prompt, one from the context and one from memory (Ortu et al. 2024, "Competition of
    Mechanisms").

    With context the prompt first redefines the fact ("Redefine: Toyota Camry is a product of Chrysler. Toyota Camry is
    a product of") and the redefinition is right: accuracy is how often the context wins. Without it the true
    continuation is right: accuracy is how often the model prefers it to the false one. The options of every item are
    the false continuation and the true one, in this order. The group is the subject.

    Scores: accuracy (1 where the right continuation is strictly more probable) and margin (its log probability less the
    other one's, nats).

    Args:
        path: a .json file with base_prompt, prompt, target_true, target_new and subject.
        context: whether the prompt redefines the fact.
    """

    kind: ClassVar[str] = "choice"
    metrics: tuple[str, ...] = ("accuracy", "margin")

    def __init__(self, path: str | Path, context: bool = True) -> None:
        """Keep path and choice."""
        super().__init__()
        self.path = Path(path)
        self.context = context

    def load(self) -> list[ChoiceItem]:
        """All prompts in the order of the file. Raises `InputError` and `FormatError` as `Task.load` says."""
        records = read_records(self.path)
        return checked((self._item(record, f"{number}") for number, record in enumerate(records)), self.path)

    def score(self, item: ChoiceItem, output: Sequence[float]) -> dict[str, float]:
        """Accuracy and margin of the log probabilities (nats) of the two options.

        Raises:
            InputError: there are not two.
        """
        if len(output) != 2:
            raise InputError(f"Item {item.id} has two options, got {len(output)} log probabilities.")
        margin = float(output[item.right] - output[1 - item.right])
        return {"accuracy": float(margin > 0), "margin": margin}

    def _item(self, record: Record, name: str) -> ChoiceItem:
        new, true = record.text("target_new"), record.text("target_true")
        if new == true:
            raise record.wrong(f"the true and the false continuation are the same, {new!r}")
        prompt = record.text("prompt" if self.context else "base_prompt")
        return ChoiceItem(name, record.text("subject"), prompt, (new, true), 0 if self.context else 1)
