"""Reading with heads turned up and down by what they say in a run of their own: JuICE, two runs per token."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from headwater.errors import InputError
from headwater.instrument.outputs import coefficients_of
from headwater.instrument.rows import check_origin
from headwater.instrument.twice import twice
from headwater.read.reader import Reader, Reading

if TYPE_CHECKING:
    from headwater.data.documents import DocumentLike
    from headwater.headset import HeadSet
    from headwater.model.greedy import Against
    from headwater.model.lm import LanguageModel
    from headwater.read.reader import Finished, OnText


class JuiceReader(Reader):
    """A `Reader` with JuICE, two runs per token (arXiv 2503.10996; pear.md 8.2).

    Every forward runs inside `headwater.instrument.twice.twice`, with documents and without (`recall`): a token takes
    two passes and two caches. With coefficients of 1 it is exactly `Reader`. "JuICE once" needs no reader of its own:
    `hw.scaled` or `hw.fold` with the same set.

    Args:
        lm: a loaded model.
        heads: a set with coefficients, as `JuiceHeads` finds: 1 + g for heads to turn up, 1 - q for those to turn down.
        max_new_tokens: as for `Reader`.
        template: as for `Reader`.
        max_thinking_tokens: as for `Reader`.

    Raises:
        InputError: a set without coefficients, or what `Reader` refuses.
        HeadSetError: a set for a model of another shape.
    """

    def __init__(
        self,
        lm: LanguageModel,
        heads: HeadSet,
        max_new_tokens: int = 32,
        template: str = "auto",
        max_thinking_tokens: int = 2048,
    ) -> None:
        """Check the heads and prepare the prompt template."""
        coefficients_of(heads)
        check_origin(heads, lm)
        super().__init__(lm, max_new_tokens, template, max_thinking_tokens)
        self.heads = heads

    def _answer(self, ids: list[int], on_text: OnText | None, against: Against | None) -> Reading:
        with twice(self.lm, self.heads):
            return super()._answer(ids, on_text, against)

    def _together(
        self,
        count: int,
        question: str,
        documents: Iterable[DocumentLike],
        decode: Callable[[list[int], int, Finished], list[list[int]]],
    ) -> list[Reading]:
        raise InputError("A reader that runs twice answers one by one: use hw.ablated or hw.scaled around `read`.")
