"""GradCache (arXiv 2101.06983): the gradient of one big batch in the memory of one chunk (llara.md 3.7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

Chunk = TypeVar("Chunk")
_States = tuple[torch.Tensor, list[torch.Tensor]]


def grad_cache(
    encode: Callable[[Chunk], torch.Tensor],
    chunks: Sequence[Chunk],
    loss: Callable[[torch.Tensor], torch.Tensor],
    parameters: Sequence[torch.nn.Parameter],
) -> torch.Tensor:
    """`loss` of the rows of all chunks, whose backward pass encodes again, one chunk at a time.

    Forward, all chunks are encoded without a graph, and the loss gives the gradient of each row; backward, each chunk
    is encoded again, with the random numbers (dropout) it had, and passes its rows' gradients on to the parameters.
    Each parameter gets its whole gradient at once, so that distributed training sums it over processes once, and
    a scaled loss (fp16, accumulation) scales it as usual.

    Args:
        encode: rows of a chunk, `[rows, dimension]`, a function of the parameters.
        chunks: what is encoded at a time.
        loss: a scalar from the rows of all chunks `[all rows, dimension]`, in order.
        parameters: what gets gradients. One that a chunk does not use gets none from it.

    Returns:
        The loss, whose gradients flow to `parameters` alone.
    """
    run = _Run(encode, chunks, loss, parameters)
    out: torch.Tensor = _Cached.apply(run, *parameters)
    return out


class _Run:
    """One loss: what the first pass leaves for the second."""

    def __init__(
        self,
        encode: Callable[[Chunk], torch.Tensor],
        chunks: Sequence[Chunk],
        loss: Callable[[torch.Tensor], torch.Tensor],
        parameters: Sequence[torch.nn.Parameter],
    ) -> None:
        self.encode, self.chunks, self.loss, self.parameters = encode, chunks, loss, list(parameters)
        self.states: list[_States] = []
        self.slopes: list[torch.Tensor] = []

    def first(self) -> torch.Tensor:
        """The loss, and the gradient of every row."""
        parts = []
        with torch.no_grad():
            for chunk in self.chunks:
                self.states.append(_random_states())
                parts.append(self.encode(chunk))
        with torch.enable_grad():
            rows = torch.cat(parts).detach().requires_grad_()
            value = self.loss(rows)
            (slope,) = torch.autograd.grad(value, rows)
        self.slopes = list(slope.split([len(part) for part in parts]))
        return value.detach()

    def second(self, scale: torch.Tensor) -> list[torch.Tensor | None]:
        """The gradient of every parameter."""
        total: list[torch.Tensor | None] = [None] * len(self.parameters)
        devices = list(range(torch.cuda.device_count()))
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            for chunk, state, slope in zip(self.chunks, self.states, self.slopes, strict=True):
                _restore(state)
                found = torch.autograd.grad(
                    self.encode(chunk), self.parameters, grad_outputs=slope * scale.to(slope), allow_unused=True
                )
                total = [_sum(old, new) for old, new in zip(total, found, strict=True)]
        return total


class _Cached(torch.autograd.Function):
    """The two passes of a run, as one operation on the parameters."""

    @staticmethod
    def forward(ctx: Any, run: _Run, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.run = run
        return run.first()

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> Any:
        return None, *ctx.run.second(slopes[0])


def _sum(old: torch.Tensor | None, new: torch.Tensor | None) -> torch.Tensor | None:
    return new if old is None else old if new is None else old + new


def _random_states() -> _States:
    devices = range(torch.cuda.device_count())
    return torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]


def _restore(states: _States) -> None:
    torch.set_rng_state(states[0])
    for device, state in enumerate(states[1]):
        torch.cuda.set_rng_state(state, device)
