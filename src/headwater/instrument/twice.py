"""Two runs per token: what heads said in the first is added to what they say in the second.

JuICE with two runs (arXiv 2503.10996; pear.md 8.2). A head that is turned up at once, as `scaled` does, changes what
later heads say, so that they are turned up by another amount than was meant. Here every addition is measured in the
model as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

import torch

from headwater.errors import InputError
from headwater.headset import HeadSet
from headwater.instrument.interface import exclusive, refuse_compiled
from headwater.instrument.outputs import coefficients_of
from headwater.instrument.rows import by_layer
from headwater.model.anatomy import decoder, output_projections
from headwater.model.lm import LanguageModel
from headwater.model.memory import within_memory

_inside: WeakSet[torch.nn.Module] = WeakSet()  # decoders that run twice at the moment


@contextmanager
def twice(lm: LanguageModel, heads: HeadSet) -> Iterator[None]:
    """Run the model twice in every forward inside the block.

    Run 1 is the model as it is; it stores the heads' outputs at all positions. Run 2 adds (coefficient - 1) times them
    to its own: +g where the coefficient is 1 + g, -q where it is 1 - q, nothing where it is 1. Its result is what the
    caller gets. Additions go in before the output projection, which is linear: the same as adding projected outputs,
    its bias left alone. Where all heads lie in one layer this is what `scaled` does.

    With a cache each run keeps its own, the caller's being that of run 2: run 1 always continues from keys and values
    of the model as it is, run 2 from those it changed itself, and both read the same tokens. So a generation gives
    what two whole forwards per token would, as the authors' code runs them. It costs two forwards and two caches.

    A generation begins and ends inside the block; `lm.model.generate`, and plain forwards of any kind, work.

    Args:
        lm: a loaded model.
        heads: a set with coefficients.

    Raises:
        InputError: a set without coefficients, or a block inside another one on the same model; inside the block, a
            cache that was not begun there or that has been cut.
        HeadSetError: a head the model does not have.
        ModelError: a compiled model, or another thread is inside a block on the same model.
    """
    refuse_compiled(lm)
    runs = _Runs(lm, heads)
    module = decoder(lm.model)
    with exclusive(lm), ExitStack() as stack:
        if module in _inside:
            raise InputError(f"{lm.name!r} runs twice already: blocks of two runs do not go into each other.")
        _inside.add(module)
        stack.callback(_inside.discard, module)
        stack.callback(module.register_forward_pre_hook(runs.before, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(runs.after).remove)
        for layer, projection in output_projections(lm.model).items():
            if layer in runs.layers:
                stack.callback(projection.register_forward_pre_hook(runs.at(layer)).remove)
        yield


@torch.no_grad()
def twice_logits(lm: LanguageModel, heads: HeadSet, ids: Sequence[int]) -> torch.Tensor:
    """Logits of the token behind a prompt under `twice`, fp32 (fp64 for an fp64 model) `[vocabulary]`.

    Args:
        lm: a loaded model.
        heads: a set with coefficients.
        ids: token ids of the prompt.

    Raises:
        InputError: an empty prompt, or a set without coefficients.
        HeadSetError, ModelError: as `twice`.
        InsufficientMemoryError: the device runs out of memory.
    """
    if not ids:
        raise InputError("There is no prompt: give at least one token id.")
    prompt = torch.tensor([list(ids)], device=lm.device)
    with twice(lm, heads), within_memory(f"reading {len(ids)} tokens"):
        logits: torch.Tensor = lm.model(input_ids=prompt, use_cache=False).logits[0, -1]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _Runs:
    """The hooks of one block, and what run 1 leaves for run 2."""

    def __init__(self, lm: LanguageModel, heads: HeadSet) -> None:
        self._count = lm.anatomy.num_heads
        self._precise = torch.promote_types(lm.dtype, torch.float32)
        more = torch.tensor(coefficients_of(heads), dtype=self._precise) - 1
        self.layers = {
            layer: ([head for _, head in members], more[[place for place, _ in members]][:, None])
            for layer, members in by_layer(heads, lm.anatomy).items()
        }
        self._stored: dict[int, torch.Tensor] = {}  # layer -> [batch, positions, chosen heads, d_v]
        self._first = False  # whether run 1 is going on
        self._clean: Any = None  # cache of run 1
        self._edited: Any = None  # the caller's cache, to which it belongs
        self._length = 0  # tokens in both

    def before(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run 1, before the forward that the caller asked for."""
        if self._first:
            return
        own = self._own(kwargs.get("past_key_values"))
        self._first = True
        try:
            result = module(*args, **{**kwargs, "past_key_values": own})
        finally:
            self._first = False
        self._clean = getattr(result, "past_key_values", None)

    def after(self, module: torch.nn.Module, args: tuple[Any, ...], result: Any) -> None:
        """Behind run 2: which cache of the caller's belongs to that of run 1."""
        if not self._first:
            self._stored.clear()
            self._edited = getattr(result, "past_key_values", None)
            self._length = 0 if self._edited is None else int(self._edited.get_seq_length())

    def at(self, layer: int) -> Callable[[torch.nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        """The hook of one output projection: store in run 1, add in run 2."""
        chosen, more = self.layers[layer]

        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            slices = args[0].unflatten(-1, (self._count, -1))
            own = slices[..., chosen, :]
            if self._first:
                self._stored[layer] = own
                return None
            added = more.to(own.device) * self._stored[layer].to(self._precise)
            slices = slices.clone()
            slices[..., chosen, :] = (own.to(self._precise) + added).to(own.dtype)
            return (slices.flatten(-2), *args[1:])

        return hook

    def _own(self, given: Any) -> Any:
        """The cache with which run 1 goes on where the caller goes on with this one."""
        if given is None:
            return None
        length = int(given.get_seq_length())
        if length == 0:
            return copy.deepcopy(given)
        if given is not self._edited or length != self._length or self._clean is None:
            raise InputError("With two runs a generation begins and ends inside the block: this cache began elsewhere.")
        return self._clean
