"""Reading prompts of conflicts, up to the token at which the two answers part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from headwater.data.conflict import ConflictExample, ConflictLike, as_conflicts, built_in_conflicts
from headwater.data.documents import Document
from headwater.errors import ContextOverflowError, InputError
from headwater.model.lm import LanguageModel
from headwater.prompt.prompt import PromptTemplate, prompt_template

Kind = Literal["clean", "sentence", "documents"]
Toward = Literal["context", "memory"]
POOL = 4  # built-in examples looked at for each that is wanted
TRIED = 8  # prompts on which the writing of answers is settled


@dataclass(frozen=True)
class ConflictPrompt:
    """A prompt behind which two tokens compete.

    Attributes:
        ids: the prompt of a `Reader`, and behind it the tokens that both answers begin with, if any.
        context: the next token of the documents' answer.
        memory: the next token of the memory's answer.
    """

    ids: list[int]
    context: int
    memory: int


class ConflictPrompts:
    """Builds the prompts of conflicts for one model.

    Args:
        lm: a loaded model.
        examples: conflicts; of those whose answers no token sets apart (one begins with the other) none is built.
        template: as for `Reader`.

    Attributes:
        template: what stands around documents and question.
        examples: those that can be built.
        skipped: how many cannot.
        remembered: how many built-in examples the model answers from memory (None: given ones, not asked).
        spaced: whether answers are written with a space before them: as the model finds more likely on the first
            prompts, for templates end in a line break, in a word, or in a token of their own.

    Raises:
        InputError: no examples, none whose answers part, or an unknown template.
    """

    def __init__(self, lm: LanguageModel, examples: Sequence[ConflictLike], template: str = "auto") -> None:
        """Settle how answers are written, and leave out what does not part."""
        self._lm = lm
        self.template: PromptTemplate = prompt_template(lm.tokenizer, template, "answer")
        given = as_conflicts(examples)
        self.spaced = self._settle(given[:TRIED])
        self.examples = [example for example in given if self._parted(example) is not None]
        self.skipped = len(given) - len(self.examples)
        self.remembered: int | None = None
        if not self.examples:
            raise InputError("In none of the conflicts do the two answers part: one begins with the other.")

    def build(self, example: ConflictExample, kind: Kind = "documents") -> ConflictPrompt:
        """The prompt of one of `examples`: the question alone, beside the one sentence, or beside the documents.

        Raises:
            InputError: no document holds a sentence with the documents' answer.
            ContextOverflowError: the prompt is longer than the model reads.
        """
        parted = self._parted(example)
        if parted is None:
            raise InputError(f"The answers to {example.question!r} do not part: one begins with the other.")
        shared, context, memory = parted
        ids = [*self._before(example, kind), *shared]
        if len(ids) > self._lm.max_length:
            raise ContextOverflowError(
                f"The conflict {example.question!r} takes {len(ids)} tokens, but {self._lm.name} reads "
                f"{self._lm.max_length}; give fewer or shorter documents.",
                tokens=len(ids),
                limit=self._lm.max_length,
            )
        return ConflictPrompt(ids, context, memory)

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Next-token logits behind a prompt, fp32 `[vocabulary]`."""
        prompt = torch.tensor([list(ids)], device=self._lm.device)
        logits: torch.Tensor = self._lm.model(input_ids=prompt, use_cache=False).logits[0, -1]
        return logits.float()

    def remembers(self, example: ConflictExample) -> bool:
        """Whether the model, asked alone, goes on with the memory's answer."""
        prompt = self.build(example, "clean")
        return int(self.logits(prompt.ids).argmax()) == prompt.memory

    def record(self) -> dict[str, Any]:
        """What a head set's provenance says of the prompts."""
        return {
            "prompt": self.template.fingerprint,
            "spaced": self.spaced,
            "skipped": self.skipped,
            "remembered": self.remembered,
        }

    def _before(self, example: ConflictExample, kind: Kind) -> list[int]:
        if kind == "clean":
            return self.template.alone(example.question)
        shown = example.shown if kind == "documents" else [Document(example.sentence)]
        return [*self.template.prefix(shown).ids, *self.template.tail(example.question)]

    def _parted(self, example: ConflictExample) -> tuple[list[int], int, int] | None:
        """The tokens that both answers begin with, and the next one of each; None where one answer has no next."""
        space = " " if self.spaced else ""
        first, second = (self.template.encode(space + answer) for answer in (example.context, example.memory))
        for place, (one, other) in enumerate(zip(first, second, strict=False)):
            if one != other:
                return first[:place], one, other
        return None

    def _settle(self, examples: Sequence[ConflictExample]) -> bool:
        """Whether the first tokens of " answer" are more likely behind the prompts than those of "answer"."""
        gain = 0.0
        for example in examples:
            answers = (example.context, example.memory)
            pairs = [(self.template.encode(" " + answer)[0], self.template.encode(answer)[0]) for answer in answers]
            if all(spaced == bare for spaced, bare in pairs):
                continue
            logits = self.logits(self._before(example, "documents")[-self._lm.max_length :])
            spaced, bare = ([pair[side] for pair in pairs] for side in (0, 1))
            gain += float(logits[spaced].logsumexp(0) - logits[bare].logsumexp(0))
        return gain >= 0


def prompts_for(
    lm: LanguageModel, examples: Sequence[ConflictLike] | None, template: str, count: int
) -> ConflictPrompts:
    """The prompts of given conflicts, or of `count` built-in ones, those first whose memory the model has."""
    if examples is not None:
        return ConflictPrompts(lm, examples, template)
    found = ConflictPrompts(lm, built_in_conflicts(POOL * count), template)
    known: list[ConflictExample] = []
    others: list[ConflictExample] = []
    for example in found.examples:
        (known if found.remembers(example) else others).append(example)
        if len(known) == count:
            break
    found.examples, found.remembered = [*known, *others][:count], len(known)
    return found
