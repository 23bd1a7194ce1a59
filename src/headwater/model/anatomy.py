"""Where things are inside a model, per architecture family.

One table. A family that is not in it is refused with the name of what is missing, never guessed at.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from headwater.errors import ModelError

logger = logging.getLogger("headwater")


@dataclass(frozen=True)
class Family:
    """Attribute paths of one architecture.

    Attributes:
        layers: the list of decoder layers, inside the decoder.
        attention: the attention module inside a layer; a hybrid's other layers have none.
        output: the output projection inside the attention module.
        interface: whether attention runs through transformers' attention interface, where its rows can be read while
            the model keeps its fast kernel. Other families compute whole attention maps, of which rows are taken.
        hybrid: what the layers without attention heads are, where a family has such.
        query_key: the query and the key projection inside the attention module, or the one that holds both.
        fused: how query, key and value lie in one projection: "stacked" (all queries, all keys, all values) or
            "interleaved" (query, key and value of one head after the other); None where they have their own.
        feed_forward: the linear maps of the feed-forward part, inside a layer. What the first one gives is what the
            activation function gets (of a `gate_up_proj` the first half). Empty where the layers hold expert stacks.
    """

    layers: str
    attention: str
    output: str
    interface: bool = True
    hybrid: str | None = None
    query_key: tuple[str, ...] = ("q_proj", "k_proj")
    fused: str | None = None
    feed_forward: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


_LLAMA_LIKE = Family(layers="layers", attention="self_attn", output="o_proj")
_WIDE = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
FAMILIES = {
    "bloom": Family("h", "self_attention", "dense", interface=False, feed_forward=_WIDE),
    "cohere": _LLAMA_LIKE,
    "cohere2": _LLAMA_LIKE,
    "falcon": Family("h", "self_attention", "dense", interface=False, feed_forward=_WIDE),
    "gemma2": _LLAMA_LIKE,
    "gemma3_text": _LLAMA_LIKE,
    "gpt2": Family(
        "h", "attn", "c_proj", query_key=("c_attn",), fused="stacked", feed_forward=("mlp.c_fc", "mlp.c_proj")
    ),
    "gpt_neox": Family(
        "layers", "attention", "dense", query_key=("query_key_value",), fused="interleaved", feed_forward=_WIDE
    ),
    "gpt_oss": replace(_LLAMA_LIKE, feed_forward=()),
    "granite": _LLAMA_LIKE,
    "jamba": replace(
        _LLAMA_LIKE,
        hybrid="Mamba",
        feed_forward=("feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"),
    ),
    "lfm2": Family(
        "layers",
        "self_attn",
        "out_proj",
        hybrid="convolution",
        feed_forward=("feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),
    ),
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "mixtral": replace(_LLAMA_LIKE, feed_forward=()),
    "mpt": Family("blocks", "attn", "out_proj", interface=False, feed_forward=("ffn.up_proj", "ffn.down_proj")),
    "olmo2": _LLAMA_LIKE,
    "opt": Family("layers", "self_attn", "out_proj", feed_forward=("fc1", "fc2")),
    "phi": Family("layers", "self_attn", "dense", feed_forward=("mlp.fc1", "mlp.fc2")),
    "phi3": replace(
        _LLAMA_LIKE, query_key=("qkv_proj",), fused="stacked", feed_forward=("mlp.gate_up_proj", "mlp.down_proj")
    ),
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "smollm3": _LLAMA_LIKE,
    "starcoder2": replace(_LLAMA_LIKE, feed_forward=("mlp.c_fc", "mlp.c_proj")),
}


@dataclass(frozen=True)
class Anatomy:
    """The shape of a model's attention.

    Attributes:
        family: architecture family, transformers' `model_type` (of the text part of a composite model).
        num_layers: decoder layers, L.
        num_heads: query heads per layer, H.
        num_kv_heads: key/value heads per layer, G; query head h reads key/value head h // (H / G).
        head_dim: size of one head's query and key.
        max_length: positions the model was configured for.
        headless: layers without attention heads (hybrid models); no head is ever read, scored or listed there.
    """

    family: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_length: int
    headless: tuple[int, ...] = ()

    @property
    def all_heads(self) -> list[tuple[int, int]]:
        """Every (layer, head), in order."""
        layers = [layer for layer in range(self.num_layers) if layer not in self.headless]
        return [(layer, head) for layer in layers for head in range(self.num_heads)]

    def grid(self, values: Sequence[float]) -> np.ndarray:
        """One value per head of `all_heads` as float64 `[layers, heads]`; NaN in layers without heads."""
        out = np.full((self.num_layers, self.num_heads), np.nan)
        for head, value in zip(self.all_heads, values, strict=True):
            out[head] = value
        return out


def unwrapped(model: Any) -> Any:
    """The transformers model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(model: Any) -> Any:
    """Configuration of the decoder: the model's own, or that of a composite (vision-language) model's text part."""
    return unwrapped(model).config.get_text_config(decoder=True)


def decoder(model: Any) -> Any:
    """The module that runs the decoder layers, without the language-model head; adapters on it stay active."""
    return unwrapped(model).get_decoder()


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The decoder layers, in order."""
    layers: torch.nn.ModuleList = getattr(decoder(model), FAMILIES[text_config(model).model_type].layers)
    return layers


def attention_modules(model: Any) -> dict[int, torch.nn.Module]:
    """The attention module of every layer that has one, by layer."""
    name = FAMILIES[text_config(model).model_type].attention
    found = {index: getattr(layer, name, None) for index, layer in enumerate(decoder_layers(model))}
    return {index: module for index, module in found.items() if module is not None}


def output_projections(model: Any) -> dict[int, torch.nn.Module]:
    """The attention output projection of every layer that has one; its input is the heads' outputs side by side."""
    parts = FAMILIES[text_config(model).model_type]
    return {index: getattr(module, parts.output) for index, module in attention_modules(model).items()}


def query_key_projections(model: Any, last_layer: int) -> dict[str, torch.nn.Module]:
    """The modules that make queries and keys in layers 0 to `last_layer`, by their name inside the model.

    Raises:
        ModelError: the family computes attention outside transformers' interface.
    """
    parts = FAMILIES[text_config(model).model_type]
    if not parts.interface:
        raise ModelError(f"The query and key projections of {text_config(model).model_type} models are not known.")
    wanted = {
        id(getattr(module, name))
        for layer, module in attention_modules(model).items()
        if layer <= last_layer
        for name in parts.query_key
    }
    return {name: module for name, module in unwrapped(model).named_modules() if id(module) in wanted}


def fused_rows(anatomy: Anatomy, projection: str, width: int) -> dict[str, list[int]]:
    """Which outputs of a projection that holds several are whose: "query", "key", "value", or "gate", "up".

    Args:
        anatomy: of the model.
        projection: the last part of the module's name.
        width: its outputs.

    Returns:
        Indices by name; empty where the projection holds one thing.
    """
    size, heads, groups = anatomy.head_dim, anatomy.num_heads, anatomy.num_kv_heads
    parts = FAMILIES[anatomy.family]
    if projection == "gate_up_proj":
        return {"gate": list(range(width // 2)), "up": list(range(width // 2, width))}
    if parts.fused is None or projection not in parts.query_key:
        return {}
    names = ("query", "key", "value")
    if parts.fused == "interleaved":
        return {
            name: [row for head in range(heads) for row in range((3 * head + i) * size, (3 * head + i + 1) * size)]
            for i, name in enumerate(names)
        }
    ends = [0, heads * size, (heads + groups) * size, (heads + 2 * groups) * size]
    return {name: list(range(ends[i], ends[i + 1])) for i, name in enumerate(names)}


def value_rows(anatomy: Anatomy) -> list[int]:
    """Which outputs of a projection that holds query, key and value are values; empty where they have their own."""
    parts = FAMILIES[anatomy.family]
    return [] if parts.fused is None else fused_rows(anatomy, parts.query_key[0], 0)["value"]


def read_anatomy(model: Any) -> Anatomy:
    """Read the anatomy of a loaded causal language model.

    Raises:
        ModelError: the family is unknown, or a part that the table promises is not there.
    """
    config = text_config(model) if hasattr(unwrapped(model).config, "get_text_config") else unwrapped(model).config
    family = str(getattr(config, "model_type", None))
    if family not in FAMILIES:
        raise ModelError(
            f"The model family {family!r} is not supported: its attention layers are not in headwater's anatomy table "
            f"(known: {', '.join(sorted(FAMILIES))})."
        )
    parts = FAMILIES[family]
    try:
        layers = decoder_layers(model)
    except AttributeError as error:
        raise ModelError(f"This {family} model has no decoder layers at {parts.layers!r}.") from error
    headless = []
    for index, layer in enumerate(layers):
        attention = getattr(layer, parts.attention, None)
        if attention is None and parts.hybrid is not None:
            headless.append(index)
        elif attention is None or getattr(attention, parts.output, None) is None:
            missing = parts.attention if attention is None else f"{parts.attention}.{parts.output}"
            raise ModelError(f"Layer {index} of this {family} model has no {missing!r}.")
    if len(headless) == len(layers):
        raise ModelError(f"No layer of this {family} model has attention heads.")
    if headless:
        logger.info("Layers %s are %s layers: no attention heads there.", headless, parts.hybrid)
    if getattr(config, "slow_but_exact", False) and config.pretraining_tp > 1:
        raise ModelError(
            "This BLOOM checkpoint runs slow_but_exact, which bypasses the output projection; turn it off."
        )
    heads = int(config.num_attention_heads)
    return Anatomy(
        family=family,
        num_layers=len(layers),
        num_heads=heads,
        num_kv_heads=_kv_heads(config, heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        max_length=_max_length(config),
        headless=tuple(headless),
    )


def _kv_heads(config: Any, heads: int) -> int:
    """Key/value heads; the older families say it in their own words."""
    if config.model_type in ("bloom", "mpt"):
        return heads
    if config.model_type == "falcon":
        return config.num_kv_heads if config.new_decoder_architecture else 1 if config.multi_query else heads
    return int(getattr(config, "num_key_value_heads", None) or heads)


def _max_length(config: Any) -> int:
    """Positions the model was configured for; a BLOOM configuration need not say it and was trained on 2,048."""
    names = ("max_position_embeddings", "max_seq_len", "seq_length")
    return int(next((getattr(config, name) for name in names if getattr(config, name, None)), 2048))
