"""One step of gradient-routed training: every unit gets exactly its class's combination of the losses (3.5)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from headwater.adapt.parenting.losses import Batch, answer_loss
from headwater.adapt.parenting.units import Piece
from headwater.errors import InputError, ModelError

Weights = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Owned:
    """Trained parameters and the class that they belong to.

    Attributes:
        owner: name of the class ("E", "A", "R", or one class for all).
        piece: where they are.
    """

    owner: str
    piece: Piece


@dataclass
class _Tensor:
    """A trained tensor: what collects its gradients, and by how much each loss counts in it.

    Attributes:
        parameter: the tensor.
        owned: its pieces.
        total: fp32 (fp64 for an fp64 tensor), of its shape: the combination so far.
        factors: per loss the number for the whole tensor, or one for every place along an axis; losses that count
            nowhere are left out.
    """

    parameter: torch.nn.Parameter
    owned: list[Owned]
    total: torch.Tensor
    factors: dict[str, float | torch.Tensor] = field(default_factory=dict)


class Router(AbstractContextManager["Router"]):
    """Collects, parameter by parameter, the weighted sum of the gradients of several losses.

    Each loss runs once, at the same weights. A hook on every trained tensor takes the gradient as soon as it is there,
    adds it with the factor that the tensor's class has for the loss that is running, and throws it away; a factor of
    zero is left out, not multiplied, so that a loss that overflows cannot reach a class that does not see it.

    Args:
        owned: the trained parameters. What `requires_grad` and is not among them keeps its gradient.
        weights: K of parenting.md 3.4: class -> loss -> factor; every class of `owned` has a row.
        watched: the class over which the gradients of two losses are compared.

    Raises:
        InputError: a class without a row in `weights`, a factor that is not finite, or two units that share parameters.
    """

    def __init__(self, owned: Sequence[Owned], weights: Weights, watched: str = "E") -> None:
        """Prepare accumulators and factors; hooks come with `with`."""
        self.owners = tuple(dict.fromkeys(each.owner for each in owned))
        self.tensors: dict[str, _Tensor] = {}
        self._watched = watched
        self._current: str | None = None
        self._kept: dict[str, dict[str, torch.Tensor]] = {}
        self._hooks: list[Any] = []
        self._needed: list[tuple[torch.nn.Parameter, bool]] = []
        for owner in self.owners:
            if owner not in weights:
                raise InputError(f"The class {owner!r} has no weights of the losses.")
            if not all(math.isfinite(k) for k in weights[owner].values()):
                raise InputError(f"The weights of class {owner!r} are not finite numbers.")
        rows = [weights[owner] for owner in self.owners]
        self.losses = tuple(dict.fromkeys(loss for row in rows for loss, k in row.items() if k != 0))
        for each in owned:
            name, parameter = each.piece.name, each.piece.parameter
            if name not in self.tensors:
                kind = torch.promote_types(parameter.dtype, torch.float32)
                self.tensors[name] = _Tensor(parameter, [], torch.zeros_like(parameter, dtype=kind))
            self.tensors[name].owned.append(each)
        for name, tensor in self.tensors.items():
            _refuse_overlap(name, tensor)
            factors = {loss: _factor(tensor, weights, loss) for loss in self.losses}
            tensor.factors = {loss: factor for loss, factor in factors.items() if factor is not None}

    def __enter__(self) -> Router:
        """Ask for gradients of the trained tensors, and put the hooks on."""
        for name, tensor in self.tensors.items():
            self._needed.append((tensor.parameter, tensor.parameter.requires_grad))
            tensor.parameter.requires_grad_(True)
            self._hooks.append(tensor.parameter.register_post_accumulate_grad_hook(self._taker(name, tensor)))
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the hooks off."""
        while self._hooks:
            self._hooks.pop().remove()
        while self._needed:
            parameter, needed = self._needed.pop()
            parameter.requires_grad_(needed)

    def _taker(self, name: str, tensor: _Tensor) -> Any:
        def take(parameter: torch.Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            loss = self._current
            if loss is None or gradient is None:
                return
            factor = tensor.factors.get(loss)
            if isinstance(factor, torch.Tensor):
                tensor.total += torch.where(factor != 0, factor * gradient.to(tensor.total.dtype), 0)
            elif factor is not None:
                tensor.total.add_(gradient.to(tensor.total.dtype), alpha=factor)
            kept = self._kept.get(loss, {}).get(name)
            if kept is not None:
                kept += self._seen(tensor, gradient)

        return take

    def _seen(self, tensor: _Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """What a gradient is over the watched class, in one vector."""
        mine = [each.piece.of(gradient).float().flatten() for each in tensor.owned if each.owner == self._watched]
        return torch.cat(mine) if mine else gradient.new_zeros(0, dtype=torch.float32)

    def clear(self) -> None:
        """Forget what was collected."""
        for tensor in self.tensors.values():
            tensor.total.zero_()

    def collect(self, model: Any, loss: str, batches: Iterable[Batch], tokens: int) -> float:
        """Run one loss backwards: the sum over the target tokens of its batches, divided by `tokens`.

        Args:
            model: the transformers model (or peft wrapper).
            loss: its name.
            batches: the step's examples of this loss, of this process.
            tokens: what the sum is divided by: target tokens of this loss in this step, over all processes.

        Returns:
            The loss of this process's share.
        """
        self._current, total = loss, 0.0
        try:
            for batch in batches:
                value, _ = answer_loss(model, batch)
                (value / tokens).backward()
                total += float(value.detach()) / tokens
        finally:
            self._current = None
        return total

    def watch(self, *losses: str) -> None:
        """Keep these losses' own gradients over the watched class from now on, for `cosine`; none: no longer."""
        self._kept = {
            loss: {name: torch.zeros_like(self._seen(tensor, tensor.total)) for name, tensor in self.tensors.items()}
            for loss in losses
        }

    def norms(self) -> dict[str, float]:
        """Euclidean norm of what was collected, per class."""
        squares = dict.fromkeys(self.owners, 0.0)
        for tensor in self.tensors.values():
            for each in tensor.owned:
                squares[each.owner] += float(each.piece.of(tensor.total).double().square().sum())
        return {owner: math.sqrt(value) for owner, value in squares.items()}

    def cosine(self, one: str, other: str) -> float | None:
        """Cosine between two watched losses' gradients over the watched class; None where one of them is zero."""
        if one not in self._kept or other not in self._kept:
            return None
        pairs = [(a.double(), self._kept[other][name].double()) for name, a in self._kept[one].items()]

        def product(first: int, second: int) -> float:  # tensor by tensor: they may lie on several devices
            return sum(float(pair[first] @ pair[second]) for pair in pairs)

        length = math.sqrt(product(0, 0)) * math.sqrt(product(1, 1))
        return product(0, 1) / length if length > 0 and math.isfinite(length) else None

    def clip(self, most: float, norms: Mapping[str, float], together: bool = False) -> None:
        """Scale what was collected to a norm of at most `most`: each class by itself, or all of them `together`."""
        whole = math.sqrt(sum(value**2 for value in norms.values()))
        for tensor in self.tensors.values():
            for each in tensor.owned:
                length = whole if together else norms[each.owner]
                if length <= most:
                    continue
                piece = each.piece
                if piece.axis is None or piece.index is None:
                    tensor.total.mul_(most / length)
                else:
                    tensor.total.index_copy_(piece.axis, piece.index, piece.of(tensor.total) * (most / length))

    def flat(self) -> torch.Tensor:
        """Everything collected and kept for `cosine`, in one vector: what processes sum."""
        parts = [tensor.total.flatten() for tensor in self.tensors.values()]
        parts += [self._kept[loss][name] for loss in sorted(self._kept) for name in sorted(self._kept[loss])]
        return torch.cat([part.to(parts[0].device) for part in parts])

    def restore(self, vector: torch.Tensor) -> None:
        """Put such a vector back."""
        done = 0
        for tensor in self.tensors.values():
            size = tensor.total.numel()
            tensor.total.copy_(vector[done : done + size].view_as(tensor.total))
            done += size
        for loss in sorted(self._kept):
            for name in sorted(self._kept[loss]):
                own = self._kept[loss][name]
                own.copy_(vector[done : done + own.numel()])
                done += own.numel()


def _factor(tensor: _Tensor, weights: Weights, loss: str) -> float | torch.Tensor | None:
    """How much of a loss a tensor gets; None where none of its places gets any."""
    whole = [each for each in tensor.owned if each.piece.axis is None]
    if whole:
        return float(weights[whole[0].owner].get(loss, 0.0)) or None
    axis = tensor.owned[0].piece.axis or 0
    along = torch.zeros(tensor.parameter.shape[axis], dtype=tensor.total.dtype, device=tensor.total.device)
    for each in tensor.owned:
        along[each.piece.index] = float(weights[each.owner].get(loss, 0.0))
    if not along.any():
        return None
    shape = [1] * tensor.parameter.ndim
    shape[axis] = -1
    return along.view(shape)


def _refuse_overlap(name: str, tensor: _Tensor) -> None:
    """Two owners of the same number would be trained by both."""
    axes = {each.piece.axis for each in tensor.owned}
    places = [int(i) for each in tensor.owned if each.piece.index is not None for i in each.piece.index]
    if len(axes) > 1 or (None in axes and len(tensor.owned) > 1) or len(places) != len(set(places)):
        raise InputError(f"Two units share parameters in {name}.")


def refuse_sharded(model: Any) -> None:
    """Refuse weights that are cut up over processes: a hook would see a part of a gradient, or none.

    Raises:
        ModelError: DeepSpeed ZeRO, FSDP1's flat parameters, or FSDP2 (not supported: adapters are small, and whole
            models are trained in several processes without sharding).
    """
    for name, parameter in model.named_parameters():
        kind = type(parameter).__name__
        if hasattr(parameter, "ds_id") or kind == "FlatParameter" or hasattr(parameter, "device_mesh"):
            how = "DeepSpeed ZeRO" if hasattr(parameter, "ds_id") else "FSDP"
            raise ModelError(
                f"The weight {name} is sharded ({how}), which Parenting does not train: start without it, one whole "
                "model per process, or spread one model over devices with device_map."
            )
