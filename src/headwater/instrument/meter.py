"""What forwards really cost: tokens and floating-point operations, counted as they run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from headwater.instrument.interface import refuse_compiled
from headwater.model.anatomy import attention_modules, decoder, decoder_layers, unwrapped
from headwater.model.lm import LanguageModel


@dataclass
class Used:
    """What ran inside a `metered` block so far.

    Attributes:
        tokens: tokens that entered the first layer, padding included.
        flops: floating-point operations, a multiplication and its addition being two.
    """

    tokens: int = 0
    flops: int = 0


@contextmanager
def metered(lm: LanguageModel) -> Iterator[Used]:
    """Count what the model computes inside the block: ranking, reading, generation, any forward of `lm.model`.

    Every layer that a forward enters counts 2 x its parameters x its tokens and, where it has attention, 4 x heads x
    head_dim for every pair of a token and a key at its position or before. The output embedding counts 2 x its
    parameters x the positions that go through it. A forward that is left early counts the layers that it entered, the
    last one in full. What a cache saved is not counted, what it holds is attended to.

    An upper bound in three cases: of a mixture of experts all experts count, a sliding window counts as if it were not
    there, and so do padded keys. Not counted: norms after the layers, softmax, whatever a capture computes beside the
    model, images, backward passes. Weights packed several to an element count by their elements.

    Blocks nest, and each counts everything inside it. Forwards that other threads run on the same model are counted as
    well.

    Example:
        >>> with metered(lm) as used:
        ...     retriever.rank(query, documents)
        >>> used.tokens, used.flops

    Yields:
        `Used`, which grows while the block runs and stays afterwards.

    Raises:
        ModelError: the model is compiled.
    """
    refuse_compiled(lm)
    meter = _Meter(lm)
    with ExitStack() as hooks:
        hooks.callback(decoder(lm.model).register_forward_pre_hook(meter.begin, with_kwargs=True).remove)
        for index, layer in enumerate(decoder_layers(lm.model)):
            hooks.callback(layer.register_forward_pre_hook(meter.entered(index)).remove)
        output = unwrapped(lm.model).get_output_embeddings()
        if output is not None:
            hooks.callback(output.register_forward_pre_hook(meter.projected).remove)
        yield meter.used


class _Meter:
    """The hooks of one block."""

    def __init__(self, lm: LanguageModel) -> None:
        self.used = Used()
        self._parameters = [_size(layer) for layer in decoder_layers(lm.model)]
        self._with_attention = set(attention_modules(lm.model))
        self._per_pair = 4 * lm.anatomy.num_heads * lm.anatomy.head_dim
        self._tokens = self._pairs = 0  # of the forward that is running

    def begin(self, module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A forward of the decoder begins."""
        positions = _positions(
            {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        )
        self._tokens, self._pairs = positions.numel(), int((positions + 1).sum())

    def entered(self, index: int) -> Any:
        """A hook for one layer."""

        def hook(module: torch.nn.Module, args: Sequence[Any]) -> None:
            if index == 0:
                self.used.tokens += self._tokens
            self.used.flops += 2 * self._parameters[index] * self._tokens
            if index in self._with_attention:
                self.used.flops += self._per_pair * self._pairs

        return hook

    def projected(self, module: torch.nn.Module, args: Sequence[torch.Tensor]) -> None:
        """The output embedding is applied."""
        self.used.flops += 2 * _size(module) * args[0].shape[:-1].numel()


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _positions(given: Mapping[str, Any]) -> torch.Tensor:
    """Position of every token of a forward, `[batch, tokens]`, from the arguments of the decoder."""
    inputs = given.get("input_ids")
    batch, tokens = (given["inputs_embeds"] if inputs is None else inputs).shape[:2]
    for name in ("position_ids", "cache_position"):
        if given.get(name) is not None:
            positions: torch.Tensor = given[name]
            return positions.expand(batch, tokens)
    cache = given.get("past_key_values")
    start = 0 if cache is None else int(cache.get_seq_length())
    return torch.arange(start, start + tokens).expand(batch, tokens)
