"""Reading: the model answers a question from documents, greedily and in the prompt format it ranks with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater.data.documents import DocumentLike, as_documents, check_query
from headwater.errors import ContextOverflowError, InputError
from headwater.model.greedy import Against, end_ids, greedy
from headwater.prompt.prompt import prompt_template

if TYPE_CHECKING:
    from headwater.headset import HeadSet, HeadsLike
    from headwater.model.lm import LanguageModel

# What opens and closes the reasoning of models that think before they answer.
THINKING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
OnText = Callable[[str], object]
Finished = Callable[[int, list[int], float], bool]


@dataclass(frozen=True)
class Reading:
    """What the model said.

    Attributes:
        text: the answer, stripped, up to its first line break ("" when the model stopped at once).
        prompt_tokens: length of the prompt.
        finished: whether the model ended the answer itself, rather than running into a limit.
        confidence: geometric mean of the probabilities of the answer's tokens and of its end, 0 to 1.
        reasoning: what a thinking model wrote before the answer ("" for others); never part of `text`.
    """

    text: str
    prompt_tokens: int
    finished: bool
    confidence: float = 1.0
    reasoning: str = ""


class Reader:
    """Answers questions from documents with greedy decoding.

    The prompt is `prompt_template(tokenizer, template, instruction="answer")`: numbered documents, the instruction,
    the question; thinking is switched off where the chat template knows the switch. Generation stops at the
    end-of-sequence token or at a line break after the first text of the answer. Models that think all the same get
    `max_thinking_tokens` for it, and what they think is kept apart.
    """

    def __init__(
        self, lm: LanguageModel, max_new_tokens: int = 32, template: str = "auto", max_thinking_tokens: int = 2048
    ) -> None:
        """Prepare the prompt template.

        Raises:
            InputError: when max_new_tokens is below 1, or max_thinking_tokens below 0.
        """
        if max_new_tokens < 1 or max_thinking_tokens < 0:
            raise InputError(
                f"max_new_tokens must be at least 1 and max_thinking_tokens 0, got {max_new_tokens} and "
                f"{max_thinking_tokens}."
            )
        self.lm = lm
        self.max_new_tokens = max_new_tokens
        self._template = prompt_template(lm.tokenizer, template=template, instruction="answer")
        opening = str(lm.tokenizer.decode(list(self._template.suffix), skip_special_tokens=False))
        self._opened = next((close for mark, close in THINKING if opening.rfind(mark) > opening.rfind(close)), None)
        rendered = str(getattr(lm.tokenizer, "chat_template", None) or "")
        known = any(mark in rendered or mark in lm.tokenizer.get_vocab() for pair in THINKING for mark in pair)
        self.max_thinking_tokens = max_thinking_tokens if known or self._opened else 0

    def read(self, question: str, documents: Iterable[DocumentLike], on_text: OnText | None = None) -> Reading:
        """Answer one question; blank documents are left out of the prompt.

        Args:
            question: the question.
            documents: what to read, best first.
            on_text: called with each new piece of the answer while it is generated.

        Raises:
            InputError: for a blank question, or no documents with any text.
            ContextOverflowError: when prompt and answer are longer than the model reads.
        """
        question = check_query(question)
        return self._answer(self._documents_and(question, documents), on_text, self._against(question))

    def recall(self, question: str, on_text: OnText | None = None) -> Reading:
        """Answer one question without any documents, from what the model knows by heart (closed book).

        The prompt is the question alone (`PromptTemplate.alone`): the instruction speaks of documents.

        Args:
            question: the question.
            on_text: called with each new piece of the answer while it is generated.

        Raises:
            InputError: for a blank question.
            ContextOverflowError: when prompt and answer are longer than the model reads.
        """
        return self._answer(self._alone(question), on_text, None)

    def read_without(
        self, variants: Sequence[HeadSet | HeadsLike], question: str, documents: Iterable[DocumentLike] = ()
    ) -> list[Reading]:
        """The answer once per head set, its heads zeroed while the answer is written; the prompt is read once.

        What `read` (without documents: `recall`) gives inside ``hw.ablated(lm, heads, "zero", "decode")``.

        Args:
            variants: head sets; an empty one takes nothing out.
            question: the question.
            documents: what to read, best first; none for the question alone.

        Raises:
            InputError: as `read` and `recall`, no variants, or a reader that contrasts two prompts.
            HeadSetError: a head that the model does not have.
            ModelError: a model that `headwater.instrument.variants` cannot run.
        """
        from headwater.instrument.variants import decode_variants

        def decode(ids: list[int], room: int, finished: Finished) -> list[list[int]]:
            return decode_variants(self.lm, ids, variants, room, finished)

        return self._together(len(variants), question, documents, decode)

    def read_scaled(
        self, sets: Sequence[HeadSet | None], question: str, documents: Iterable[DocumentLike] = ()
    ) -> list[Reading]:
        """The answer once per head set, heads scaled by its coefficients: all of them in one batch.

        What `read` (without documents: `recall`) gives inside ``hw.scaled(lm, heads)``.

        Args:
            sets: head sets with coefficients; None for the model as it is.
            question: the question.
            documents: what to read, best first; none for the question alone.

        Raises:
            InputError: as `read` and `recall`, no sets, one without coefficients, or a reader that contrasts two
                prompts.
            HeadSetError: a head that the model does not have.
            ModelError: a model that `headwater.instrument.scaled_variants` cannot run.
        """
        from headwater.instrument.scaled_variants import decode_scaled

        def decode(ids: list[int], room: int, finished: Finished) -> list[list[int]]:
            return decode_scaled(self.lm, ids, sets, room, finished)

        return self._together(len(sets), question, documents, decode)

    def _together(
        self,
        count: int,
        question: str,
        documents: Iterable[DocumentLike],
        decode: Callable[[list[int], int, Finished], list[list[int]]],
    ) -> list[Reading]:
        """Several answers to one question, out of one batch."""
        shown = as_documents(documents)
        if shown and self._against(question) is not None:
            raise InputError("A reader that contrasts two prompts reads them one at a time: use hw.ablated, hw.scaled.")
        ids = self._documents_and(check_query(question), shown) if shown else self._alone(question)
        room = self._room(len(ids))
        watches = [self._watch(len(ids), None) for _ in range(count)]

        def finished(place: int, new: list[int], log_probability: float) -> bool:
            watches[place].logs.append(log_probability)
            return watches[place].over(new)

        found = decode(ids, room, finished)
        return [self._reading(len(ids), new, watch, room) for new, watch in zip(found, watches, strict=True)]

    def _documents_and(self, question: str, documents: Iterable[DocumentLike]) -> list[int]:
        """Ids of the prompt of documents and question."""
        shown = [document for document in as_documents(documents) if not document.blank]
        if not shown:
            raise InputError("There is nothing to read: every document is blank.")
        ids = [*self._template.prefix(shown).ids, *self._template.tail(question)]
        self._check_length(len(ids), f"Reading {len(shown)} documents", "give fewer or shorter documents")
        return ids

    def _alone(self, question: str) -> list[int]:
        """Ids of the prompt of a question without documents."""
        ids = self._template.alone(question)
        self._check_length(len(ids), "The question", "shorten it")
        return ids

    def _against(self, question: str) -> Against | None:
        """What answers from documents are contrasted with; here nothing."""
        return None

    def _check_length(self, tokens: int, what: str, remedy: str) -> None:
        limit, needed = self.lm.max_length, tokens + self.max_new_tokens
        if limit is not None and needed > limit:
            raise ContextOverflowError(
                f"{what} takes {tokens} tokens and {self.max_new_tokens} for the answer, but {self.lm.name} reads "
                f"{limit}; {remedy}.",
                tokens=needed,
                limit=limit,
            )

    def _answer(self, ids: list[int], on_text: OnText | None, against: Against | None) -> Reading:
        """Generate behind a prompt, up to the end of the answer's first line."""
        room, watch = self._room(len(ids)), self._watch(len(ids), on_text)
        new = greedy(self.lm, ids, room, against, stopping_criteria=[watch.stop], logits_processor=[watch.note])
        return self._reading(len(ids), new, watch, room)

    def _room(self, prompt: int) -> int:
        """How many tokens may be generated behind a prompt, for the answer and for thinking."""
        limit, needed = self.lm.max_length, prompt + self.max_new_tokens
        thinking = self.max_thinking_tokens if limit is None else min(self.max_thinking_tokens, limit - needed)
        return self.max_new_tokens + thinking

    def _watch(self, prompt: int, on_text: OnText | None) -> _Watch:
        return _Watch(self.lm.tokenizer, prompt, self.max_new_tokens, self._opened, on_text)

    def _reading(self, prompt: int, new: list[int], watch: _Watch, room: int) -> Reading:
        """What was said, from the new ids."""
        answer, reasoning = watch.split(new)
        ended = bool(new and new[-1] in end_ids(self.lm))
        line = answer.strip().split("\n")[0].strip()
        unlimited = len(new) < room and not watch.full
        return Reading(
            line, prompt, unlimited or ended or "\n" in answer.strip(), watch.confidence(len(new)), reasoning.strip()
        )


class _Watch:
    """Follows a generation: where reasoning ends and the answer begins, how sure each token is, when to stop."""

    def __init__(
        self, tokenizer: Any, prompt: int, max_new_tokens: int, opened: str | None, on_text: OnText | None
    ) -> None:
        self.tokenizer, self.prompt, self.max_new_tokens, self.opened = tokenizer, prompt, max_new_tokens, opened
        self.on_text = on_text
        self.logs: list[float] = []  # of the chosen token, one per step
        self.start = 0  # of the answer's tokens, among the new ones
        self.full = False
        self._told = 0

    def note(self, ids: Any, scores: Any) -> Any:
        """A logits processor that changes nothing: greedy decoding takes the most probable token."""
        self.logs.append(float(scores[0].float().log_softmax(-1).max()))
        return scores

    def stop(self, ids: Any, scores: Any, **_: Any) -> Any:
        """A stopping criterion."""
        import torch

        return torch.tensor([self.over([int(i) for i in ids[0, self.prompt :]])], device=ids.device)

    def over(self, new: list[int]) -> bool:
        """Whether the answer's first line is over, or as long as it may get, after so many new ids."""
        raw = str(self.tokenizer.decode(new, skip_special_tokens=False))
        close = self._closing(raw)
        if close is not None and close not in raw:
            self.start = len(new)
            return False
        if raw.strip() and any(mark.startswith(raw.strip()) for mark, _ in THINKING):  # perhaps half of a mark
            return False
        body = self.split(new)[0].lstrip()
        ended = body.strip() != "" and "\n" in body
        self.full = len(new) - self.start >= self.max_new_tokens
        if self.on_text is not None:
            line = body.split("\n")[0]
            if line[self._told :] and not line.endswith("\ufffd"):  # half of a character waits for its other half
                self.on_text(line[self._told :])
                self._told = len(line)
        return ended or self.full

    def split(self, new: list[int]) -> tuple[str, str]:
        """Answer and reasoning so far; no answer while the reasoning is open."""
        raw = str(self.tokenizer.decode(new, skip_special_tokens=False))
        close = self._closing(raw)
        if close is None:
            return str(self.tokenizer.decode(new, skip_special_tokens=True)), ""
        reasoning, found, answer = raw.partition(close)
        if not found:
            return "", self._plain(reasoning)
        return self._plain(answer), self._plain(reasoning)

    def confidence(self, steps: int) -> float:
        """Geometric mean probability of the answer's tokens."""
        logs = self.logs[self.start : steps]
        return math.exp(sum(logs) / len(logs)) if logs else 0.0

    def _closing(self, raw: str) -> str | None:
        """What closes the reasoning that `raw` starts with; None when it does not start with any."""
        if self.opened is not None:
            return self.opened
        return next((close for mark, close in THINKING if raw.lstrip().startswith(mark)), None)

    def _plain(self, text: str) -> str:
        for mark in (*self.tokenizer.all_special_tokens, *(mark for pair in THINKING for mark in pair)):
            text = text.replace(mark, "")
        return text
