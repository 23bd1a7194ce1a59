"""The losses of LLaRA's adaptation, over the examples of a whole step (llara.md 3.4, 3.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headwater.adapt.llara_texts import Chunks, Order
from headwater.errors import ModelError
from headwater.instrument.joint import joint_states
from headwater.instrument.vocabulary import next_token_loss, state_logits
from headwater.model.lm import LanguageModel
from headwater.prompt.suffix import EmbeddingPrompt

ROLES = ("summarize", "predict")
LM = "lm"


def set_loss(logits: torch.Tensor, targets: Sequence[Sequence[int]]) -> torch.Tensor:
    """Mean negative log-probability of the tokens of a set, one value per example (llara.md 3.4).

    `logsumexp(z) - mean of z over the set`, which is the mean of -log softmax(z), never held as a whole.

    Args:
        logits: `[examples, V]`.
        targets: the sets, none of them empty.

    Returns:
        `[examples]`, in nats.
    """
    named = torch.stack(
        [row[torch.tensor(list(own), device=row.device)].mean() for row, own in zip(logits, targets, strict=True)]
    )
    return logits.logsumexp(-1) - named


@dataclass(frozen=True)
class Weights:
    """What the loss is made of.

    Attributes:
        lm: weight of the next-token loss on the text's own tokens.
        summarize: of EBAE.
        predict: of EBAR.
        summed: a set's loss is the sum over its tokens, not the mean.
    """

    lm: float
    summarize: float
    predict: float
    summed: bool

    def of(self, name: str) -> float:
        """Weight of "lm", "summarize" or "predict"."""
        return float(getattr(self, name))

    @property
    def roles(self) -> list[str]:
        """The tails that are read."""
        return [role for role in ROLES if self.of(role)]


@dataclass(frozen=True)
class Sums:
    """Loss of some examples, summed, and what it is to be divided by.

    Attributes:
        loss: by "lm", "summarize", "predict": summed over tokens, or over sets.
        count: tokens or sets.
        excess: by role: summed KL divergence from the uniform distribution over the set, at least 0.
    """

    loss: dict[str, torch.Tensor]
    count: dict[str, int]
    excess: dict[str, float]


class Examples:
    """Chunks with their targets, and the losses of any of them."""

    def __init__(
        self,
        lm: LanguageModel,
        prompt: EmbeddingPrompt,
        chunks: Chunks,
        weights: Weights,
        joint: str,
        width: int | None,
        strangers: Mapping[int, int] | None = None,
    ) -> None:
        """`width` is that of packed rows; `strangers` says whose targets a chunk gets (None: its own)."""
        self.lm, self.prompt, self.chunks, self.weights = lm, prompt, chunks, weights
        self._joint, self._width, self.strangers = joint, width, strangers or {}

    def targets(self, number: int, role: str) -> list[int]:
        """The set that a role of a chunk has to name."""
        source = self.strangers.get(number, number)
        return self.chunks.targets(source if role == "summarize" else self.chunks.next(source))

    def said(self, number: int) -> int:
        """How many tokens of a chunk the next-token loss is over."""
        return self.chunks.size(number) - (0 if self.prompt.prefix else 1)

    def counts(self, numbers: Sequence[int]) -> dict[str, int]:
        """What the losses of these chunks are to be divided by, without running the model."""
        found = {role: sum(bool(self.targets(number, role)) for number in numbers) for role in self.weights.roles}
        return found | ({LM: sum(self.said(number) for number in numbers)} if self.weights.lm else {})

    def sums(self, numbers: Sequence[int]) -> Sums:
        """The losses of some chunks, in one joint pass."""
        prompt, roles = self.prompt, self.weights.roles
        states = joint_states(
            self.lm,
            [[*prompt.prefix, *self.chunks.ids(number)] for number in numbers],
            [prompt.tail(role) for role in roles],
            prompt.slot_count,
            self._joint,
            prefix=len(prompt.prefix),
            keep_text=bool(self.weights.lm),
            width=self._width,
        )
        found = Sums({}, self.counts(numbers), {})
        for place, role in enumerate(roles):
            targets = [self.targets(number, role) for number in numbers]
            whole = [index for index, own in enumerate(targets) if own]
            sets = [targets[index] for index in whole]
            logits = state_logits(self.lm, states.slots[whole, place]).amax(1)  # over the slots
            each = set_loss(logits, sets) if sets else logits.sum(-1)  # of no row, with a gradient of zero
            sizes = torch.tensor([len(own) for own in sets], dtype=each.dtype, device=each.device)
            found.loss[role] = (each * sizes if self.weights.summed else each).sum()
            found.excess[role] = float((each.detach() - sizes.log()).sum())
        if states.text is not None:
            found.loss[LM] = next_token_loss(self.lm, states.text, states.said)
        return found


class Steps:
    """The training, cut into equal parts of a forward pass each: the loss of part `number`.

    A step has `parts` of them over all processes; what they are divided by is that of the whole step, so that parts of
    unequal size, on one process or several, give the gradient of one big batch.
    """

    def __init__(self, examples: Examples, order: Order, batch: int, parts: int) -> None:
        """`batch` chunks of the order make a step."""
        self._examples, self._order, self._batch, self._parts = examples, order, batch, parts
        self._counted = -1
        self._counts: dict[str, int] = {}

    def loss(self, number: int) -> torch.Tensor:
        """Share of the step's loss, times `parts` (a trainer averages over parts and processes).

        Raises:
            ModelError: a loss that is not finite; names it and the step.
        """
        step, part = divmod(number, self._parts)
        whole = [self._order[place] for place in range(step * self._batch, (step + 1) * self._batch)]
        if step != self._counted:
            self._counted, self._counts = step, self._examples.counts(whole)
        own = [int(each) for each in np.array_split(np.array(whole), self._parts)[part]]
        sums = self._examples.sums(own)
        shares = []
        for name, value in sums.loss.items():
            if not torch.isfinite(value):
                raise ModelError(
                    f"The loss {name!r} is {value.item()} in step {step + 1}: use a lower learning_rate, or float32."
                )
            shares.append(value * (self._examples.weights.of(name) / max(1, self._counts[name])))
        return torch.stack([share.to(shares[0].device) for share in shares]).sum() * self._parts


def looked_at(examples: Examples, numbers: Sequence[int], at_once: int) -> dict[str, float]:
    """Mean losses and excesses over chunks that are not trained on, and the weighted total."""
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    with torch.no_grad():
        for start in range(0, len(numbers), at_once):
            sums = examples.sums(numbers[start : start + at_once])
            for name, value in sums.loss.items():
                totals[name] = totals.get(name, 0.0) + float(value)
                counts[name] = counts.get(name, 0) + sums.count[name]
            for role, excess in sums.excess.items():
                totals[f"excess_{role}"] = totals.get(f"excess_{role}", 0.0) + excess
                counts[f"excess_{role}"] = counts[role]
    means = {name: value / counts[name] for name, value in totals.items() if counts[name]}
    total = math.fsum(examples.weights.of(name) * means[name] for name in (LM, *ROLES) if name in means)
    return {**means, "total": total}
