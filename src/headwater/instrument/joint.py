"""The joint pass: several tails behind one text in one forward, none of which sees another (llara.md 3.2).

    prefix and text | tail A | tail B        positions 0 .. n-1 | n, n+1 .. | n, n+1 ..

Token q sees token k where both belong to the same example, k does not come after q, and k is of the text or of q's own
tail. Each tail so gets what it would get alone behind the text, at n + a + b tokens in place of 2n + a + b. One switch
says how:

- "mask4d": an additive mask `[B, 1, L, L]`, under sdpa or eager attention.
- "flex": the same rule as a block mask under PyTorch's flex attention; for long rows.
- "branch": text first, then each tail from its cache; any kernel, ALiBi too, but no activation checkpointing.
- "separate": a pass for each tail; for models where nothing else works, and to measure against.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from headwater.errors import InputError, ModelError
from headwater.instrument.joint_layout import Layout, lay_out, padded
from headwater.model.anatomy import FAMILIES, decoder, text_config
from headwater.model.lm import LanguageModel

Joint = Literal["mask4d", "flex", "branch", "separate"]
JOINTS = ("mask4d", "flex", "branch", "separate")
_FLEX = "flex_attention"
_BLOCK = 128  # flex attention works in blocks of so many tokens
_Mask = Any  # a tensor, a block mask, or a mapping from a layer type to one


@dataclass(frozen=True)
class JointStates:
    """States of a joint pass, after the final norm, with gradients where the model has them.

    Attributes:
        slots: `[examples, tails, slots, D]`.
        text: `[M, D]`, the state in front of every text token that has one; None where they were not asked for.
        said: ids of these M tokens, `[M]`.
    """

    slots: torch.Tensor
    text: torch.Tensor | None
    said: torch.Tensor


def joint_states(
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    slots: int,
    joint: str = "mask4d",
    *,
    prefix: int = 0,
    keep_text: bool = False,
    width: int | None = None,
) -> JointStates:
    """States at the slots of every tail behind every text.

    Args:
        lm: a loaded model.
        texts: token ids of prefix and text, one list per example.
        tails: token ids of the tails, the same behind each text; their last `slots` tokens are the slots.
        slots: slots of a tail.
        joint: "mask4d", "flex", "branch" or "separate".
        prefix: so many tokens of each text are prefix: they are read, but no state in front of them is kept.
        keep_text: give the states in front of the text tokens, too.
        width: tokens of a row that several examples share ("mask4d" and "flex"); None: a row for each example.

    Raises:
        InputError: nothing to read, more slots than a tail has tokens, an unknown switch, or rows that "branch" and
            "separate" cannot share.
        ModelError: a model or an attention kernel that this switch does not work with.
    """
    if joint not in JOINTS:
        raise InputError(f"Unknown joint={joint!r}; use one of {', '.join(JOINTS)}.")
    if not texts or any(len(text) <= prefix for text in texts):
        raise InputError("A joint pass needs texts of at least one token each.")
    if any(len(tail) < slots for tail in tails) or slots < 1:
        raise InputError(f"Every tail needs its {slots} slots, at least one.")
    if width is not None and joint in ("branch", "separate"):
        raise InputError(f"joint={joint!r} gives every example a row of its own: leave packing off.")
    with kernel_for(lm, joint):
        if joint == "branch":
            return _branch(lm, texts, tails, slots, prefix, keep_text)
        if joint == "separate":
            return _separate(lm, texts, tails, slots, prefix, keep_text)
        rows = lay_out(texts, tails, slots, prefix, width, _BLOCK if joint == "flex" else 1).to(lm.device)
        mask = _mask(lm, rows, joint)
        hidden = _run(lm, input_ids=rows.ids, attention_mask=mask, position_ids=rows.positions).flatten(0, 1)
        rows = rows.to(hidden.device)  # of a model on several devices, that of its last layer
        return JointStates(hidden[rows.slots], hidden[rows.before] if keep_text else None, rows.said)


@contextmanager
def kernel_for(lm: LanguageModel, joint: str) -> Iterator[None]:
    """The attention kernel that a switch needs, inside the block; also around backward passes that compute again.

    Raises:
        ModelError: the model does not go with this switch; the message says which does.
    """
    stack, config = decoder(lm.model), text_config(lm.model)
    family = FAMILIES[lm.anatomy.family]
    kernel = stack.config._attn_implementation
    if joint != "separate" and family.hybrid is not None:
        raise ModelError(
            f"{lm.name!r} has {family.hybrid} layers, whose state runs from tail to tail: use joint='separate'."
        )
    if joint == "branch" and any(getattr(module, "gradient_checkpointing", False) for module in stack.modules()):
        raise ModelError("joint='branch' keeps a cache, which activation checkpointing drops: use joint='mask4d'.")
    if joint in ("mask4d", "flex"):
        positional = getattr(config, "alibi", lm.anatomy.family in ("bloom", "mpt"))
        if positional or not (family.interface or joint == "mask4d"):
            raise ModelError(
                f"joint={joint!r} does not work with {lm.name!r}: the attention of {lm.anatomy.family} models takes no "
                "mask of ours; use joint='branch'."
            )
    if joint == "mask4d" and kernel.removeprefix("headwater_") not in ("sdpa", "eager"):
        raise ModelError(
            f"{lm.name!r} runs on {kernel!r}, which reads positions that are used again as packed texts: call "
            "lm.model.set_attn_implementation('sdpa'), or use joint='branch'."
        )
    if joint != "flex" or kernel == _FLEX:
        yield
        return
    try:
        stack.set_attn_implementation(_FLEX)
    except (ValueError, ImportError) as error:
        raise ModelError(f"{lm.name!r} has no flex attention ({error}); use joint='mask4d'.") from error
    try:
        yield
    finally:
        stack.set_attn_implementation(kernel)


def _run(lm: LanguageModel, **inputs: Any) -> torch.Tensor:
    """States after the final norm, `[rows, tokens, D]`."""
    stack = decoder(lm.model)
    if "position_ids" not in inspect.signature(stack.forward).parameters:  # ALiBi
        inputs.pop("position_ids", None)
    found: torch.Tensor = stack(**{"use_cache": False, **inputs}).last_hidden_state
    return found


def _mask(lm: LanguageModel, rows: Layout, joint: str) -> _Mask:
    """The mask of every layer: one for all, or one per type of layer where some have a sliding window."""
    config = text_config(lm.model)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    unknown = kinds - {"full_attention", "sliding_attention"}
    if unknown:
        raise ModelError(f"{lm.name!r} has {', '.join(sorted(unknown))} layers, unknown here: use joint='branch'.")
    windows = {"full_attention": None, "sliding_attention": window}
    masks = {
        kind: _block_mask(rows, windows[kind]) if joint == "flex" else _additive(rows, windows[kind], lm.dtype)
        for kind in sorted(kinds)
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _additive(rows: Layout, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """0 where a token is seen, the lowest number of the type where not, `[B, 1, L, L]`."""
    seen = torch.ones(rows.ids.shape[1], rows.ids.shape[1], dtype=torch.bool, device=rows.ids.device).tril()
    seen = seen & (rows.owners[:, :, None] == rows.owners[:, None, :])
    seen &= (rows.segments[:, None, :] == 0) | (rows.segments[:, :, None] == rows.segments[:, None, :])
    if window is not None:
        seen &= rows.positions[:, :, None] - rows.positions[:, None, :] < window
    hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
    return hidden[:, None]


def _block_mask(rows: Layout, window: int | None) -> Any:
    """The rule of `_additive` as a block mask of flex attention."""
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(b: Any, h: Any, q: Any, k: Any) -> Any:
        owner, segment, position = rows.owners[b], rows.segments[b], rows.positions[b]
        allowed = (k <= q) & (owner[q] == owner[k]) & ((segment[k] == 0) | (segment[q] == segment[k]))
        return allowed if window is None else allowed & (position[q] - position[k] < window)

    height, length = rows.ids.shape
    return create_block_mask(seen, height, None, length, length, device=str(rows.ids.device))


def _branch(
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    slots: int,
    prefix: int,
    keep_text: bool,
) -> JointStates:
    """The texts once, left-padded; then each tail from a cache of its own, filled with their keys and values."""
    from transformers import DynamicCache

    ids, mask = padded(texts, left=True)
    ids, mask = ids.to(lm.device), mask.to(lm.device)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    stack = decoder(lm.model)
    given = {"position_ids": positions} if "position_ids" in inspect.signature(stack.forward).parameters else {}
    result = stack(input_ids=ids, attention_mask=mask, past_key_values=DynamicCache(), use_cache=True, **given)
    lengths = mask.sum(1, keepdim=True)
    found = []
    for tail in tails:
        cache = DynamicCache()
        for layer, (keys, values, *_) in enumerate(result.past_key_values):
            cache.update(keys, values, layer)
        own = torch.tensor([list(tail)] * len(texts), device=ids.device)
        places = torch.arange(len(tail), device=ids.device)
        states = _run(
            lm,
            input_ids=own,
            attention_mask=torch.cat([mask, torch.ones_like(own)], 1),
            position_ids=lengths + places,
            past_key_values=cache,
            use_cache=True,
        )
        found.append(states[:, -slots:])
    hidden = result.last_hidden_state
    text, said = _text_states(hidden, ids, mask, prefix, keep_text)
    return JointStates(_stacked(found, hidden, len(texts), slots), text, said)


def _separate(
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    slots: int,
    prefix: int,
    keep_text: bool,
) -> JointStates:
    """A pass for each tail, right-padded: what follows a token changes nothing for it."""
    lengths = torch.tensor([len(text) for text in texts], device=lm.device)
    bare, bare_mask = (each.to(lm.device) for each in padded(texts))
    found = []
    text: torch.Tensor | None = None
    said = bare.new_zeros(0)
    for tail in tails or [()]:
        ids, mask = (each.to(lm.device) for each in padded([[*own, *tail] for own in texts]))
        hidden = _run(lm, input_ids=ids, attention_mask=mask)
        if tail:
            places = (lengths + len(tail) - slots)[:, None] + torch.arange(slots, device=lm.device)
            found.append(hidden.take_along_dim(places[..., None].to(hidden.device), 1))
        if keep_text and text is None:
            text, said = _text_states(hidden[:, : bare.shape[1]], bare, bare_mask, prefix, True)
    return JointStates(_stacked(found, hidden, len(texts), slots), text, said)


def _text_states(
    hidden: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, prefix: int, keep: bool
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """States in front of the text tokens of padded rows, and these tokens."""
    if not keep:
        return None, ids.new_zeros(0)
    ids, mask = ids.to(hidden.device), mask.to(hidden.device)
    place = mask.cumsum(1) * mask  # 1 for the first token of a row
    wanted = place[:, 1:] > max(1, prefix)
    return hidden[:, :-1][wanted], ids[:, 1:][wanted]


def _stacked(found: list[torch.Tensor], like: torch.Tensor, examples: int, slots: int) -> torch.Tensor:
    """Slot states of all tails, `[examples, tails, slots, D]`."""
    return torch.stack(found, 1) if found else like.new_zeros(examples, 0, slots, like.shape[-1])
