"""What a system is: something that can be asked for the output of an item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headwater.evaluate.tasks.task import Task

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


class System(ABC):
    """Base of all systems.

    Attributes:
        details: what `run` counted for its last item (calls, windows); summed over items in results.
    """

    details: Mapping[str, int] = {}

    def prepare(self, task: Task, items: Sequence[Any]) -> None:  # noqa: B027
        """Called once before the first item of a task: build an index, encode a corpus. Nothing by default."""

    @abstractmethod
    def run(self, item: Any) -> Any:
        """The output for an item, as the task's kind asks for it."""

    def describe(self) -> dict[str, Any]:
        """What went into it (heads, settings), for the run's summary."""
        return {}


class ModelSystem(System):
    """A system made of the model under test."""

    def __init__(self, lm: LanguageModel) -> None:
        """Keep the model."""
        self.lm = lm
