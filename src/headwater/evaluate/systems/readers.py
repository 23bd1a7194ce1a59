"""Answers by the model under test, with documents chosen in different ways; and its probabilities of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headwater.evaluate.systems.system import ModelSystem, System
from headwater.evaluate.tasks.task import ChoiceItem, RankingItem, ReadingItem, Task, TextItem, TextLoss
from headwater.headset import HeadSet
from headwater.read.context_aware import ContextAwareReader
from headwater.read.juice import JuiceReader
from headwater.read.likelihood import continuation_log_probabilities, text_loss
from headwater.read.reader import Reader

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


class FullContext(ModelSystem):
    """The model reads all documents of the item; items without documents are answered from memory."""

    def __init__(self, lm: LanguageModel) -> None:
        """Prepare the reader."""
        super().__init__(lm)
        self.reader = Reader(lm)

    def run(self, item: ReadingItem) -> str:
        """The answer."""
        if not item.documents:
            return self.reader.recall(item.question).text
        return self.reader.read(item.question, item.documents).text


class NoContext(FullContext):
    """The model answers from memory."""

    def run(self, item: ReadingItem) -> str:
        """The answer."""
        return self.reader.recall(item.question).text


class ContextAware(FullContext):
    """Context-aware decoding (CAD, arXiv 2305.14739), twice the cost of reading.

    Args:
        lm: the model.
        weight: w of (1 + w) log p(with documents) - w log p(without).
    """

    def __init__(self, lm: LanguageModel, weight: float = 1.0) -> None:
        """Prepare the reader."""
        super().__init__(lm)
        self.weight = weight
        self.reader = ContextAwareReader(lm, weight=weight)

    def describe(self) -> dict[str, Any]:
        """The weight."""
        return {"weight": self.weight}


class TwoRuns(FullContext):
    """JuICE with two runs per token (arXiv 2503.10996), twice the cost of reading, with documents and without.

    Args:
        lm: the model.
        heads: file of a head set with coefficients, as `headwater heads find --method juice` writes.
    """

    def __init__(self, lm: LanguageModel, heads: str) -> None:
        """Read the set, prepare the reader."""
        super().__init__(lm)
        self.heads = HeadSet.load(heads)
        self.reader = JuiceReader(lm, self.heads)

    def describe(self) -> dict[str, Any]:
        """Heads and coefficients."""
        return {"heads": str(self.heads), "coefficients": self.heads.coefficients}


class RankThenRead(FullContext):
    """A ranker picks the documents that the model reads, best first.

    Args:
        lm: the model.
        ranker: a system of kind "ranking".
        read: how many documents are read.
    """

    def __init__(self, lm: LanguageModel, ranker: System, read: int = 5) -> None:
        """Keep the ranker."""
        super().__init__(lm)
        self.ranker, self.read = ranker, read

    def prepare(self, task: Task, items: Sequence[Any]) -> None:
        """Let the ranker prepare."""
        self.ranker.prepare(task, items)

    def run(self, item: ReadingItem) -> str:
        """The answer from the documents ranked best; few documents are all read, in ranked order."""
        if not item.documents:
            return super().run(item)
        best: list[str] = self.ranker.run(RankingItem(item.id, item.group, item.question, item.documents))
        by_id = {str(document.id): document for document in item.documents}
        return self.reader.read(item.question, [by_id[name] for name in best[: self.read]]).text

    def describe(self) -> dict[str, Any]:
        """The ranker's own description and how many are read."""
        return {**self.ranker.describe(), "documents read": self.read}


class PlainModel(ModelSystem):
    """The model as it is: log probabilities of continuations, and of texts."""

    def run(self, item: ChoiceItem | TextItem) -> list[float] | TextLoss:
        """A log probability per option, or the loss of the text."""
        if isinstance(item, ChoiceItem):
            return continuation_log_probabilities(self.lm, item.prompt, item.options)
        nats, tokens = text_loss(self.lm, item.text)
        return TextLoss(nats, tokens, len(item.text.encode("utf-8")))
