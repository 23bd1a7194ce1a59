"""Sequences of random tokens, said twice: the copy task on which suppressing heads show (pear.md 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from headwater.errors import ContextOverflowError, InputError
from headwater.model.anatomy import text_config
from headwater.model.lm import LanguageModel

Ids = Literal["ordinary", "all", "from-two"]
Begin = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class CopyTask:
    """How the random sequences `[BOS] t_0 .. t_(n-1) t_0 .. t_(n-1)` are drawn (PEAR, arXiv 2409.19745).

    Attributes:
        ids: which tokens: "ordinary", every token of the tokenizer but its special ones; "all" of them; "from-two", all
            but the first two.
        distinct: no token twice in a block.
        begin: a begin token in front: "auto" where the tokenizer itself puts one, "always" or "never".
    """

    ids: Ids = "ordinary"
    distinct: bool = True
    begin: Begin = "auto"

    def __post_init__(self) -> None:
        """Refuse unknown switches."""
        for name, value, known in (
            ("ids", self.ids, ("ordinary", "all", "from-two")),
            ("begin", self.begin, ("auto", "always", "never")),
        ):
            if value not in known:
                raise InputError(f"Unknown {name} {value!r} of a copy task; use one of {', '.join(known)}.")

    def vocabulary(self, lm: LanguageModel) -> torch.Tensor:
        """The token ids that are drawn from: below the size of the tokenizer, never the padding of the embeddings."""
        size = min(len(lm.tokenizer), lm.model.get_input_embeddings().num_embeddings)
        if self.ids == "all":
            return torch.arange(size)
        if self.ids == "from-two":
            return torch.arange(2, size)
        special = set(lm.tokenizer.all_special_ids)
        special |= {i for i, token in getattr(lm.tokenizer, "added_tokens_decoder", {}).items() if token.special}
        return torch.tensor([i for i in range(size) if i not in special])

    def first(self, lm: LanguageModel) -> list[int]:
        """The begin token, or nothing.

        Raises:
            InputError: `begin="always"` and a tokenizer without one.
        """
        own = lm.tokenizer.bos_token_id
        if self.begin == "never":
            return []
        if own is None:
            if self.begin == "always":
                raise InputError(f"The tokenizer of {lm.name!r} has no begin token; use begin='auto' or 'never'.")
            return []
        if self.begin == "auto" and list(lm.tokenizer("a", verbose=False)["input_ids"])[:1] != [own]:
            return []
        return [int(own)]

    def draw(self, lm: LanguageModel, sequences: int, length: int, generator: torch.Generator) -> torch.Tensor:
        """Token ids `[sequences, begin + 2 * length]`.

        Raises:
            InputError: fewer than two sequences or tokens, or more distinct tokens than there are.
            ContextOverflowError: longer than the model reads, or than its sliding window.
        """
        if sequences < 2 or length < 2:
            raise InputError(f"The copy task needs two sequences of two tokens or more, got {sequences} of {length}.")
        vocabulary, first = self.vocabulary(lm), self.first(lm)
        if self.distinct and length > len(vocabulary):
            raise InputError(f"A block of {length} different tokens is more than the {len(vocabulary)} usable ones.")
        window = getattr(text_config(lm.model), "sliding_window", None)
        limit = min(lm.max_length, window or lm.max_length)
        if len(first) + 2 * length - 1 > limit:  # the last token is only a target
            raise ContextOverflowError(
                f"Blocks of {length} tokens, said twice, are longer than {lm.name!r} reads at once ({limit:,}).",
                tokens=len(first) + 2 * length - 1,
                limit=limit,
            )
        if self.distinct:
            places = torch.stack(
                [torch.randperm(len(vocabulary), generator=generator)[:length] for _ in range(sequences)]
            )
        else:
            places = torch.randint(len(vocabulary), (sequences, length), generator=generator)
        block = vocabulary[places]
        begin = torch.tensor(first, dtype=block.dtype).expand(sequences, -1)
        return torch.cat([begin, block, block], 1).to(lm.device)
