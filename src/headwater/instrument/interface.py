"""How headwater gets between a model and its attention kernel, and out again.

transformers lets an attention function be registered by name (`AttentionInterface`) together with the function that
builds its mask (`AttentionMaskInterface`; without it padding would silently be ignored). headwater registers one name
per stock kernel. A registered function does nothing of its own: it hands the call to the *handler* that travels as an
extra keyword of the model's forward, together with the stock kernel, and without a handler it is the stock kernel.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headwater.errors import ModelError
from headwater.model.anatomy import FAMILIES, attention_modules, decoder
from headwater.model.lm import LanguageModel

Kernel = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
_KEYWORD = "headwater_handler"
_PREFIX = "headwater_"
_MASKS = {"sdpa": sdpa_mask, "eager": eager_mask}


class Handler(Protocol):
    """What stands in for the attention of one layer.

    Tensors are those the model hands to its kernel: query `[batch, H, queries, head_dim]` after rotary embedding, key
    and value `[batch, G, keys, head_dim]` after the cache update and not repeated, mask as the stock kernel wants it.
    """

    def __call__(
        self,
        kernel: Kernel,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what the kernel returns: output `[batch, queries, H, head_dim]`, and weights or None."""


class StopForward(BaseException):
    """Raised by a handler to leave the forward once everything it wanted is read; never reaches the user.

    A BaseException, so that no `except Exception` between the layers and `routed` can swallow it.
    """


def _register(stock: str) -> None:
    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        handler: Handler | None = kwargs.pop(_KEYWORD, None)
        kernel = _kernel(stock, module)
        if handler is None:
            return kernel(module, query, key, value, attention_mask, **kwargs)
        return handler(kernel, module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(f"{_PREFIX}{stock}", attention)
    AttentionMaskInterface.register(f"{_PREFIX}{stock}", _MASKS[stock])


def _kernel(stock: str, module: torch.nn.Module) -> Kernel:
    if stock != "eager":
        return ALL_ATTENTION_FUNCTIONS[stock]
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise ModelError(
            f"{type(module).__name__} has no eager attention function; load the model with sdpa attention."
        )
    return eager


for _stock in _MASKS:
    _register(_stock)


_owners: WeakKeyDictionary[torch.nn.Module, tuple[int, int]] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def routed(lm: LanguageModel, handler: Handler) -> Iterator[None]:
    """Send every attention call of `lm.model` through `handler` inside the block.

    Blocks nest: the inner handler gets the outer one as its kernel. A `StopForward` raised by the handler ends the
    block quietly. On leaving, also on an exception, the model has its own attention implementation back and no hook of
    ours.

    Raises:
        ModelError: the model computes attention outside transformers' interface or with an implementation that
            headwater does not stand in for, or another thread is inside such a block on the same model.
    """
    if not FAMILIES[lm.anatomy.family].interface:
        raise ModelError(
            f"{lm.name!r} is a {lm.anatomy.family} model, which computes attention outside transformers' attention "
            "interface, so nothing can be put in its place (`headwater models` lists what works)."
        )
    stack = decoder(lm.model)
    before = stack.config._attn_implementation
    stock = before.removeprefix(_PREFIX) if isinstance(before, str) else before
    if stock not in _MASKS:
        raise ModelError(
            f"The model {lm.name!r} runs on the attention implementation {stock!r}; headwater reads rows through "
            f"{' and '.join(_MASKS)}: call lm.model.set_attn_implementation('sdpa') first."
        )

    def inject(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        outer = kwargs.get(_KEYWORD)
        return args, {**kwargs, _KEYWORD: handler if outer is None else _nested(handler, outer)}

    refuse_compiled(lm)
    _enter(stack, lm.name)
    hook = None
    try:
        hook = stack.register_forward_pre_hook(inject, with_kwargs=True)
        if before == stock:
            stack.set_attn_implementation(f"{_PREFIX}{stock}")
        yield
    except StopForward:
        pass
    finally:
        if hook is not None:
            hook.remove()
        if before == stock:
            stack.set_attn_implementation(stock)
        _leave(stack)


def refuse_compiled(lm: LanguageModel) -> None:
    """Refuse a model that `torch.compile` or `Module.compile` has been applied to.

    Compiled code ignores hooks that are registered later, so it would silently run without us.

    Raises:
        ModelError: a module of the model is compiled.
    """
    if any(module._compiled_call_impl is not None or hasattr(module, "_orig_mod") for module in lm.model.modules()):
        raise ModelError(
            f"{lm.name!r} is compiled, and compiled code would silently pass headwater by: use the model as it was "
            "before torch.compile, and compile after folding."
        )


@contextmanager
def whole_maps(lm: LanguageModel, take: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Hand `take(layer, map)` the attention map `[batch, H, queries, keys]` of every layer as it is computed.

    For the families outside the attention interface, which build whole maps anyway (Falcon under sdpa does not: inside
    the block it runs its eager attention). A map is let go of when `take` returns. A `StopForward` from `take` ends the
    block quietly; on leaving, the model is as before.

    Raises:
        ModelError: another thread is inside such a block on the same model, flash attention is in use, or a Falcon
            with ALiBi, whose eager attention is not the model's own (measured: transformers 5.23).
    """
    stack = decoder(lm.model)
    before = stack.config._attn_implementation
    if before not in _MASKS:
        raise ModelError(f"{lm.name!r} runs on {before!r}: load it with attn_implementation='sdpa' to read its rows.")
    if lm.anatomy.family == "falcon" and stack.config.alibi:
        raise ModelError(
            f"The rows of {lm.name!r} cannot be read: the eager attention of a Falcon with ALiBi adds the position "
            "bias twice in transformers, so its maps are not those of the model. Scaling, ablating and folding work."
        )
    refuse_compiled(lm)
    _enter(stack, lm.name)
    hooks = []
    try:
        stack.config._attn_implementation = "eager"
        for layer, module in attention_modules(lm.model).items():

            def hand(module: torch.nn.Module, args: Any, output: Any, layer: int = layer) -> None:
                take(layer, output[1])

            hooks.append(module.register_forward_hook(hand))
        yield
    except StopForward:
        pass
    finally:
        for hook in hooks:
            hook.remove()
        stack.config._attn_implementation = before
        _leave(stack)


def _nested(inner: Handler, outer: Handler) -> Handler:
    """A handler whose kernel is another handler."""

    def handle(kernel: Kernel, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        return inner(partial(outer, kernel), *args, **kwargs)

    return handle


@contextmanager
def exclusive(lm: LanguageModel) -> Iterator[None]:
    """Hold the model for this thread: hooks of one thread would change what another one computes.

    Raises:
        ModelError: another thread is inside a block of headwater on the same model.
    """
    stack = decoder(lm.model)
    _enter(stack, lm.name)
    try:
        yield
    finally:
        _leave(stack)


def _enter(stack: torch.nn.Module, name: str) -> None:
    """Note which thread is inside a block on this model; handlers of two threads would read each other's calls."""
    with _lock:
        thread, depth = _owners.get(stack, (threading.get_ident(), 0))
        if thread != threading.get_ident():
            raise ModelError(f"Another thread is reading or changing heads of {name!r}; load one model per thread.")
        _owners[stack] = (thread, depth + 1)


def _leave(stack: torch.nn.Module) -> None:
    with _lock:
        thread, depth = _owners.pop(stack)
        if depth > 1:
            _owners[stack] = (thread, depth - 1)
