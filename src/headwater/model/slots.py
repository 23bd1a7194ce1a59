"""Tokens added to a model and taken off again: the slots of an embedding prompt (llara.md 3.1)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from headwater.model.anatomy import text_config, unwrapped

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

_NOISE = 0.1  # of the spread of the other rows


def add_tokens(lm: LanguageModel, names: Sequence[str], seed: int = 0) -> LanguageModel:
    """The model with a tokenizer of its own that knows these special tokens, and rows for them.

    Rows are added only where the embeddings have fewer than the tokenizer has tokens: each is the mean row with seeded
    noise. `lm.model` is changed, `lm.tokenizer` is not.

    Args:
        lm: a loaded model without an adapter.
        names: the tokens; those that the tokenizer knows are left as they are.
        seed: of the noise.
    """
    known = lm.tokenizer.get_vocab()
    new = [name for name in names if name not in known]
    if not new:
        return lm
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.add_tokens(new, special_tokens=True)
    _grow(lm.model, len(tokenizer), seed)
    return replace(lm, tokenizer=tokenizer)


@contextmanager
def added_tokens(lm: LanguageModel, names: Sequence[str], seed: int = 0) -> Iterator[LanguageModel]:
    """As `add_tokens`; on leaving, also on an exception, `lm.model` is as before."""
    ends = _ends(lm.model)
    kept = [(module, module.weight, getattr(module, "bias", None)) for module in ends]
    sizes = [(config, config.vocab_size) for config in _sized(lm.model)]
    try:
        yield add_tokens(lm, names, seed)
    finally:
        for module, weight, bias in kept:
            _put(module, weight, bias)
        for config, size in sizes:
            config.vocab_size = size


def _ends(model: Any) -> list[Any]:
    """The modules that hold a row per token."""
    found = unwrapped(model)
    return [module for module in (found.get_input_embeddings(), found.get_output_embeddings()) if module is not None]


def _sized(model: Any) -> list[Any]:
    """The configurations that say how many tokens there are."""
    return [each for each in (unwrapped(model).config, text_config(model)) if hasattr(each, "vocab_size")]


@torch.no_grad()
def _grow(model: Any, rows: int, seed: int) -> None:
    """Add rows to the embeddings, tied ones together; never take any away."""
    grown: dict[int, torch.nn.Parameter] = {}
    for module in _ends(model):
        weight, bias = module.weight, getattr(module, "bias", None)
        if len(weight) >= rows:
            continue
        if id(weight) not in grown:
            grown[id(weight)] = _longer(weight, rows, seed)
        _put(module, grown[id(weight)], None if bias is None else _longer(bias, rows, seed))
        for config in _sized(model):
            config.vocab_size = rows


def _longer(old: torch.nn.Parameter, rows: int, seed: int) -> torch.nn.Parameter:
    """A parameter with more rows: their mean, and a little noise."""
    noise = torch.randn(rows - len(old), *old.shape[1:], generator=torch.Generator().manual_seed(seed))
    wide = old.detach().float()
    new = wide.mean(0) + _NOISE * wide.std(0) * noise.to(wide.device)
    return torch.nn.Parameter(torch.cat([old.detach(), new.to(old.dtype)]), requires_grad=old.requires_grad)


def _put(module: Any, weight: torch.nn.Parameter, bias: torch.nn.Parameter | None) -> None:
    """Give a module other rows."""
    module.weight = weight
    if bias is not None:
        module.bias = bias
    for name in ("num_embeddings", "out_features"):
        if hasattr(module, name):
            setattr(module, name, len(weight))
