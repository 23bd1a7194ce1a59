"""Reading: the model answers a question from documents, greedily and in the prompt format it ranks with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater.data.documents import DocumentLike, as_documents, check_query
from headwater.errors import ContextOverflowError, InputError
from headwater.prompt.prompt import prompt_template

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


@dataclass(frozen=True)
class Reading:
    """What the model said.

    Attributes:
        text: the answer, stripped, up to its first line break ("" when the model stopped at once).
        prompt_tokens: length of the prompt.
        finished: whether the model ended the answer itself, rather than running into max_new_tokens.
    """

    text: str
    prompt_tokens: int
    finished: bool


class Reader:
    """Answers questions from documents with greedy decoding.

    The prompt is `prompt_template(tokenizer, template, instruction="answer")`: numbered documents, the instruction,
    the question. Generation stops at the end-of-sequence token or at a line break after the first text.
    """

    def __init__(self, lm: LanguageModel, max_new_tokens: int = 32, template: str = "auto") -> None:
        """Prepare the prompt template.

        Raises:
            InputError: when max_new_tokens is below 1.
        """
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
        self.lm = lm
        self.max_new_tokens = max_new_tokens
        self._template = prompt_template(lm.tokenizer, template=template, instruction="answer")

    def read(self, question: str, documents: Iterable[DocumentLike]) -> Reading:
        """Answer one question; blank documents are left out of the prompt.

        Raises:
            InputError: for a blank question, or no documents with any text.
            ContextOverflowError: when prompt and answer are longer than the model reads.
        """
        question = check_query(question)
        shown = [document for document in as_documents(documents) if not document.blank]
        if not shown:
            raise InputError("There is nothing to read: every document is blank.")
        ids = list(self._template.prefix(shown).ids) + list(self._template.tail(question))
        limit = self.lm.max_length
        if limit is not None and len(ids) + self.max_new_tokens > limit:
            raise ContextOverflowError(
                f"Reading {len(shown)} documents takes {len(ids)} tokens and {self.max_new_tokens} for the answer, but "
                f"{self.lm.name} reads {limit}; give fewer or shorter documents.",
                tokens=len(ids) + self.max_new_tokens,
                limit=limit,
            )
        new = self._generate(ids)
        text = str(self.lm.tokenizer.decode(new, skip_special_tokens=True)).strip()
        finished = len(new) < self.max_new_tokens or "\n" in text or bool(new and new[-1] in self._end_ids())
        return Reading(text.split("\n")[0].strip(), len(ids), finished)

    def _end_ids(self) -> list[int]:
        """End-of-sequence ids of the tokenizer and of the checkpoint's own generation settings."""
        own = getattr(getattr(self.lm.model, "generation_config", None), "eos_token_id", None)
        listed = list(own) if isinstance(own, (list, tuple)) else [own]
        return sorted({int(i) for i in [*listed, self.lm.tokenizer.eos_token_id] if i is not None})

    def _generate(self, ids: list[int]) -> list[int]:
        """Greedy continuation as token ids; sampling settings of the checkpoint are left aside."""
        import torch
        from transformers import GenerationConfig

        ends = self._end_ids()
        pad = self.lm.tokenizer.pad_token_id
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            eos_token_id=ends or None,
            pad_token_id=pad if pad is not None else (ends[0] if ends else 0),
        )
        inputs = torch.tensor([ids], device=self.lm.device)
        tokenizer = self.lm.tokenizer

        def line_ended(generated: Any, scores: Any, **_: Any) -> Any:
            text = tokenizer.decode(generated[0, len(ids) :], skip_special_tokens=True)
            return torch.tensor([text.strip() != "" and "\n" in text.lstrip()], device=generated.device)

        with torch.inference_mode():
            out = self.lm.model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                generation_config=config,
                stopping_criteria=[line_ended],
            )
        return [int(i) for i in out[0, len(ids) :]]
