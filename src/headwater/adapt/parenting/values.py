"""What the optimizer moves: the trained tensors, or fp32 copies of those of a smaller type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from headwater.adapt.parenting.routed import Owned
from headwater.errors import ModelError
from headwater.model.anatomy import unwrapped
from headwater.model.lm import LanguageModel


class Values(dict[str, torch.Tensor]):
    """Trained values by the name of their tensor.

    A tensor of bfloat16 has an fp32 copy here, which is what learns; `write` rounds it into the model.
    """

    def __init__(self, owned: Sequence[Owned]) -> None:
        """Take the tensors that some units live in."""
        self.parameters = {each.piece.name: each.piece.parameter for each in owned}
        super().__init__({name: _master(parameter) for name, parameter in self.parameters.items()})

    def copy_now(self) -> dict[str, torch.Tensor]:
        """The values as they are."""
        return {name: value.detach().clone() for name, value in self.items()}

    @torch.no_grad()
    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put such values back, in the model too."""
        for name, value in self.items():
            value.copy_(tensors[name])
        self.write()

    @torch.no_grad()
    def write(self) -> None:
        """Round fp32 copies into the model's own tensors."""
        for name, parameter in self.parameters.items():
            if self[name] is not parameter:
                parameter.copy_(self[name])

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """State of an optimizer of some of the values, as `kind/name`."""
        return {
            f"{kind}/{name}": moment
            for name, value in self.items()
            for kind, moment in optimizer.state.get(value, {}).items()
        }

    def put_moments(self, optimizer: torch.optim.Optimizer, moments: Mapping[str, torch.Tensor]) -> None:
        """Give an optimizer such a state back."""
        for key, moment in moments.items():
            kind, _, name = key.partition("/")
            optimizer.state[self[name]][kind] = moment.to(moment.device if kind == "step" else self[name].device)


@torch.no_grad()
def put(lm: LanguageModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors into the parameters of these names, rounded to their type."""
    own = dict(unwrapped(lm.model).named_parameters())
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


@contextmanager
def lent(lm: LanguageModel, modules: Sequence[str]) -> Iterator[LanguageModel]:
    """The model itself, to train the weights of some modules in place; on leaving they are as before.

    Raises:
        ModelError: a weight that holds no floating-point numbers.
    """
    names = [f"{module}.weight" for module in modules]
    own = dict(unwrapped(lm.model).named_parameters())
    quantised = next((name for name in names if not own[name].is_floating_point()), None)
    if quantised is not None:
        raise ModelError(f"The weight {quantised} is quantised, so it cannot be trained: use units of kind 'pair'.")
    before = {name: own[name].detach().to("cpu", copy=True) for name in names}
    needed = {name: parameter.requires_grad for name, parameter in own.items()}
    try:
        yield lm
    finally:
        put(lm, before)
        for name, parameter in own.items():
            parameter.grad = None
            parameter.requires_grad_(needed[name])


def _master(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The parameter itself, or an fp32 copy where its type is smaller."""
    if parameter.dtype.itemsize >= 4:
        return parameter
    return torch.nn.Parameter(parameter.detach().float().clone())
