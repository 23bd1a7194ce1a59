"""Which gates of the feed-forward layers are open: the forward term of Parenting (parenting.md 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headwater.errors import InputError, ModelError
from headwater.instrument.interface import exclusive, refuse_compiled
from headwater.model.anatomy import FAMILIES, decoder, decoder_layers
from headwater.model.lm import LanguageModel
from headwater.model.memory import within_memory


@dataclass(frozen=True)
class GateCounts:
    """Open gates of every layer.

    Attributes:
        active: gates that were open, summed over the counted tokens, int64 `[layers]`.
        width: gates of each layer, int64 `[layers]`.
        tokens: how many tokens were counted.
    """

    active: np.ndarray
    width: np.ndarray
    tokens: int

    def __add__(self, other: GateCounts) -> GateCounts:
        """Both together."""
        return GateCounts(self.active + other.active, self.width, self.tokens + other.tokens)

    @property
    def shares(self) -> np.ndarray:
        """f_l: the share of open gates per layer, float64 `[layers]`, between 0 and 1."""
        found: np.ndarray = self.active / (self.tokens * self.width)
        return found


def gate_modules(lm: LanguageModel) -> list[torch.nn.Module]:
    """The linear map of each layer whose output goes into the activation function (SiLU, GELU or ReLU).

    Raises:
        ModelError: a layer has none: a mixture of experts keeps its maps in one stack.
    """
    path = next(iter(FAMILIES[lm.anatomy.family].feed_forward), None)
    found = []
    for index, layer in enumerate(decoder_layers(lm.model)):
        module: torch.nn.Module | None = layer
        for part in (path or "").split("."):
            module = getattr(module, part, None)
        if module is None:
            raise ModelError(
                f"The gates of layer {index} of {lm.name!r} cannot be read: a {lm.anatomy.family} model has no "
                f"{path or 'linear feed-forward map'!r} there (experts in one stack)."
            )
        found.append(module)
    return found


@torch.no_grad()
def gate_counts(lm: LanguageModel, batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> GateCounts:
    """Count the gates that are open: a gate is where what goes into the activation function is above zero.

    Args:
        lm: a loaded model.
        batches: token ids, attention mask and the tokens to count (1 or 0), each `[batch, tokens]`, padded on the
            right. Tokens that are not counted are read all the same.

    Raises:
        InputError: no token to count.
        ModelError: a layer without such a map, or a compiled model.
        InsufficientMemoryError: a batch does not fit the memory of the device.
    """
    total = None
    run = decoder(lm.model)
    for ids, mask, counted in batches:
        with _counting(lm, counted.to(lm.device).bool()) as found, within_memory(f"reading {len(ids)} prompts at once"):
            run(input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), use_cache=False)
        part = GateCounts(np.array(found.active), np.array(found.width), int(counted.sum()))
        total = part if total is None else total + part
    if total is None or not total.tokens:
        raise InputError("There is no token whose gates could be counted; give prompts.")
    return total


class _Count:
    """What the hooks of one forward found."""

    def __init__(self, layers: int) -> None:
        self.active = [0] * layers
        self.width = [0] * layers


@contextmanager
def _counting(lm: LanguageModel, counted: torch.Tensor) -> Iterator[_Count]:
    """Hooks on the gate maps; they look and give nothing back, so that the output stays what it was."""
    refuse_compiled(lm)
    modules = gate_modules(lm)
    halved = FAMILIES[lm.anatomy.family].feed_forward[0].endswith("gate_up_proj")
    found = _Count(len(modules))
    with exclusive(lm), ExitStack() as stack:
        for layer, module in enumerate(modules):

            def hook(owner: torch.nn.Module, args: Any, output: torch.Tensor, layer: int = layer) -> None:
                width = output.shape[-1] // 2 if halved else output.shape[-1]
                # OPT flattens batch and positions into one axis.
                gates = output[..., :width].reshape(*counted.shape, width)
                found.active[layer] = int((gates > 0)[counted.to(gates.device)].sum())
                found.width[layer] = width

            stack.callback(module.register_forward_hook(hook).remove)
        yield found
