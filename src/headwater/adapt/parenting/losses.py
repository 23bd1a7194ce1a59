"""Parenting items as token ids, padded batches of them, and the loss on their targets (parenting.md 3.1, 3.5)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from headwater.data.documents import Document
from headwater.data.parenting.items import EXTRACT, ParentingItem
from headwater.errors import ContextOverflowError, InputError
from headwater.model.anatomy import unwrapped
from headwater.model.greedy import end_ids, padding_id
from headwater.model.lm import LanguageModel
from headwater.prompt import PromptTemplate, prompt_template
from headwater.prompt.closed_book import closed_book, closed_book_ids

INSTRUCTION = (
    "Say of every paragraph above whether it is relevant to the following question, on the same topic or on another "
    "topic, then repeat the relevant one."
)
_IGNORED = -100
_TURN = ("HEADWATER-USER-TURN", "HEADWATER-ASSISTANT-TURN")


@dataclass(frozen=True)
class TrainingPrompt:
    """One item for one model.

    Attributes:
        ids: token ids of the prompt and, behind it, of the target and its end token.
        start: place of the target's first token in `ids`.
        id: of the item.
        group: of the item.
    """

    ids: tuple[int, ...]
    start: int
    id: str = ""
    group: str = ""

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids of the prompt alone."""
        return self.ids[: self.start]

    @property
    def targets(self) -> int:
        """Target tokens, the end token among them: what the loss is a sum over."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class PromptWriter:
    """Writes items as token ids for one model, in the prompts that ranking and reading use.

    Attributes:
        lm: the model, with or without an adapter.
        template: as in `prompt_template`.
        instruction: before questions without documents, as in `closed_book`.
    """

    lm: LanguageModel
    template: str = "auto"
    instruction: str = "auto"

    @cached_property
    def _answer(self) -> PromptTemplate:
        return prompt_template(self.lm.tokenizer, self.template, "answer")

    @cached_property
    def _extract(self) -> PromptTemplate:
        return prompt_template(self.lm.tokenizer, self.template, INSTRUCTION)

    @cached_property
    def _end(self) -> list[int]:
        """What ends an answer: the token that the chat template writes behind it, else the tokenizer's end token."""
        ends = end_ids(self.lm)
        own = self.lm.tokenizer.eos_token_id
        if self._answer.name == "chat":
            turns = [{"role": role, "content": mark} for role, mark in zip(("user", "assistant"), _TURN, strict=True)]
            rendered = str(self.lm.tokenizer.apply_chat_template(turns, tokenize=False))
            behind = self.lm.tokenizer(rendered.rpartition(_TURN[1])[2], add_special_tokens=False)["input_ids"]
            written = [int(i) for i in behind if int(i) in ends]
            if written:
                return written[:1]
        return ends[:1] if own is None else [int(own)]

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits and a dash between two of them: change with the prompts of answers and of extraction."""
        return f"{self._answer.fingerprint}-{self._extract.fingerprint}"

    @property
    def closed_book(self) -> str:
        """Sixteen hex digits: change with the prompt of questions without documents, that of the probe."""
        return closed_book(self._answer, self.instruction)[0].fingerprint

    def prompt(self, item: ParentingItem) -> list[int]:
        """Token ids of the item without its target; without documents: the closed-book prompt."""
        return self._parts(item)[0]

    def write(self, item: ParentingItem) -> TrainingPrompt:
        """The item with its target and the end token.

        Raises:
            InputError: an item with a blank target.
            ContextOverflowError: an item longer than what the model reads.
        """
        ids, target = self._parts(item)
        if not target:
            raise InputError(f"The item {item.id!r} has a blank target, so there is nothing to learn from it.")
        whole = (*ids, *target, *self._end)
        limit = self.lm.max_length
        if limit and len(whole) > limit:
            raise ContextOverflowError(
                f"The item {item.id!r} has {len(whole):,} tokens, {self.lm.name!r} reads {limit:,}: give fewer or "
                "shorter documents.",
                tokens=len(whole),
                limit=limit,
            )
        return TrainingPrompt(whole, len(ids), item.id, item.group)

    def _parts(self, item: ParentingItem) -> tuple[list[int], list[int]]:
        """Ids of the prompt and of the target without its end token."""
        template = self._extract if item.kind == EXTRACT else self._answer
        shown = [Document(document.text, title=document.title) for document in item.documents]
        if shown:
            ids = [*template.prefix(shown).ids, *template.tail(item.question)]
        else:
            ids = closed_book_ids(template, item.question, self.instruction)
        text = item.target.strip()
        return ids, template.encode(self._gap(template) + text) if text else []

    def _gap(self, template: PromptTemplate) -> str:
        """What stands between the prompt and the first word of the target."""
        if not template.suffix:
            return "\n"
        last = template.suffix[-1]
        opening = str(self.lm.tokenizer.decode([last], skip_special_tokens=False))
        special = last in self.lm.tokenizer.all_special_ids
        return "" if special or not opening.strip() or opening != opening.rstrip() else " "


@dataclass(frozen=True)
class Batch:
    """Prompts with their targets, padded on the right.

    Attributes:
        ids: token ids `[prompts, tokens]`; padding comes last, where no other token can see it.
        mask: `[prompts, tokens]`, 1 at real tokens.
        labels: `[prompts, tokens]`: the token itself at the places of a target, elsewhere -100.
        asked: `[prompts, tokens]`, 1 at tokens of the prompt, neither target nor padding.
        first: the least place of a target token in the batch.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    asked: torch.Tensor
    first: int

    @property
    def targets(self) -> int:
        """Target tokens."""
        return int((self.labels != _IGNORED).sum())


def padded(prompts: Sequence[TrainingPrompt], device: torch.device | str = "cpu", pad: int = 0) -> Batch:
    """Prompts of one batch as tensors.

    Raises:
        InputError: no prompts.
    """
    if not prompts:
        raise InputError("There are no prompts to make a batch of.")
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad)
    mask, asked = torch.zeros_like(ids), torch.zeros_like(ids)
    labels = torch.full_like(ids, _IGNORED)
    for row, prompt in enumerate(prompts):
        own = torch.tensor(prompt.ids)
        ids[row, : len(own)], mask[row, : len(own)], asked[row, : prompt.start] = own, 1, 1
        labels[row, prompt.start : len(own)] = own[prompt.start :]
    first = min(prompt.start for prompt in prompts)
    return Batch(ids.to(device), mask.to(device), labels.to(device), asked.to(device), first)


def batches(
    lm: LanguageModel, prompts: Sequence[TrainingPrompt], size: int, by_length: bool = False
) -> Iterator[Batch]:
    """Batches of at most `size` prompts on the model's device, in order, or (`by_length`) the longest first."""
    order = sorted(prompts, key=lambda prompt: -len(prompt.ids)) if by_length else prompts
    pad = padding_id(lm)
    for start in range(0, len(order), size):
        yield padded(order[start : start + size], lm.device, pad)


def answer_loss(model: LanguageModel | Any, batch: Batch) -> tuple[torch.Tensor, int]:
    """Cross-entropy of the target tokens, summed in fp32, with gradients where autograd is on.

    Args:
        model: a loaded model, or the transformers model (or peft wrapper) itself.
        batch: prompts on the model's device.

    Returns:
        The sum over all target tokens of the batch (a scalar), and how many there are.
    """
    module = model.model if isinstance(model, LanguageModel) else model
    length = batch.ids.shape[1]
    rows = length - batch.first + 1  # the token before the first target predicts it
    more = {"logits_to_keep": rows} if _keeps(module) else {}
    logits = module(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **more).logits
    places = batch.labels[:, batch.first :]
    wanted = places != _IGNORED
    chosen = logits[:, -rows:-1][wanted]
    chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    loss = torch.nn.functional.cross_entropy(chosen, places[wanted].to(chosen.device), reduction="sum")
    return loss, int(wanted.sum())


def _keeps(module: Any) -> bool:
    """Whether the model computes the logits of the last tokens only where it is asked to."""
    return "logits_to_keep" in inspect.signature(unwrapped(module).forward).parameters
