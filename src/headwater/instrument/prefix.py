"""Documents prefilled once, any number of short tails run over them, one by one or packed into one pass.

The keys and values of the prefix are kept as our own per-layer tensors, taken inside the attention function, so no
private field of any cache class is touched. Tails run without a cache at explicit positions, each starting where the
prefix ends; our attention function puts the kept keys and values in front of the tails' own, and a tail token sees the
prefix and its own tail (qrhead.md 6.2, 6.3).

Where a prefix cannot be shared (attention outside the interface, layers with a state instead of attention, rotary
embeddings that change with the length), every tail is run together with the whole prefix: the same numbers, slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from headwater.errors import ContextOverflowError, InputError
from headwater.headset import Head, HeadSet, HeadsLike, as_heads
from headwater.instrument.interface import Kernel, StopForward, routed
from headwater.instrument.rows import by_layer, capture
from headwater.instrument.softmax import Logits, mean_rows
from headwater.model.anatomy import FAMILIES, decoder, text_config
from headwater.model.lm import LanguageModel

_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}
Span = tuple[int, int]
PACKED_TOKENS = 512  # tail tokens of one pass: keeps their masks and logits small beside the prefix
PACKED_VALUES = 2**24  # results of one pass: tails x heads x prefix tokens


class SharedPrefix:
    """Keys and values of a prefix, for the layers that hold the heads that will be read.

    Args:
        lm: a loaded model.
        ids: token ids of the prefix.
        heads: (layer, head) pairs that will be read, in the order of the results; the prefill stops at the deepest of
            their layers.

    Raises:
        HeadSetError: an empty list, a repeated head, a head the model does not have.
        ContextOverflowError: the prefix alone is longer than the model can read.
    """

    _gradients: Any = torch.no_grad
    _means = staticmethod(mean_rows)

    def __init__(self, lm: LanguageModel, ids: Sequence[int], heads: HeadSet | HeadsLike) -> None:
        """Prefill the prefix."""
        if not ids:
            raise InputError("The prefix is empty; it holds at least the begin token and one document.")
        self._lm, self._ids = lm, list(ids)
        self._heads: list[Head] = as_heads(heads)
        self._layers = by_layer(self._heads, lm.anatomy)
        self._last = max(self._layers)
        self.length = len(ids)
        self._check_length(0)
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._windows: dict[int, int | None] = {}
        self._shared = FAMILIES[lm.anatomy.family].interface and not lm.anatomy.headless
        if self._shared:
            self._run(self._ids, torch.arange(self.length), self._keep)

    def attention(self, tail: Sequence[int], counted: Span | None = None) -> torch.Tensor:
        """Mean attention of a tail's tokens to every prefix token, per head.

        Args:
            tail: token ids that follow the prefix.
            counted: half-open span of the tail's tokens that the mean is over (None: all of them).

        Returns:
            float32 `[heads, prefix tokens]` (float64 for an fp64 model): mean over the counted tail tokens of the
            softmax row (qrhead.md 3.2). The rest of each row's mass, up to one, is on the tail itself.

        Raises:
            InputError: an empty tail, or a span that holds none of its tokens or others.
            ContextOverflowError: prefix and tail together are longer than the model can read.
            NonFiniteAttentionError: NaN or infinity in a row; names layer and head.
        """
        return next(self.attentions([tail], None if counted is None else [counted]))

    def attentions(
        self, tails: Sequence[Sequence[int]], counted: Sequence[Span] | None = None
    ) -> Iterator[torch.Tensor]:
        """`attention` of each of several tails, several to a pass; `counted`: a span for each of them.

        A tail does not see the others: the results are those of separate runs. A pass holds at most `PACKED_TOKENS`
        tokens and gives at most `PACKED_VALUES` numbers (but one tail at least).
        """
        if not all(tails):
            raise InputError("The tail is empty; it holds at least the query.")
        spans = [(0, len(tail)) for tail in tails] if counted is None else list(counted)
        for tail, (start, stop) in zip(tails, spans, strict=True):
            self._check_length(len(tail))
            if not 0 <= start < stop <= len(tail):
                raise InputError(f"The span {start} to {stop} holds no tokens of a tail of {len(tail)}.")
        most = max(1, PACKED_VALUES // (len(self._heads) * self.length))
        pack: list[tuple[Sequence[int], Span]] = []
        for tail, span in zip(tails, spans, strict=True):
            if pack and (len(pack) == most or sum(len(other) for other, _ in pack) + len(tail) > PACKED_TOKENS):
                yield from self._packed(pack)
                pack = []
            pack.append((tail, span))
        if pack:
            yield from self._packed(pack)

    def local(self, tail: Sequence[int]) -> list[int]:
        """Places of the heads whose sliding window is shorter than prefix and tail together.

        Such a head cannot see the whole prefix from every token of the tail: what lies beyond gets no mass.
        """
        total = self.length + len(tail)
        windows = {layer: window for layer, window in self._windows.items() if window is not None and window < total}
        return sorted(place for layer in windows for place, _ in self._layers.get(layer, ()))

    def _packed(self, pack: Sequence[tuple[Sequence[int], Span]]) -> Iterator[torch.Tensor]:
        tails = [tail for tail, _ in pack]
        if not self._shared or any(self._rope_changes(len(tail)) for tail in tails):
            for tail, span in pack:
                yield self._whole(tail, span)
            return
        reader = _TailReader(self, [len(tail) for tail in tails], [span for _, span in pack])
        positions = torch.cat([torch.arange(self.length, self.length + len(tail)) for tail in tails])
        self._run([token for tail in tails for token in tail], positions, reader)
        yield from reader.result()

    @torch.no_grad()
    def _whole(self, tail: Sequence[int], counted: Span) -> torch.Tensor:
        """One tail after the whole prefix, nothing shared."""
        tokens = torch.tensor([[*self._ids, *tail]], device=self._lm.device)
        with capture(self._lm, self._heads, range(self.length + counted[0], self.length + counted[1])) as captured:
            decoder(self._lm.model)(input_ids=tokens, use_cache=False)
        return captured.rows[0, :, :, : self.length].mean(1)

    def _check_length(self, tail: int) -> None:
        total, limit = self.length + tail, self._lm.max_length
        if total > limit:
            raise ContextOverflowError(
                f"The prompt has {total:,} tokens, {self._lm.name!r} reads {limit:,}: give fewer or shorter documents.",
                tokens=total,
                limit=limit,
            )

    def _rope_changes(self, tail: int) -> bool:
        """Whether keys of the prefix would be rotated otherwise with the tail than without."""
        rope = getattr(text_config(self._lm.model), "rope_parameters", None) or {}
        if rope.get("rope_type") not in _LENGTH_DEPENDENT_ROPE:
            return False
        original = int(rope.get("original_max_position_embeddings") or self._lm.max_length)
        return self.length + tail > original and (rope["rope_type"] == "dynamic" or self.length <= original)

    def _run(self, ids: Sequence[int], positions: torch.Tensor, handler: Any) -> None:
        device = self._lm.device
        tokens = torch.tensor([list(ids)], device=device)
        with self._gradients(), routed(self._lm, handler):
            decoder(self._lm.model)(input_ids=tokens, position_ids=positions.to(device)[None], use_cache=False)

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
    """Handler of packed tails: puts the prefix in front, reads the wanted heads, stops at the last of them."""

    def __init__(self, prefix: SharedPrefix, tails: Sequence[int], counted: Sequence[Span]) -> None:
        self._prefix = prefix
        self._sizes = [stop - start for start, stop in counted]
        starts = [sum(tails[:place]) for place in range(len(tails))]
        spans = [torch.arange(at + start, at + stop) for at, (start, stop) in zip(starts, counted, strict=True)]
        self._rows = torch.cat(spans)  # of all tail tokens those that count
        owner = torch.arange(len(tails)).repeat_interleave(torch.tensor(tails))
        place = prefix.length + torch.cat([torch.arange(tail) for tail in tails])
        keys = torch.cat([torch.arange(prefix.length), place])
        self._distance = (place[:, None] - keys[None, :]).int()  # negative: not seen
        own = self._distance[:, prefix.length :]
        own[owner[:, None] != owner[None, :]] = -1
        self._means: dict[int, torch.Tensor] = {}
        self._seen: dict[tuple[int | None, torch.device], torch.Tensor] = {}

    def result(self) -> list[torch.Tensor]:
        """Per tail `[heads, prefix tokens]`."""
        device = self._prefix._lm.device
        means = torch.stack([self._means[place].to(device) for place in range(len(self._means))], 1)
        return list(means)

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
        visible = self._visible(logits.window, query.device)
        if members:
            places, heads = zip(*members, strict=True)
            asking, seen = query, visible
            if len(self._rows) < query.shape[2]:
                rows = self._rows.to(query.device)
                asking, seen = query[:, :, rows], visible[:, :, rows]
            for indices, means in prefix._means(asking, key, heads, seen, logits, layer, prefix.length, self._sizes):
                for offset, index in enumerate(indices):
                    self._means[places[index]] = means[offset]
        if layer == prefix._last:
            raise StopForward
        value = torch.cat([kept_value, value], dim=2)
        return kernel(module, query, key, value, _like(mask, visible, query), **kwargs)

    def _visible(self, window: int | None, device: torch.device) -> torch.Tensor:
        """What the tails may see of prefix and tails: bool `[1, 1, tail tokens, prefix + tail tokens]`."""
        if (window, device) not in self._seen:
            seen = self._distance >= 0
            seen = seen if window is None else seen & (self._distance < window)
            self._seen[window, device] = seen[None, None].to(device)
        return self._seen[window, device]


def _like(stock: torch.Tensor | None, visible: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Visibility in the form of the stock mask: additive for eager, bool for sdpa."""
    if stock is None or stock.dtype == torch.bool:
        return visible
    return torch.zeros_like(visible, dtype=query.dtype).masked_fill_(~visible, torch.finfo(query.dtype).min)
