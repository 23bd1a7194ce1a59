"""Documents prefilled once, any number of short tails run over them.

The keys and values of the prefix are kept as our own per-layer tensors, taken inside the attention function, so no
private field of any cache class is touched. A tail runs without a cache at explicit positions; our attention function
puts the kept keys and values in front of the tail's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from headwater.errors import ContextOverflowError, InputError, ModelError
from headwater.headset import HeadSet, HeadsLike
from headwater.instrument.interface import Kernel, StopForward, routed
from headwater.instrument.rows import Logits, by_layer, row_blocks
from headwater.model.anatomy import decoder, unwrapped
from headwater.model.lm import LanguageModel

_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


class SharedPrefix:
    """Keys and values of a prefix, for the layers that hold the heads that will be read.

    Args:
        lm: a loaded model.
        ids: token ids of the prefix.
        heads: (layer, head) pairs that `attention` will read, in the order of its result; the prefill stops at the
            deepest of their layers.

    Raises:
        HeadSetError: an empty list, a repeated head, a head the model does not have.
        ContextOverflowError: the prefix alone is longer than the model can read.
    """

    def __init__(self, lm: LanguageModel, ids: Sequence[int], heads: HeadSet | HeadsLike) -> None:
        """Prefill the prefix."""
        if not ids:
            raise InputError("The prefix is empty; it holds at least the begin token and one document.")
        self._lm = lm
        self._layers = by_layer(heads, lm.anatomy)
        self._last = max(self._layers)
        self._num_heads = sum(map(len, self._layers.values()))
        self.length = len(ids)
        self._check_length(0)
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._windows: dict[int, int | None] = {}
        self._run(ids, 0, self._keep)

    def attention(self, tail: Sequence[int]) -> torch.Tensor:
        """Mean attention of a tail's tokens to every prefix token, per head.

        Args:
            tail: token ids that follow the prefix.

        Returns:
            float32 `[heads, prefix tokens]` (float64 for an fp64 model): mean over the tail tokens of the softmax row
            (qrhead.md 3.2). The rest of each row's mass, up to one, is on the tail itself.

        Raises:
            ContextOverflowError: prefix and tail together are longer than the model can read.
            NonFiniteAttentionError: NaN or infinity in a row; names layer and head.
        """
        if not tail:
            raise InputError("The tail is empty; it holds at least the query.")
        self._check_length(len(tail))
        reader = _TailReader(self, len(tail))
        self._run(tail, self.length, reader)
        return reader.result()

    def local(self, tail: Sequence[int]) -> list[int]:
        """Places of the heads whose sliding window is shorter than prefix and tail together.

        Such a head cannot see the whole prefix from every token of the tail: what lies beyond gets no mass.
        """
        total = self.length + len(tail)
        windows = {layer: window for layer, window in self._windows.items() if window is not None and window < total}
        return sorted(place for layer in windows for place, _ in self._layers.get(layer, ()))

    def _check_length(self, tail: int) -> None:
        total, limit = self.length + tail, self._lm.max_length
        if total > limit:
            raise ContextOverflowError(
                f"The prompt has {total:,} tokens, {self._lm.name!r} reads {limit:,}: give fewer or shorter documents.",
                tokens=total,
                limit=limit,
            )
        rope = getattr(unwrapped(self._lm.model).config, "rope_parameters", None) or {}
        if rope.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
            original = int(rope.get("original_max_position_embeddings") or limit)
            if tail and self.length <= original < total:
                raise ModelError(
                    f"The rotary embedding of {self._lm.name!r} changes beyond {original:,} tokens, so a prefix of "
                    f"{self.length:,} tokens cannot be shared by a prompt of {total:,}: give fewer documents."
                )

    @torch.no_grad()
    def _run(self, ids: Sequence[int], start: int, handler: Any) -> None:
        device = self._lm.device
        tokens = torch.tensor([list(ids)], device=device)
        positions = torch.arange(start, start + len(ids), device=device)[None]
        with routed(self._lm, handler):
            decoder(self._lm.model)(input_ids=tokens, position_ids=positions, use_cache=False)

    def _keep(
        self,
        kernel: Kernel,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        self._kept[layer] = (key, value)
        self._windows[layer] = Logits.of(kwargs).window
        if layer == self._last:
            raise StopForward
        return kernel(module, query, key, value, mask, **kwargs)


class _TailReader:
    """Handler of one tail: puts the prefix in front, reads the rows of the wanted heads, stops at the last of them."""

    def __init__(self, prefix: SharedPrefix, tail: int) -> None:
        self._prefix = prefix
        place = torch.arange(prefix.length + tail, device=prefix._lm.device)
        self._distance = place[prefix.length :, None] - place[None, :]
        self._means: list[torch.Tensor | None] = [None] * prefix._num_heads

    def result(self) -> torch.Tensor:
        return torch.stack([mean for mean in self._means if mean is not None])

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
        prefix = self._prefix
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        kept_key, kept_value = prefix._kept[layer]
        key = torch.cat([kept_key, key], dim=2)
        members = prefix._layers.get(layer)
        logits = Logits.of(kwargs)
        visible = self._visible(logits.window)
        if members:
            places, heads = zip(*members, strict=True)
            for indices, rows in row_blocks(query, key, heads, visible, logits, layer):
                means = rows[0, :, :, : prefix.length].mean(1)
                for offset, index in enumerate(indices):
                    self._means[places[index]] = means[offset]
        if layer == prefix._last:
            raise StopForward
        value = torch.cat([kept_value, value], dim=2)
        return kernel(module, query, key, value, _like(mask, visible, query), **kwargs)

    def _visible(self, window: int | None) -> torch.Tensor:
        """What the tail may see of prefix and tail: bool `[1, 1, tail, prefix + tail]`."""
        seen = self._distance >= 0
        return (seen if window is None else seen & (self._distance < window))[None, None]


def _like(stock: torch.Tensor | None, visible: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Visibility in the form of the stock mask: additive for eager, bool for sdpa."""
    if stock is None or stock.dtype == torch.bool:
        return visible
    return torch.zeros_like(visible, dtype=query.dtype).masked_fill_(~visible, torch.finfo(query.dtype).min)
