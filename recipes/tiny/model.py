"""The architecture of the embedded model, batches of packs, and a training step in bfloat16 with fp32 master weights.

A batch is laid out as `[prefix | tail 1 | .. | tail R]`, prefixes and tails each padded to one width, so that attention
costs prefix x prefix / 2 + tails x (prefix + tail) instead of the square of everything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from recipes.tiny.prompts import Pack

IGNORE = -100
TRAINING_ATTENTION = "headwater_tiny_training"
ROPE_THETA = 500_000.0
SHORT = 256  # up to here plain bfloat16 products beat the CPU's fused kernel


@dataclass(frozen=True)
class Shape:
    """What a trial may change about the architecture."""

    hidden: int = 128
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    mlp: int = 320


def build(shape: Shape, vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A new model whose weights start near what copying needs (`plant`); everything is trained from there."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, 1 / math.sqrt(weight.shape[1]))
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.mul_(0.25)
        plant(model, shape)
    return model


def plant(model: LlamaForCausalLM, shape: Shape) -> None:
    """Mimetic start: output rows = embeddings, queries like keys, outputs undo values; one head each to copy with.

    Head 0-0 starts as a previous-token head (a constant channel of the embeddings meets fast rotary pairs, turned by
    one position) and writes into directions that head 1-0 compares with the current token. From a plain random start
    the same model is still at chance after several hundred steps of copying; from this one it copies after about 150.
    """
    size, groups = shape.head_dim, shape.heads // shape.kv_heads
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(0, 1 / math.sqrt(shape.hidden))
    model.lm_head.weight.copy_(embeddings)
    for layer in model.model.layers:
        attention = layer.self_attn
        torch.nn.init.orthogonal_(attention.v_proj.weight)
        for head in range(shape.heads):
            rows, shared = _rows(head, size), _rows(head // groups, size)
            attention.o_proj.weight[:, rows] = attention.v_proj.weight[shared].T * 0.5
            attention.q_proj.weight[rows] = 0.8 * attention.q_proj.weight[rows] + 0.5 * attention.k_proj.weight[shared]
    embeddings[:, 0] = 0.7
    model.lm_head.weight[:, 0] = 0
    pair = torch.arange(size // 2)
    turn = ROPE_THETA ** (-2 * pair / size)
    strength = 2 * torch.exp(-pair / 2)  # fast pairs tell neighbours apart
    first, second = (model.model.layers[i].self_attn for i in (0, 1))
    first.k_proj.weight[:size] *= 0.1
    first.q_proj.weight[:size] *= 0.1
    first.k_proj.weight[: size // 2, 0] = strength
    first.q_proj.weight[: size // 2, 0] = strength * torch.cos(turn)
    first.q_proj.weight[size // 2 : size, 0] = -strength * torch.sin(turn)
    directions, _ = torch.linalg.qr(torch.randn(shape.hidden, size))
    first.o_proj.weight[:, :size] = directions * 0.5
    second.k_proj.weight[:size] = directions.T * 1.5
    second.q_proj.weight[:size] = first.v_proj.weight[:size] * 1.5


def _rows(head: int, size: int) -> slice:
    return slice(head * size, (head + 1) * size)


def training_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **call: Any
) -> tuple[Tensor, None]:
    """Attention `[batch, head, query, key]` for training on a CPU.

    Prefix tokens attend causally; tail tokens attend to the prefix and to their own tail. `call["layout"]` holds prefix
    width, number of tails and tail width; `call["hidden"]` is added to the scores of the prefix and hides its padding.
    """
    width, count, length = call["layout"]
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    if width <= SHORT:
        causal = torch.full((width, width), -1e4, dtype=query.dtype).triu(1)
        scores = query[:, :, :width] @ key[:, :, :width].transpose(-1, -2) * scaling + causal
        out = torch.softmax(scores, -1) @ value[:, :, :width]
    else:
        q, k, v = (t[:, :, :width].float() for t in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling).to(query.dtype)
    if count:
        batch, heads, _, size = query.shape
        q, k, v = (t[:, :, width:].reshape(batch, heads, count, length, size) for t in (query, key, value))
        flat = q.reshape(batch, heads, count * length, size)
        far = flat @ key[:, :, :width].transpose(-1, -2) * scaling + call["hidden"]
        causal = torch.full((length, length), -1e4, dtype=query.dtype).triu(1)
        near = (q @ k.transpose(-1, -2) * scaling + causal).reshape(batch, heads, count * length, length)
        weights = torch.softmax(torch.cat((far, near), -1), -1)
        far, near = weights.split((width, length), -1)
        tails = far @ value[:, :, :width]
        own = near.reshape(batch, heads, count, length, length) @ v
        out = torch.cat((out, tails + own.reshape(batch, heads, count * length, size)), 2)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(TRAINING_ATTENTION, training_attention)


@dataclass
class Batch:
    """Ids, labels (already shifted: the label of a position is the token after it), positions, and the layout.

    `hidden` is 0 for real prefix tokens and -1e4 for padding, `[batch, 1, 1, prefix]`.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    layout: tuple[int, int, int]
    hidden: Tensor


def collate(packs: list[Pack]) -> Batch:
    """Pad prefixes to one width and tails to another; a tail continues the positions of its prefix."""
    width = max(len(pack.prefix) for pack in packs)
    count = max(len(pack.tails) for pack in packs)
    length = max(len(tail) for pack in packs for tail in pack.tails)
    ids = torch.zeros(len(packs), width + count * length, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE)
    positions = torch.zeros_like(ids)
    hidden = torch.full((len(packs), 1, 1, width), -1e4)
    for row, pack in enumerate(packs):
        start = len(pack.prefix)
        ids[row, :start] = torch.tensor(pack.prefix)
        positions[row, :start] = torch.arange(start)
        hidden[row, :, :, :start] = 0
        for index, (tail, learned) in enumerate(zip(pack.tails, pack.answers, strict=True)):
            place = width + index * length
            end = place + len(tail)
            ids[row, place:end] = torch.tensor(tail)
            positions[row, place:end] = torch.arange(start, start + len(tail))
            labels[row, end - learned - 1 : end - 1] = ids[row, end - learned : end]
    return Batch(ids, labels, positions, (width, count, length), hidden)


def periodic(blocks: list[Tensor], width: int) -> Batch:
    """Blocks repeated to fill rows of one width; learned is what the first copy and one more token allow to know."""
    ids = torch.stack([block.repeat(width // len(block) + 1)[:width] for block in blocks])
    labels = torch.full_like(ids, IGNORE)
    for row, block in enumerate(blocks):
        labels[row, len(block) : -1] = ids[row, len(block) + 1 :]
    return Batch(ids, labels, torch.arange(width).expand_as(ids), (width, 0, 0), torch.zeros(len(ids), 1, 1, width))


def loss_and_hits(model: LlamaForCausalLM, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean cross-entropy; per learned position whether the top token is right, its row and its column.

    The output matrix is multiplied only where something is learned.
    """
    hidden = model.model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        use_cache=False,
        layout=batch.layout,
        hidden=batch.hidden.to(model.dtype),
    ).last_hidden_state
    rows, columns = torch.nonzero(batch.labels != IGNORE, as_tuple=True)
    logits = model.lm_head(hidden[rows, columns]).float()
    wanted = batch.labels[rows, columns]
    return F.cross_entropy(logits, wanted), logits.argmax(-1) == wanted, rows, columns


class Trainer:
    """AdamW on fp32 copies of the weights; the model itself computes in bfloat16."""

    def __init__(self, model: LlamaForCausalLM, rate: float, weight_decay: float = 0.01) -> None:
        """Copy the weights; the model is switched to bfloat16 and to the training attention."""
        self.masters = [p.detach().float().clone().requires_grad_() for p in model.parameters()]
        self.model = model.bfloat16()
        self.model.set_attn_implementation(TRAINING_ATTENTION)
        self.rate = rate
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=weight_decay, foreach=True
        )

    def step(self, batches: list[Batch], factor: float) -> list[float]:
        """One update from one or more batches of equal weight; returns their losses."""
        losses = []
        for batch in batches:
            loss, *_ = loss_and_hits(self.model, batch)
            (loss / len(batches)).backward()
            losses.append(loss.item())
        for master, weight in zip(self.masters, self.model.parameters(), strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        self.optimizer.step()
        with torch.no_grad():
            for master, weight in zip(self.masters, self.model.parameters(), strict=True):
                weight.copy_(master)
        return losses

    def state(self) -> dict[str, Any]:
        """Everything needed to go on: masters and optimizer state."""
        return {"masters": self.masters, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        with torch.no_grad():
            for master, weight, saved in zip(self.masters, self.model.parameters(), state["masters"], strict=True):
                master.copy_(saved)
                weight.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
