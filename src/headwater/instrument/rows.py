"""Attention rows of chosen heads at chosen query positions, in fp32, without attention maps.

The model runs its own fast kernel; for the chosen heads only, the softmax rows of the chosen positions are computed
from the query and key tensors that the kernel was handed. Cost beside the forward: |heads| x |rows| x keys.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from headwater.errors import HeadSetError, InputError
from headwater.headset import Head, HeadSet, HeadsLike, as_heads
from headwater.instrument.interface import Kernel, StopForward, routed, whole_maps
from headwater.instrument.softmax import Logits, check_rows, row_blocks, visible_keys
from headwater.model.anatomy import FAMILIES, Anatomy
from headwater.model.lm import LanguageModel

logger = logging.getLogger("headwater")


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
        if layer in anatomy.headless:
            raise HeadSetError(f"Head {layer}-{head} is not in this model: layer {layer} has no attention heads.")
        if (layer, head) in seen:
            raise HeadSetError(f"Head {layer}-{head} is listed twice.")
        seen.add((layer, head))
        grouped.setdefault(layer, []).append((place, head))
    if not grouped:
        raise HeadSetError("The list of heads is empty; give at least one (layer, head).")
    return grouped


def wanted_rows(positions: Sequence[int], queries: int) -> list[int]:
    """Query positions of a forward, counted from its first one.

    Raises:
        InputError: one that the forward does not have.
    """
    bad = [row for row in positions if not -queries <= row < queries]
    if bad:
        raise InputError(f"Row {bad[0]} is outside the {queries} query positions of this forward.")
    return [row % queries for row in positions]


def check_origin(heads: HeadSet, lm: LanguageModel) -> bool:
    """Whether a head set was made for these weights, as far as it says; a warning where it was not.

    Raises:
        HeadSetError: it was made for a model of another shape, or names a head that the model does not have.
    """
    here = lm.anatomy
    shape, own = heads.provenance.get("shape"), [here.num_layers, here.num_heads, here.num_kv_heads]
    if shape is not None and list(shape) != own:
        raise HeadSetError(
            f"This head set was made for a model of {shape[0]} layers x {shape[1]} heads ({shape[2]} key/value heads); "
            f"{lm.name!r} has {own[0]} x {own[1]} ({own[2]})."
        )
    by_layer(heads, here)
    made_for = heads.provenance.get("fingerprint")
    if made_for is None or made_for == lm.fingerprint:
        return True
    logger.warning(
        "This head set was made for other weights (%s) than those of %s.", heads.provenance.get("model"), lm.name
    )
    return False


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
        parts = [part.to(self._parts[0].device) for part in self._parts if part is not None]  # type: ignore[union-attr]
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
    def take(self, layer: int, maps: torch.Tensor) -> None:
        """Read this layer's rows out of its whole attention map `[batch, H, queries, keys]`."""
        if layer in self._layers:
            positions = wanted_rows(self.positions, maps.shape[2])
            places, heads = zip(*self._layers[layer], strict=True)
            rows = maps[:, heads][:, :, positions]
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
            check_rows(rows.sum(-1), torch.zeros((), dtype=torch.bool, device=maps.device), heads, layer, maps.dtype)
            for offset, place in enumerate(places):
                self._parts[place] = rows[:, offset]
        if self._stop_early and layer == self._last:
            raise StopForward

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
        positions = torch.tensor(wanted_rows(self.positions, queries), device=query.device)
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

    BLOOM, MPT and Falcon compute attention on their own: their rows are taken from the whole maps they build (slow, and
    in the model's dtype rather than fp32).
    """
    captured = Captured(lm.anatomy, heads, rows, stop_early)
    within = routed(lm, captured) if FAMILIES[lm.anatomy.family].interface else whole_maps(lm, captured.take)
    with within:
        yield captured
