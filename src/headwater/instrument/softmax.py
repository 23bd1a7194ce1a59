"""Softmax rows in fp32 from the query and key tensors that an attention kernel was handed, or only their means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from headwater.errors import NonFiniteAttentionError

_ROW_SUM_TOLERANCE = 1e-3
HELD_LOGITS = 2**22  # logits held at once where rows are streamed over blocks of keys


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
    blind = ~visible.any(-1, keepdim=True)
    for kv, members in _by_kv(query, key, heads):
        own = [heads[i] for i in members]
        scores = _scores(query[:, own], key[:, kv : kv + 1], visible, logits)
        if logits.sinks is None:
            rows = scores.softmax(-1)
        else:
            rows = torch.cat([scores, _sinks(logits, own, scores)], -1).softmax(-1)[..., :-1]
        if blind.any():
            rows = rows.masked_fill(blind, 0.0)
        check_rows(rows.sum(-1), blind.squeeze(-1), own, layer, query.dtype, sinks=logits.sinks is not None)
        yield members, rows


def mean_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    heads: Sequence[int],
    visible: torch.Tensor,
    logits: Logits,
    layer: int,
    keep: int,
    parts: Sequence[int] | None = None,
    held: int = HELD_LOGITS,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Means over groups of rows of what `row_blocks` gives, streamed over blocks of keys (qrhead.md 6.5).

    Only logits of one block of keys are ever held: a first pass takes the log of the sum of exponentials of every row,
    a second one adds up the shares. Where all logits of a key/value head fit, they are taken once.

    Args:
        query: `[1, H, rows, head_dim]`.
        key: `[1, G, keys, head_dim]`.
        heads: query heads of this layer.
        visible: bool `[1, 1, rows, keys]`.
        logits: as for `row_blocks`.
        layer: named in the error.
        keep: keys whose means are wanted, from the first.
        parts: rows are in consecutive groups of these sizes, each averaged on its own (None: one group).
        held: logits held at once, at least those of one key.

    Yields:
        Indices into `heads`, and their means `[those heads, groups, keep]`.

    Raises:
        NonFiniteAttentionError: as `row_blocks`.
    """
    sizes = [query.shape[2]] if parts is None else list(parts)
    keys = key.shape[2]
    blind = ~visible.any(-1)
    for kv, members in _by_kv(query, key, heads):
        own = [heads[i] for i in members]
        rows = query[:, own]
        block = max(1, held // (rows.shape[1] * rows.shape[2]))
        starts = range(0, keys, block)

        def scores_of(start: int, rows: torch.Tensor = rows, kv: int = kv, block: int = block) -> torch.Tensor:
            part = slice(start, start + block)
            return _scores(rows, key[:, kv : kv + 1, part], visible[..., part], logits)

        precise = torch.promote_types(rows.dtype, torch.float32)
        total = torch.full(rows.shape[:3], -torch.inf, dtype=precise, device=rows.device)  # log of sums of exponentials
        for start in starts:
            scores = scores_of(start)
            total = torch.logaddexp(total, scores.logsumexp(-1))
        if logits.sinks is not None:
            total = torch.logaddexp(total, _sinks(logits, own, total[..., None]).squeeze(-1))
        mass = torch.zeros_like(total)
        means = total.new_empty(len(own), len(sizes), keep)
        for start in starts:
            share = scores if len(starts) == 1 else scores_of(start)
            share = share.sub_(total[..., None]).exp_().masked_fill_(blind[..., None], 0.0)
            mass += share.sum(-1)
            inside = max(0, min(keep - start, share.shape[-1]))
            for part, chunk in enumerate(share[0, :, :, :inside].split(sizes, dim=1)):
                means[:, part, start : start + inside] = chunk.mean(1)
        check_rows(mass, blind, own, layer, query.dtype, sinks=logits.sinks is not None)
        yield members, means


def mean_rows_with_graph(
    query: torch.Tensor,
    key: torch.Tensor,
    heads: Sequence[int],
    visible: torch.Tensor,
    logits: Logits,
    layer: int,
    keep: int,
    parts: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """`mean_rows` for training: the same means, out of whole rows, so that gradients reach query and key.

    Arguments, results and errors are those of `mean_rows`; the rows of one key/value head after the other are held
    until the backward pass.
    """
    sizes = [query.shape[2]] if parts is None else list(parts)
    for members, rows in row_blocks(query, key, heads, visible, logits, layer):
        groups = rows[0, :, :, :keep].split(sizes, dim=1)
        yield members, torch.stack([group.mean(1) for group in groups], 1)


def strongest_keys(
    query: torch.Tensor,
    key: torch.Tensor,
    heads: Sequence[int],
    visible: torch.Tensor,
    logits: Logits,
    layer: int,
    held: int = HELD_LOGITS,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Where the rows that `row_blocks` gives are largest, streamed over blocks of keys (retrieval_heads.md 6).

    Per row only the largest logit, its key and the log of the sum of exponentials are kept.

    Args:
        query: `[batch, H, rows, head_dim]`.
        key: `[batch, G, keys, head_dim]`.
        heads: query heads of this layer.
        visible: bool `[batch or 1, 1, rows, keys]`.
        logits: as for `row_blocks`.
        layer: named in the error.
        held: logits held at once, at least those of one key.

    Yields:
        Indices into `heads`; the key each row is largest at, int64 `[batch, those heads, rows]`, the lowest of equal
        ones, -1 where a row may see nothing; and the row's value there (with sinks these take their share).

    Raises:
        NonFiniteAttentionError: as `row_blocks`.
    """
    keys, blind = key.shape[2], ~visible.any(-1)
    for kv, members in _by_kv(query, key, heads):
        own = [heads[i] for i in members]
        rows = query[:, own]
        block = max(1, held // rows.shape[:3].numel())
        precise = torch.promote_types(rows.dtype, torch.float32)
        best = torch.full(rows.shape[:3], -torch.inf, dtype=precise, device=rows.device)
        total, place = best.clone(), torch.full(rows.shape[:3], -1, device=rows.device)
        for start in range(0, keys, block):
            part = slice(start, start + block)
            scores = _scores(rows, key[:, kv : kv + 1, part], visible[..., part], logits)
            largest, at = scores.max(-1)  # the first of equal ones
            place = torch.where(largest > best, at + start, place)
            best = torch.maximum(best, largest)
            total = torch.logaddexp(total, scores.logsumexp(-1))
        if logits.sinks is not None:
            total = torch.logaddexp(total, _sinks(logits, own, total[..., None]).squeeze(-1))
        check_rows((total - total).exp(), blind, own, layer, query.dtype)
        yield members, place, (best - total).exp().masked_fill(blind, 0.0)


def _by_kv(query: torch.Tensor, key: torch.Tensor, heads: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Indices into `heads`, by the key/value head that they read."""
    group = query.shape[1] // key.shape[1]
    found: dict[int, list[int]] = {}
    for index, head in enumerate(heads):
        found.setdefault(head // group, []).append(index)
    yield from found.items()


def _scores(query: torch.Tensor, key: torch.Tensor, visible: torch.Tensor, logits: Logits) -> torch.Tensor:
    """Logits `[batch, heads, rows, keys]` in fp32 (fp64), -inf where a row may not see."""
    precise = torch.promote_types(query.dtype, torch.float32)
    scores = torch.matmul(query.to(precise), key.to(precise).transpose(-1, -2)).mul_(logits.scaling)
    if logits.softcap is not None:
        scores = scores.div_(logits.softcap).tanh_()  # its gradient is made of this, so the factor goes to a new tensor
        scores = scores * logits.softcap if scores.requires_grad else scores.mul_(logits.softcap)
    return scores.masked_fill_(~visible, -torch.inf)


def _sinks(logits: Logits, heads: Sequence[int], scores: torch.Tensor) -> torch.Tensor:
    """The logits that take mass without a key, `[batch, heads, rows, 1]`."""
    assert logits.sinks is not None
    return logits.sinks[heads].to(scores)[None, :, None, None].expand(*scores.shape[:-1], 1)


def check_rows(
    mass: torch.Tensor,
    blind: torch.Tensor,
    heads: Sequence[int],
    layer: int,
    dtype: torch.dtype,
    *,
    sinks: bool = False,
) -> None:
    """Refuse rows that are not distributions.

    Args:
        mass: sum of each row, `[batch, heads, rows]`.
        blind: bool, broadcast against `mass`: rows that may see nothing.
        heads: head of each place of the second axis.
        layer: named in the error.
        dtype: of the model, named in the error.
        sinks: whether a row may sum to less than one.

    Raises:
        NonFiniteAttentionError: names layer and head.
    """
    excess = mass - 1
    right = excess <= _ROW_SUM_TOLERANCE if sinks else excess.abs() <= _ROW_SUM_TOLERANCE
    wrong = ~right & ~blind
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
