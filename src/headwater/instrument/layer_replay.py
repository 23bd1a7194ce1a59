"""Path-mode replay in one walk through the layers, with a batch that grows by every layer's heads.

A row begins in the layer whose head it replaces, as a copy of the clean row, so it pays for the layers above only
(pear.md 6.2). The model's own code runs the layers; hooks on the output projections put the heads' outputs in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from headwater.errors import HeadwaterError, ModelError
from headwater.instrument.interface import exclusive
from headwater.instrument.replay import Ablation, Clean, Replayed, check_replay, finite
from headwater.instrument.token_scores import target_scores
from headwater.model.anatomy import FAMILIES, decoder, decoder_layers, output_projections
from headwater.model.lm import LanguageModel

ROWS = 4096  # single-token rows at the end of a walk


@torch.no_grad()
def layer_replay(
    lm: LanguageModel,
    ids: torch.Tensor,
    targets: torch.Tensor,
    *,
    ablation: Ablation = "batch_mean",
    rows: int = ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> Replayed:
    """As `replay` of every head with mode="path"; cheaper.

    Not for families whose attention counts its rows beforehand (BLOOM).

    Args:
        lm: a loaded model.
        ids: token ids `[sequences, tokens]`, no padding; two tokens or more.
        targets: the token after each sequence, `[sequences]`.
        ablation: what replaces a head's output, as in `replay`.
        rows: single-token rows that a walk ends with; at least those of one sequence.
        progress: called with (sequences done, sequences in all).

    Raises:
        ModelError: layers that a batch of another size than the tokens' cannot run through; what `replay` raises.
        InputError, ContextOverflowError: as in `replay`.
    """
    check_replay(lm, ids, targets, "path", ablation)
    ids, targets = ids.to(lm.device), targets.to(lm.device)
    clean = Clean(lm, ids, targets, ablation, cached=False)
    heads = lm.anatomy.all_heads
    at_once = max(1, rows // (1 + len(heads)))
    if lm.model.config._attn_implementation == "eager" or not FAMILIES[lm.anatomy.family].interface:
        at_once = 1  # masks and biases have a row per sequence, which further rows can only use where it is one
    change = torch.empty(len(heads), len(ids), dtype=clean.scores.dtype)
    noise = 0.0
    for start in range(0, len(ids), at_once):
        part = slice(start, min(start + at_once, len(ids)))
        try:
            hidden = _walk(lm, clean, part)
        except (HeadwaterError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, IndexError, ValueError) as error:
            raise ModelError(
                f"The layers of {lm.name!r} ({lm.anatomy.family}) do not run with more rows than tokens; use the "
                f"one-token engine (engine='tokens'). Reason: {error}"
            ) from error
        count = part.stop - part.start
        scores = target_scores(lm, hidden, clean.targets[part].repeat(1 + len(heads))).view(-1, count).cpu()
        noise = max(noise, (scores[0] - clean.scores[part].cpu()).abs().max().item())
        change[:, part] = scores[1:] - scores[0]
        if progress is not None:
            progress(part.stop, len(ids))
    return finite(lm, Replayed(heads, clean.scores, change, clean.correct, noise))


def _walk(lm: LanguageModel, clean: Clean, part: slice) -> torch.Tensor:
    """Hidden states `[(1 + heads) * sequences, D]`: rows that replace nothing, then every head's, layer by layer."""
    count = part.stop - part.start
    rows = dict.fromkeys(clean.outputs, 0)

    def grow(layer: int, hidden: torch.Tensor) -> torch.Tensor:
        if layer == 0:
            hidden = clean.stream[part].to(hidden)
        if layer not in clean.outputs:
            return hidden
        rows[layer] = len(hidden)
        return torch.cat([hidden, hidden[:count].repeat(lm.anatomy.num_heads, 1, 1)])

    def inputs(layer: int, given: torch.Tensor) -> torch.Tensor:
        kept = clean.outputs[layer][part]
        replacement = clean.replacement[layer]
        replacement = replacement[part] if len(replacement) > 1 else replacement.expand(count, -1, -1)
        new = kept.repeat(lm.anatomy.num_heads, 1, 1).view(lm.anatomy.num_heads, *kept.shape).clone()
        for head in range(lm.anatomy.num_heads):
            new[head, :, head] = replacement[:, head]
        old = kept.repeat(rows[layer] // count, 1, 1)
        return torch.cat([old, new.flatten(0, 1)]).flatten(-2)[:, None].to(given)

    with exclusive(lm), ExitStack() as stack:
        for layer, block in enumerate(decoder_layers(lm.model)):

            def before(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], layer: int = layer) -> Any:
                if args:
                    return (grow(layer, args[0]), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": grow(layer, kwargs["hidden_states"])}

            stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
        for layer, projection in output_projections(lm.model).items():

            def put(module: torch.nn.Module, args: tuple[Any, ...], layer: int = layer) -> tuple[Any, ...]:
                return (inputs(layer, args[0]), *args[1:])

            stack.callback(projection.register_forward_pre_hook(put).remove)
        result = decoder(lm.model)(input_ids=clean.ids[part, -1:], use_cache=False)
    hidden: torch.Tensor = result.last_hidden_state[:, -1]
    return hidden
