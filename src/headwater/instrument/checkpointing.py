"""Activation checkpointing for a model in eval mode: less memory, the same gradients, no dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from headwater.errors import ModelError
from headwater.model.anatomy import decoder_layers, unwrapped
from headwater.model.lm import LanguageModel

_OWN = ("dropout",)  # OPT: a rate that the layer applies itself
_OF_CONFIG = ("hidden_dropout", "attention_dropout")  # Falcon: rates that the layer reads from its configuration


@contextmanager
def checkpointed(lm: LanguageModel, reentrant: bool = False) -> Iterator[None]:
    """Every decoder layer keeps its input only and runs again on the way back.

    The model stays in eval mode: dropout is off. On leaving, also on an exception, the model is as before, also one
    that was checkpointed already. transformers' own switch is not used: it leaves a hook on the embeddings every time.

    Args:
        lm: a loaded model, with or without an adapter.
        reentrant: PyTorch's older kind, where gradients vanish unless the embeddings ask for one; this makes them ask.

    Raises:
        ModelError: transformers cannot checkpoint this architecture.
    """
    model = unwrapped(lm.model)
    switches = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    if not switches or not model.supports_gradient_checkpointing:
        raise ModelError(f"transformers cannot checkpoint {lm.name!r} ({lm.anatomy.family}): leave checkpointing off.")
    layers = list(decoder_layers(model))
    with ExitStack() as undo:

        def put(owner: Any, name: str, value: Any) -> None:
            undo.callback(setattr, owner, name, getattr(owner, name, None))
            setattr(owner, name, value)

        for module in switches:
            put(module, "gradient_checkpointing", True)
            put(module, "_gradient_checkpointing_func", partial(checkpoint, use_reentrant=reentrant))
        for layer in layers:
            put(layer, "training", True)  # of the layer alone, which is what switches checkpointing on
            for owner, names in ((layer, _OWN), (getattr(layer, "config", None), _OF_CONFIG)):
                for name in names:
                    if isinstance(getattr(owner, name, None), float):
                        put(owner, name, 0.0)
        if reentrant:
            undo.enter_context(_asking(model.get_input_embeddings()))
        yield


@contextmanager
def _asking(embeddings: torch.nn.Module) -> Iterator[None]:
    """Embeddings whose output asks for a gradient."""
    handle = embeddings.register_forward_hook(lambda module, given, output: output.requires_grad_(True))
    try:
        yield
    finally:
        handle.remove()
