"""Where every head looks most while the model writes: the strongest key of the last row of each forward.

For retrieval heads (arXiv 2404.15574; retrieval_heads.md 3.2 and 6). The model runs its own fast kernel; beside it, per
head and forward, one key and its weight are kept, so that neither maps nor rows are ever held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from headwater.errors import InputError
from headwater.headset import HeadSet, HeadsLike, as_heads
from headwater.instrument.interface import Kernel, routed, whole_maps
from headwater.instrument.rows import by_layer, wanted_rows
from headwater.instrument.softmax import Logits, check_rows, strongest_keys, visible_keys
from headwater.model.anatomy import FAMILIES, Anatomy
from headwater.model.lm import LanguageModel

_Read = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Strongest:
    """What `strongest` read; it is the handler of the forwards as well.

    All three results are `[forwards, batch, heads, rows]`, in the order of `heads`.
    """

    def __init__(self, anatomy: Anatomy, heads: HeadSet | HeadsLike, rows: Iterable[int]) -> None:
        """Check heads and rows before any forward runs."""
        self.heads = as_heads(heads)
        self.positions = [int(row) for row in rows]
        if not self.positions:
            raise InputError("The list of rows is empty; give at least one query position, for example rows=[-1].")
        self._layers = by_layer(self.heads, anatomy)
        self._found: dict[int, list[_Read]] = {layer: [] for layer in self._layers}
        self._tokens: dict[int, int] = {}  # of the sequence so far, per layer

    @property
    def index(self) -> torch.Tensor:
        """The key with the largest weight, counted from the first token of the sequence (int64); ties: the lowest.

        Raises:
            InputError: no forward ran inside the block.
        """
        return self._collected(0)

    @property
    def weight(self) -> torch.Tensor:
        """The weight of that key, fp32 (fp64 for an fp64 model)."""
        return self._collected(1)

    @property
    def first(self) -> torch.Tensor:
        """The first key that the row may see: above 0 behind a sliding window (or padding)."""
        return self._collected(2)

    def _collected(self, which: int) -> torch.Tensor:
        if not all(self._found.values()):
            raise InputError("No attention was read: call lm.model(**inputs) inside the `with strongest(...)` block.")
        parts: list[torch.Tensor] = [torch.empty(0)] * len(self.heads)
        for layer, members in self._layers.items():
            steps = torch.stack([read[which] for read in self._found[layer]])
            for offset, (place, _) in enumerate(members):
                parts[place] = steps[:, :, offset]
        return torch.stack([part.to(parts[0].device) for part in parts], 2)

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
        """Read this layer, then run the model's own kernel."""
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        if layer in self._layers:
            causal = bool(getattr(module, "is_causal", True))
            self._read(layer, query, key, mask, Logits.of(kwargs), causal=causal)
        return kernel(module, query, key, value, mask, **kwargs)

    @torch.no_grad()
    def _read(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        mask: torch.Tensor | None,
        logits: Logits,
        *,
        causal: bool,
    ) -> None:
        queries = query.shape[2]
        rows = torch.tensor(wanted_rows(self.positions, queries), device=query.device)
        visible = visible_keys(mask, rows, key.shape[2], queries, causal=causal)
        heads = [head for _, head in self._layers[layer]]
        index = torch.empty(len(query), len(heads), len(rows), dtype=torch.long, device=query.device)
        weight = torch.empty_like(index, dtype=torch.promote_types(query.dtype, torch.float32))
        for members, place, share in strongest_keys(query[:, :, rows], key, heads, visible, logits, layer):
            index[:, members], weight[:, members] = place, share
        self._keep(layer, index, weight, visible, queries)

    @torch.no_grad()
    def take(self, layer: int, maps: torch.Tensor) -> None:
        """Read this layer out of its whole attention map `[batch, H, queries, keys]`."""
        if layer in self._layers:
            heads = [head for _, head in self._layers[layer]]
            rows = maps[:, heads][:, :, wanted_rows(self.positions, maps.shape[2])]
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
            check_rows(rows.sum(-1), torch.zeros((), dtype=torch.bool, device=maps.device), heads, layer, maps.dtype)
            weight, index = rows.max(-1)
            visible = torch.ones(1, 1, rows.shape[2], rows.shape[3], dtype=torch.bool, device=maps.device)
            self._keep(layer, index, weight, visible, maps.shape[2])

    def _keep(self, layer: int, index: torch.Tensor, weight: torch.Tensor, visible: torch.Tensor, queries: int) -> None:
        """Note what one forward gave, with keys counted from the start of the sequence.

        The cache of a sliding layer keeps the last keys only, so that the first one it hands over is not token 0.
        """
        keys = visible.shape[-1]
        before = self._tokens.get(layer, keys - queries)
        tokens = queries if keys == queries else before + queries
        self._tokens[layer] = tokens
        cut = max(0, tokens - keys)
        first = torch.where(visible.any(-1), visible.int().argmax(-1), keys).expand(index.shape)
        self._found[layer].append((torch.where(index < 0, index, index + cut), weight, first + cut))


@contextmanager
def strongest(
    lm: LanguageModel, heads: HeadSet | HeadsLike | None = None, rows: Iterable[int] = (-1,)
) -> Iterator[Strongest]:
    """Note, for every forward inside the block, which key each head attends to most.

    A forward whose keys are its own queries begins a sequence; others go on with it, so inside a block a generation
    has to be followed from its prompt on.

    Example:
        >>> with strongest(lm) as found:
        ...     lm.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        >>> found.index  # [8, 1, heads, 1]: the last prompt token and each new token but the last

    Args:
        lm: a loaded model.
        heads: a `HeadSet` or (layer, head) pairs, 0-based (None: every head).
        rows: query positions of each forward; negative ones count from its end.

    Yields:
        `Strongest`, whose `index`, `weight` and `first` hold the results.

    Raises:
        HeadSetError: an empty list, a repeated head, a head the model does not have.
        InputError: a row outside a forward, or results read before a forward.
        NonFiniteAttentionError: NaN or infinity in a row; names layer and head.
        ModelError: an attention implementation that headwater does not stand in for.
    """
    found = Strongest(lm.anatomy, lm.anatomy.all_heads if heads is None else heads, rows)
    with routed(lm, found) if FAMILIES[lm.anatomy.family].interface else whole_maps(lm, found.take):
        yield found
