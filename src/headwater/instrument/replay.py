"""What changing one head at one position does to the next token: one token per head instead of a forward.

One clean pass keeps, at the last position, the first layer's input and the heads' outputs of every layer. Then each
(head, sequence) is a batch row of one token that runs through the model's own layers, with the heads' outputs put in
at every output projection: the kept ones ("path"), or those the layer computes from the changed stream over the
clean cache ("total"). Norms, parallel branches, multipliers and experts are right by construction, because the model's
own code runs (PEAR, arXiv 2409.19745; pear.md 3.2-3.5 and 6.1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from headwater.errors import ContextOverflowError, InputError, ModelError, NonFiniteAttentionError
from headwater.headset import Head, HeadSet, HeadsLike, as_heads
from headwater.instrument.interface import exclusive, refuse_compiled
from headwater.instrument.rows import by_layer
from headwater.instrument.token_scores import centred_scores, target_scores
from headwater.model.anatomy import decoder, decoder_layers, output_projections, text_config
from headwater.model.lm import LanguageModel

ReplayMode = Literal["path", "total"]
Ablation = Literal["batch_mean", "sequence_mean", "zero"]
MODES = ("path", "total")
ABLATIONS = ("batch_mean", "sequence_mean", "zero")
ROWS = 256  # single-token rows of one pass


@dataclass(frozen=True)
class Replayed:
    """What a replay measured; scores are centred logits of the targets: target's logit minus the vocabulary's mean.

    With `against`, they are the target's logit minus that of the other token.

    Attributes:
        heads: the heads, in the order of `change`.
        clean: fp32 `[sequences]`, score of each target in the clean pass (fp64 for an fp64 model).
        change: `[heads, sequences]`, score with the head replaced minus score without, both from the same pass.
        correct: bool `[sequences]`, whether the target is the most likely next token in the clean pass.
        noise: largest difference between a row that replaces nothing and the clean pass.
    """

    heads: list[Head]
    clean: torch.Tensor
    change: torch.Tensor
    correct: torch.Tensor
    noise: float


@torch.no_grad()
def replay(
    lm: LanguageModel,
    ids: torch.Tensor,
    targets: torch.Tensor,
    *,
    against: torch.Tensor | None = None,
    heads: HeadSet | HeadsLike | None = None,
    mode: ReplayMode = "path",
    ablation: Ablation = "batch_mean",
    rows: int = ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> Replayed:
    """Replace each head's output at the last position, one head at a time, and see what becomes of the next token.

    Args:
        lm: a loaded model.
        ids: token ids `[sequences, tokens]`, no padding; two tokens or more.
        targets: the token after each sequence, `[sequences]`.
        against: a token per sequence, `[sequences]`, whose logit takes the place of the vocabulary's mean in scores.
        heads: heads to replace (None: every head).
        mode: "path": the heads of all other layers keep their clean outputs, so that the change reaches the logits
            directly and through MLPs only. "total": attention after the head's layer is computed from the changed
            stream; keys and values of earlier positions are clean.
        ablation: what replaces a head's output: "batch_mean", its mean over the sequences; "sequence_mean", its mean
            over the positions of its sequence; "zero".
        rows: single-token rows (heads x sequences) of one pass; in total mode each holds a copy of a sequence's cache.
        progress: called with (heads done, heads in all).

    Raises:
        InputError: an unknown mode or ablation, ids or targets of the wrong shape, "batch_mean" with one sequence.
        HeadSetError: an empty list, a repeated head, or one the model does not have.
        ContextOverflowError: sequences longer than the model reads.
        ModelError: a hybrid model, sequences longer than a sliding window in total mode, a compiled model, or an output
            layer that is adapted, quantised or offloaded.
    """
    chosen = lm.anatomy.all_heads if heads is None else as_heads(heads)
    by_layer(chosen, lm.anatomy)
    check_replay(lm, ids, targets, mode, ablation, against)
    ids, targets = ids.to(lm.device), targets.to(lm.device)
    clean = Clean(lm, ids, targets, ablation, cached=mode == "total", against=against)
    per_pass = max(1, rows // len(ids) - 1)  # one candidate of every pass replaces nothing
    change, noise = [], 0.0
    for start in range(0, len(chosen), per_pass):
        scores = _run(lm, clean, [None, *chosen[start : start + per_pass]], mode)
        noise = max(noise, (scores[0] - clean.scores).abs().max().item())
        change.append(scores[1:] - scores[0])
        if progress is not None:
            progress(min(start + per_pass, len(chosen)), len(chosen))
    return finite(lm, Replayed(chosen, clean.scores, torch.cat(change), clean.correct, noise))


def finite(lm: LanguageModel, found: Replayed) -> Replayed:
    """What was measured, if all of it is a number.

    Raises:
        NonFiniteAttentionError: names the first head whose replacement gave none.
    """
    bad = ~(found.change.isfinite().all(1).cpu() & found.clean.isfinite().all().cpu())
    if bad.any():
        layer, head = found.heads[int(bad.nonzero()[0])]
        raise NonFiniteAttentionError(
            f"Replaying {lm.name!r} in {lm.dtype} gives NaN or infinity at head {layer}-{head}; load it in float32 or "
            "bfloat16.",
            layer=layer,
            head=head,
        )
    return found


def check_replay(
    lm: LanguageModel,
    ids: torch.Tensor,
    targets: torch.Tensor,
    mode: str,
    ablation: str,
    against: torch.Tensor | None = None,
) -> None:
    """Refuse what cannot be replayed; raises as `replay` says."""
    if mode not in MODES:
        raise InputError(f"Unknown mode {mode!r}; use one of {', '.join(MODES)}.")
    if ablation not in ABLATIONS:
        raise InputError(f"Unknown ablation {ablation!r}; use one of {', '.join(ABLATIONS)}.")
    if ids.ndim != 2 or not len(ids) or ids.shape[1] < 2 or targets.shape != ids.shape[:1]:
        raise InputError(
            f"ids are [sequences, tokens] with two tokens or more, targets [sequences]; got {list(ids.shape)} and "
            f"{list(targets.shape)}."
        )
    head = lm.model.get_output_embeddings()
    if not (isinstance(head, torch.nn.Linear) and type(head.weight.data) is torch.Tensor and not head.weight.is_meta):
        raise ModelError(f"The output layer of {lm.name!r} is not a plain linear layer with its weights loaded.")
    if against is not None and against.shape != targets.shape:
        raise InputError(f"`against` is one token per sequence, as the targets are; got {list(against.shape)}.")
    for tokens in (targets,) if against is None else (targets, against):
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < len(head.weight):
            raise InputError(f"Targets are token ids from 0 to {len(head.weight) - 1}.")
    if ids.shape[1] > lm.max_length:
        raise ContextOverflowError(
            f"Sequences of {ids.shape[1]:,} tokens are longer than {lm.name!r} reads ({lm.max_length:,}).",
            tokens=ids.shape[1],
            limit=lm.max_length,
        )
    if ablation == "batch_mean" and len(ids) < 2:
        raise InputError("ablation='batch_mean' needs two sequences or more: the mean of one is itself.")
    refuse_compiled(lm)
    if lm.anatomy.headless:
        raise ModelError(f"{lm.name!r} has layers without attention, whose state a single token does not carry.")
    window = getattr(text_config(lm.model), "sliding_window", None)
    if mode == "total" and window is not None and ids.shape[1] > window:
        raise ModelError(f"Sequences of {ids.shape[1]} tokens do not fit the sliding window of {window}.")


class Clean:
    """The clean pass: what stays fixed while heads are replaced."""

    def __init__(
        self,
        lm: LanguageModel,
        ids: torch.Tensor,
        targets: torch.Tensor,
        ablation: str,
        *,
        cached: bool,
        against: torch.Tensor | None = None,
    ) -> None:
        self.ids, self.targets, self.against = ids, targets, against
        self.outputs: dict[int, torch.Tensor] = {}  # layer -> [sequences, H, d_v] at the last position
        self.replacement: dict[int, torch.Tensor] = {}  # layer -> [sequences or 1, H, d_v]
        self.stream = torch.empty(0)  # input of the first layer at the last position, [sequences, 1, D]

        def outputs(layer: int, inputs: torch.Tensor) -> torch.Tensor:
            split = inputs.unflatten(-1, (lm.anatomy.num_heads, -1))
            self.outputs[layer] = split[:, -1].clone()  # a view would keep every position
            if ablation == "batch_mean":
                self.replacement[layer] = split[:, -1].mean(0, keepdim=True)
            elif ablation == "sequence_mean":
                self.replacement[layer] = split.mean(1)
            else:
                self.replacement[layer] = torch.zeros_like(split[:1, -1])
            return inputs

        def stream(inputs: torch.Tensor) -> torch.Tensor:
            self.stream = inputs[:, -1:].clone()
            return inputs

        with _hooked(lm, outputs, stream):
            self.scores, self.correct = centred_scores(lm, ids, targets, against)
        self._cache = None
        if cached:
            self._cache = decoder(lm.model)(input_ids=ids[:, :-1], use_cache=True).past_key_values

    def cache(self, times: int) -> Any:
        """A fresh copy of the cache of all tokens but the last, each sequence `times` times in a row; or None."""
        if self._cache is None:
            return None
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(times)
        return cache


def _run(lm: LanguageModel, clean: Clean, candidates: Sequence[Head | None], mode: str) -> torch.Tensor:
    """Scores `[candidates, sequences]`; the rows of the pass are sequence-major, as the cache repeats itself."""
    count, times = len(clean.ids), len(candidates)
    first = torch.arange(count, device=lm.device) * times
    at = {layer: [(i, c[1]) for i, c in enumerate(candidates) if c and c[0] == layer] for layer in clean.outputs}

    def outputs(layer: int, inputs: torch.Tensor) -> torch.Tensor:
        kept = clean.outputs[layer].repeat_interleave(times, 0)
        split = kept if mode == "path" else inputs[:, -1].unflatten(-1, (lm.anatomy.num_heads, -1)).clone()
        for place, head in at[layer]:
            split[first.to(split.device) + place, head] = clean.replacement[layer][:, head]
        return split.flatten(-2)[:, None]

    def stream(inputs: torch.Tensor) -> torch.Tensor:
        return clean.stream.repeat_interleave(times, 0) if mode == "path" else inputs

    cache = clean.cache(times)
    tokens = clean.ids[:, -1:].repeat_interleave(times, 0)
    with _hooked(lm, outputs, stream):
        result = decoder(lm.model)(input_ids=tokens, past_key_values=cache, use_cache=cache is not None)
    against = None if clean.against is None else clean.against.repeat_interleave(times)
    scores = target_scores(lm, result.last_hidden_state[:, -1], clean.targets.repeat_interleave(times), against)
    return scores.view(count, times).T


@contextmanager
def _hooked(
    lm: LanguageModel,
    outputs: Callable[[int, torch.Tensor], torch.Tensor],
    stream: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Pass inputs of output projections through `outputs(layer, ...)`, those of the first layer through `stream`."""

    def first(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (stream(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": stream(kwargs["hidden_states"])}

    with exclusive(lm), ExitStack() as stack:
        layer0 = decoder_layers(lm.model)[0]
        stack.callback(layer0.register_forward_pre_hook(first, with_kwargs=True).remove)
        for layer, projection in output_projections(lm.model).items():

            def hook(module: torch.nn.Module, args: tuple[Any, ...], layer: int = layer) -> tuple[Any, ...]:
                return (outputs(layer, args[0]), *args[1:])

            stack.callback(projection.register_forward_pre_hook(hook).remove)
        yield
