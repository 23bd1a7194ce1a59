"""Reading by contrast: what the documents change in the model's answer counts more than once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from headwater.errors import InputError
from headwater.model.greedy import Against
from headwater.read.reader import Reader

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


class ContextAwareReader(Reader):
    """A `Reader` with context-aware decoding (CAD, Shi et al., arXiv 2305.14739; pear.md 8.2).

    The next token is the largest entry of y = (1 + w) * logits(with documents) - w * logits(without documents); it
    goes to both prompts. The prompt without documents is that of `recall`, which itself is not contrasted. A token
    takes two passes and two caches. `Reading.confidence` is taken from softmax(y).

    Args:
        lm: a loaded model.
        weight: w; the authors use 1 for questions whose documents contradict the model and 0.5 for summaries. 0 is
            exactly `Reader`.
        max_new_tokens: as for `Reader`.
        template: as for `Reader`.
        max_thinking_tokens: as for `Reader`.

    Raises:
        InputError: a weight that is negative or not finite, or what `Reader` refuses.
    """

    def __init__(
        self,
        lm: LanguageModel,
        weight: float = 1.0,
        max_new_tokens: int = 32,
        template: str = "auto",
        max_thinking_tokens: int = 2048,
    ) -> None:
        """Check the weight and prepare the prompt template."""
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"The weight of context-aware decoding must be 0 or more, got {weight}.")
        super().__init__(lm, max_new_tokens, template, max_thinking_tokens)
        self.weight = float(weight)

    def _against(self, question: str) -> Against | None:
        return (self._template.alone(question), 1.0 + self.weight) if self.weight else None
