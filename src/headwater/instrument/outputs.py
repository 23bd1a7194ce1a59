"""Head outputs: scale them, or take heads out, while the model runs.

A head's output is its slice of the input of the attention output projection. Slices belong to query heads, so grouped
queries need nothing special. Everything here is a pre-hook on those projections, gone when the block is left; only
`mode="uniform"` works on attention itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

from headwater.errors import InputError
from headwater.headset import Head, HeadSet, HeadsLike, as_heads
from headwater.instrument.interface import Kernel, exclusive, refuse_compiled, routed
from headwater.instrument.rows import by_layer
from headwater.instrument.softmax import Logits, visible_keys
from headwater.model.anatomy import decoder, output_projections
from headwater.model.lm import LanguageModel

Mode = Literal["zero", "batch_mean", "sequence_mean", "reference_mean", "uniform"]
Phase = Literal["all", "decode"]
MODES = ("zero", "batch_mean", "sequence_mean", "reference_mean", "uniform")
PHASES = ("all", "decode")
Edit = Callable[[torch.Tensor, list[int]], torch.Tensor]


@contextmanager
def _edited(lm: LanguageModel, heads: HeadsLike, edits: Callable[[int, list[int]], Edit]) -> Iterator[None]:
    """Pass the inputs of the output projections through `edits(layer, places)`.

    An edit gets the chosen heads' outputs `[batch, positions, chosen heads, d_v]` and gives new ones.
    """
    refuse_compiled(lm)
    projections = output_projections(lm.model)
    with exclusive(lm), ExitStack() as stack:
        for layer, members in by_layer(heads, lm.anatomy).items():
            places, chosen = [place for place, _ in members], [head for _, head in members]
            edit = edits(layer, places)

            def hook(
                module: torch.nn.Module, args: tuple[Any, ...], chosen: list[int] = chosen, edit: Edit = edit
            ) -> tuple[Any, ...]:
                slices = args[0].unflatten(-1, (lm.anatomy.num_heads, -1)).clone()
                slices[..., chosen, :] = edit(slices[..., chosen, :], chosen).to(slices.dtype)
                return (slices.flatten(-2), *args[1:])

            stack.callback(projections[layer].register_forward_pre_hook(hook).remove)
        yield


@contextmanager
def scaled(lm: LanguageModel, heads: HeadSet) -> Iterator[None]:
    """Multiply each head's output by its coefficient while the model runs: what `fold` writes into the weights.

    Products are taken in fp32 (fp64 for an fp64 model) and cast back (PEAR, arXiv 2409.19745; pear.md 3.6).

    Raises:
        InputError: the set has no coefficients.
        HeadSetError: a head the model does not have.
    """
    with scaled_by(lm, heads.heads, torch.tensor(coefficients_of(heads), dtype=torch.float64)):
        yield


@contextmanager
def scaled_by(lm: LanguageModel, heads: HeadSet | HeadsLike, factors: torch.Tensor) -> Iterator[None]:
    """As `scaled`, by a tensor of factors `[heads]` in the order of `heads`; gradients reach it.

    Raises:
        InputError: not one factor per head.
        HeadSetError: a repeated head, or one the model does not have.
    """
    chosen = as_heads(heads)
    if factors.shape != (len(chosen),):
        raise InputError(f"Expected {len(chosen)} factors, one per head, got a tensor of shape {list(factors.shape)}.")

    def edits(layer: int, places: list[int]) -> Edit:
        precise = torch.promote_types(lm.dtype, torch.float32)
        own = factors[places].to(precise)[:, None]
        return lambda outputs, _: outputs.to(precise) * own.to(outputs.device)

    with _edited(lm, chosen, edits):
        yield


def coefficients_of(heads: HeadSet) -> list[float]:
    """The coefficients of a set, or an error that says where they come from."""
    if heads.coefficients is None:
        raise InputError("This head set has no coefficients; learn them first, or give HeadSet(heads, coefficients).")
    return list(heads.coefficients)


@contextmanager
def ablated(
    lm: LanguageModel,
    heads: HeadSet | HeadsLike,
    mode: Mode = "zero",
    phase: Phase = "all",
    reference: Sequence[str] | None = None,
) -> Iterator[None]:
    """Take heads out while the model runs (pear.md 3.3, retrieval_heads.md 3.5).

    Args:
        lm: a loaded model.
        heads: a `HeadSet` or (layer, head) pairs; an empty list changes nothing.
        mode: what a head's output becomes. "zero": nothing. "batch_mean": its mean over the batch at the same position
            (no padding, two rows or more). "sequence_mean": its mean over the positions up to this one; a call of one
            position continues the sequence of the call before. "reference_mean": its mean over the tokens of the
            `reference` texts, in fp32. "uniform": the mean of the values it may see, as if all its scores were equal:
            not a removal, kept for comparison with arXiv 2404.15574.
        phase: "all" positions, or "decode": the last position of a longer call and every call of one position, so that
            the keys and values of the prompt come from the intact model.
        reference: texts for "reference_mean", and only for it.

    Raises:
        InputError: an unknown mode or phase, a missing or superfluous reference, "batch_mean" on a batch of one.
        HeadSetError: a repeated head, or one the model does not have.
    """
    if mode not in MODES:
        raise InputError(f"Unknown mode {mode!r}; use one of {', '.join(MODES)}.")
    _check_phase(phase)
    if (reference is not None) != (mode == "reference_mean"):
        raise InputError("mode='reference_mean' needs reference texts, and no other mode takes them.")
    chosen = as_heads(heads)
    if not chosen:
        yield
        return
    if mode == "uniform":
        with routed(lm, _Uniform(lm, chosen, phase)):
            yield
        return
    if reference is not None:
        with replaced(lm, chosen, reference_means(lm, chosen, reference), phase):
            yield
        return
    with _edited(lm, chosen, lambda _, __: _in_phase(_replacement(mode), phase)):
        yield


@contextmanager
def replaced(
    lm: LanguageModel, heads: HeadSet | HeadsLike, outputs: torch.Tensor, phase: Phase = "all"
) -> Iterator[None]:
    """Put given outputs in the place of heads' own while the model runs (activation patching).

    Args:
        lm: a loaded model.
        heads: a `HeadSet` or (layer, head) pairs.
        outputs: float `[heads, d_v]`, in the order of `heads`, or anything that broadcasts to
            `[batch, positions, heads, d_v]` in every call.
        phase: as for `ablated`.

    Raises:
        InputError: an unknown phase, or outputs of the wrong shape.
        HeadSetError: an empty list, a repeated head, or one the model does not have.
    """
    chosen = as_heads(heads)
    _check_phase(phase)
    if outputs.ndim < 2 or outputs.shape[-2] != len(chosen):
        raise InputError(f"Expected outputs [..., {len(chosen)} heads, d_v], got {list(outputs.shape)}.")

    def edits(layer: int, places: list[int]) -> Edit:
        own = outputs[..., places, :]

        def put(old: torch.Tensor) -> torch.Tensor:
            try:
                return own.to(old.device).expand_as(old)
            except RuntimeError as error:
                raise InputError(
                    f"Outputs of shape {list(own.shape)} do not fit heads' outputs of {list(old.shape)}."
                ) from error

        return _in_phase(put, phase)

    with _edited(lm, chosen, edits):
        yield


def _check_phase(phase: str) -> None:
    if phase not in PHASES:
        raise InputError(f"Unknown phase {phase!r}; use one of {', '.join(PHASES)}.")


def _in_phase(replace: Callable[[torch.Tensor], torch.Tensor], phase: str) -> Edit:
    """An edit that replaces at every position, or at the last one only ("decode")."""

    def edit(outputs: torch.Tensor, _: list[int]) -> torch.Tensor:
        new = replace(outputs)
        if phase == "decode" and outputs.shape[1] > 1:
            new = torch.cat([outputs[:, :-1], new[:, -1:].to(outputs.dtype)], dim=1)
        return new

    return edit


def _replacement(mode: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """New outputs `[batch, positions, heads, d_v]` from old ones, for one layer."""
    if mode == "zero":
        return torch.zeros_like
    if mode == "sequence_mean":
        return _RunningMean()

    def batch_mean(outputs: torch.Tensor) -> torch.Tensor:
        if outputs.shape[0] < 2:
            raise InputError("mode='batch_mean' needs a batch of two rows or more: the mean of one row is the row.")
        return outputs.float().mean(0, keepdim=True).expand_as(outputs)

    return batch_mean


class _RunningMean:
    """Mean over the positions so far; a call of one position goes on from the calls before it."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None
        self._count = 0

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        positions = outputs.shape[1]
        if positions > 1 or self._sum is None or self._sum.shape[0] != outputs.shape[0]:
            self._sum, self._count = outputs.new_zeros(outputs[:, :1].shape, dtype=torch.float32), 0
        sums = outputs.float().cumsum(1) + self._sum
        counts = torch.arange(1, positions + 1, device=outputs.device) + self._count
        self._sum, self._count = sums[:, -1:], self._count + positions
        return sums / counts[None, :, None, None]


@torch.no_grad()
def reference_means(lm: LanguageModel, heads: Sequence[Head], texts: Sequence[str]) -> torch.Tensor:
    """Mean output of heads over all tokens of some texts: fp32 `[heads, d_v]`, each text run on its own.

    Raises:
        InputError: a single string, no texts, or texts without a token.
    """
    if isinstance(texts, str) or not texts:
        raise InputError("Give a non-empty list of reference texts.")
    sums: dict[int, torch.Tensor] = {}
    tokens = 0

    def edits(layer: int, places: list[int]) -> Edit:
        def collect(outputs: torch.Tensor, _: list[int]) -> torch.Tensor:
            for offset, place in enumerate(places):
                sums[place] = sums.get(place, torch.zeros((), device=outputs.device)) + outputs[
                    0, :, offset
                ].float().sum(0)
            return outputs

        return collect

    with _edited(lm, heads, edits):
        for text in texts:
            ids = lm.tokenizer(text, return_tensors="pt", truncation=True, max_length=lm.max_length)["input_ids"]
            if ids.shape[1] == 0:
                continue
            decoder(lm.model)(input_ids=ids.to(lm.device), use_cache=False)
            tokens += ids.shape[1]
    if tokens == 0:
        raise InputError("The reference texts have no tokens.")
    return torch.stack([sums[place].to(lm.device) for place in range(len(heads))]) / tokens


class _Uniform:
    """Attention handler: chosen heads average the values they may see; a sink keeps its share."""

    def __init__(self, lm: LanguageModel, heads: Sequence[Head], phase: str) -> None:
        self._layers = by_layer(heads, lm.anatomy)
        self._phase = phase

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
        output, weights = kernel(module, query, key, value, mask, **kwargs)
        members = self._layers.get(int(module.layer_idx))  # type: ignore[arg-type]
        if not members:
            return output, weights
        queries, keys = query.shape[2], key.shape[2]
        first = queries - 1 if self._phase == "decode" else 0
        positions = torch.arange(first, queries, device=query.device)
        visible = visible_keys(mask, positions, keys, queries, causal=bool(getattr(module, "is_causal", True)))
        share = visible[:, 0].to(torch.float32)
        group = query.shape[1] // key.shape[1]
        sinks = Logits.of(kwargs).sinks
        output = output.clone()
        for _, head in members:
            total = share.sum(-1, keepdim=True)
            if sinks is not None:  # equal scores are zero, the sink keeps its own
                total = total + sinks[head].float().exp()
            mean = (share / total.clamp_min(1e-9)) @ value[:, head // group].float()
            output[:, first:, head] = mean.to(output.dtype)
        return output, weights
