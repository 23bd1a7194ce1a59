"""Attention rows of chosen heads at chosen query positions, in fp32, without attention maps.

The model runs its own fast kernel; for the chosen heads only, the softmax rows of the chosen positions are computed
from the query and key tensors that the kernel was handed. Cost beside the forward: |heads| x |rows| x keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from headwater.errors import HeadSetError, InputError, NonFiniteAttentionError
from headwater.headset import Head, HeadSet, HeadsLike, as_heads
from headwater.instrument.interface import Kernel, StopForward, routed
from headwater.model.anatomy import Anatomy
from headwater.model.lm import LanguageModel

_ROW_SUM_TOLERANCE = 1e-3


def by_layer(heads: HeadSet | HeadsLike, anatomy: Anatomy) -> dict[int, list[tuple[int, int]]]:
    """Group heads by layer: `{layer: [(place in the list, head), ...]}`.

    Raises:
        HeadSetError: for an empty list, a repeated head, or one that the model does not have.
    """
    grouped: dict[int, list[tuple[int, int]]] = {}
    seen: set[Head] = set()
    for place, (layer, head) in enumerate(as_heads(heads)):
        if not (0 <= layer < anatomy.num_layers and 0 <= head < anatomy.num_heads):
            raise HeadSetError(
                f"Head {layer}-{head} is not in this model: it has layers 0 to {anatomy.num_layers - 1} "
                f"with heads 0 to {anatomy.num_heads - 1}."
            )
        if (layer, head) in seen:
            raise HeadSetError(f"Head {layer}-{head} is listed twice.")
        seen.add((layer, head))
        grouped.setdefault(layer, []).append((place, head))
    if not grouped:
        raise HeadSetError("The list of heads is empty; give at least one (layer, head).")
    return grouped


@dataclass(frozen=True)
class Logits:
    """How a layer turns products of queries and keys into attention, as told to its kernel.

    Attributes:
        scaling: factor on the products (not always 1 / sqrt(head_dim)).
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2), or None.
        sinks: one extra logit per query head `[H]` that takes mass without a key (gpt-oss), or None.
        window: a query sees this many keys, itself included (sliding layers), or None.
    """

    scaling: float
    softcap: float | None = None
    sinks: torch.Tensor | None = None
    window: int | None = None

    @classmethod
    def of(cls, kwargs: Mapping[str, Any]) -> Logits:
        """Read the keywords of an attention call."""
        return cls(
            float(kwargs["scaling"]), kwargs.get("softcap"), kwargs.get("s_aux"), kwargs.get("sliding_window") or None
        )


def row_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    heads: Sequence[int],
    visible: torch.Tensor,
    logits: Logits,
    layer: int,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Softmax rows of some query heads, one key/value head at a time (qrhead.md 3.2).

    Args:
        query: `[batch, H, rows, head_dim]`, only the rows that are wanted.
        key: `[batch, G, keys, head_dim]`, not repeated for grouped queries.
        heads: query heads of this layer.
        visible: bool `[batch or 1, 1, rows, keys]`, which keys a row may see.
        logits: scaling, soft-capping and sinks of the layer (its window is in `visible`).
        layer: named in the error.

    Yields:
        Indices into `heads`, and their rows `[batch, those heads, rows, keys]` in fp32 (fp64 for an fp64 model). A row
        that may see nothing is zero; with sinks a row sums to less than one.

    Raises:
        NonFiniteAttentionError: a row is not finite or does not sum to one; names layer and head.
    """
    group = query.shape[1] // key.shape[1]
    precise = torch.promote_types(query.dtype, torch.float32)
    by_kv: dict[int, list[int]] = {}
    for index, head in enumerate(heads):
        by_kv.setdefault(head // group, []).append(index)
    for kv, members in by_kv.items():
        own = [heads[i] for i in members]
        scores = torch.matmul(query[:, own].to(precise), key[:, kv : kv + 1].to(precise).transpose(-1, -2))
        scores = scores.mul_(logits.scaling)
        if logits.softcap is not None:
            scores = scores.div_(logits.softcap).tanh_().mul_(logits.softcap)
        scores = scores.masked_fill_(~visible, -torch.inf)
        if logits.sinks is None:
            rows = scores.softmax(-1)
        else:
            sinks = logits.sinks[own].to(precise)[None, :, None, None].expand(*scores.shape[:-1], 1)
            rows = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
        blind = ~visible.any(-1, keepdim=True)
        if blind.any():
            rows = rows.masked_fill(blind, 0.0)
        _check(rows, blind, own, layer, query.dtype, sinks=logits.sinks is not None)
        yield members, rows


def _check(
    rows: torch.Tensor, blind: torch.Tensor, heads: Sequence[int], layer: int, dtype: torch.dtype, *, sinks: bool
) -> None:
    excess = rows.sum(-1) - 1
    right = excess <= _ROW_SUM_TOLERANCE if sinks else excess.abs() <= _ROW_SUM_TOLERANCE
    wrong = ~right & ~blind.squeeze(-1)
    if wrong.any():
        head = heads[int(wrong.any(-1).any(0).nonzero()[0])]
        raise NonFiniteAttentionError(
            f"Attention of layer {layer}, head {head} is not a distribution (NaN or infinity in {dtype}); "
            "a bfloat16 model run in float16 is the usual cause: load it with dtype='bfloat16' or 'float32'.",
            layer=layer,
            head=head,
        )


def visible_keys(
    mask: torch.Tensor | None, positions: torch.Tensor, keys: int, queries: int, *, causal: bool
) -> torch.Tensor:
    """Which keys the chosen query positions may see: bool `[batch or 1, 1, positions, keys]`.

    Args:
        mask: what the model handed to its kernel: bool (True = visible), additive float, or None.
        positions: indices of query rows in this call, `[positions]`.
        keys: length of the key axis.
        queries: length of the query axis; with no mask, a single query sees everything (a decoding step) and several
            queries see the keys up to their own index, as the stock kernel does.
        causal: whether the layer is causal at all.
    """
    if mask is not None:
        chosen = mask[:, :1, positions, :keys]
        return chosen if chosen.dtype == torch.bool else chosen > torch.finfo(chosen.dtype).min / 2
    index = torch.arange(keys, device=positions.device)
    if queries == 1 or not causal:
        return torch.ones(1, 1, len(positions), keys, dtype=torch.bool, device=positions.device)
    return (index[None, :] <= positions[:, None])[None, None]


class Captured:
    """What `capture` read; `rows` is there after the forward.

    It is the handler of the forward as well (`headwater.instrument.interface.Handler`).
    """

    def __init__(self, anatomy: Anatomy, heads: HeadSet | HeadsLike, rows: Iterable[int], stop_early: bool) -> None:
        """Check heads and positions before any forward runs."""
        self.heads = as_heads(heads)
        self.positions = [int(row) for row in rows]
        if not self.positions:
            raise InputError("The list of rows is empty; give at least one query position, for example rows=[-1].")
        self._layers = by_layer(self.heads, anatomy)
        self._last = max(self._layers)
        self._stop_early = stop_early
        self._parts: list[torch.Tensor | None] = [None] * len(self.heads)

    @property
    def rows(self) -> torch.Tensor:
        """Rows of the latest forward: float32 `[batch, len(heads), len(rows), keys]` (float64 for an fp64 model).

        Raises:
            InputError: no forward ran inside the block.
        """
        parts = [part for part in self._parts if part is not None]
        if len(parts) != len(self.heads):
            raise InputError("No attention was captured: call lm.model(**inputs) inside the `with capture(...)` block.")
        return torch.stack(parts, dim=1)

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
        """Read this layer's rows, then run the model's own kernel (or stop)."""
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        if layer in self._layers:
            self._read(layer, module, query, key, mask, Logits.of(kwargs))
        if self._stop_early and layer == self._last:
            raise StopForward
        return kernel(module, query, key, value, mask, **kwargs)

    @torch.no_grad()
    def _read(
        self,
        layer: int,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        mask: torch.Tensor | None,
        logits: Logits,
    ) -> None:
        queries, keys = query.shape[2], key.shape[2]
        bad = [row for row in self.positions if not -queries <= row < queries]
        if bad:
            raise InputError(f"Row {bad[0]} is outside the {queries} query positions of this forward.")
        positions = torch.tensor([row % queries for row in self.positions], device=query.device)
        causal = bool(getattr(module, "is_causal", True))
        visible = visible_keys(mask, positions, keys, queries, causal=causal)
        places, heads = zip(*self._layers[layer], strict=True)
        for members, rows in row_blocks(query[:, :, positions], key, heads, visible, logits, layer):
            for offset, member in enumerate(members):
                self._parts[places[member]] = rows[:, offset]


@contextmanager
def capture(
    lm: LanguageModel, heads: HeadSet | HeadsLike, rows: Iterable[int], stop_early: bool = True
) -> Iterator[Captured]:
    """Read attention rows of `heads` at query positions `rows` while the model runs.

    Example:
        >>> with capture(lm, heads=[(4, 1)], rows=[-1]) as attention:
        ...     lm.model(**inputs)
        >>> attention.rows  # float32 [batch, 1, 1, keys]

    Args:
        lm: a loaded model.
        heads: a `HeadSet` or (layer, head) pairs, 0-based; the order is the order of the result.
        rows: query positions of the forward; negative ones count from its end.
        stop_early: leave the forward after the last layer that holds a chosen head. The block ends there: statements
            after the call are not reached. False runs the whole model and returns its output.

    Yields:
        `Captured`, whose `rows` holds the result once the forward ran.

    Raises:
        HeadSetError: an empty list, a repeated head, a head the model does not have.
        InputError: a row outside the sequence, or `rows` read before a forward.
        NonFiniteAttentionError: NaN or infinity in a row; names layer and head.
        ModelError: an attention implementation that headwater does not stand in for.
    """
    captured = Captured(lm.anatomy, heads, rows, stop_early)
    with routed(lm, captured):
        yield captured
