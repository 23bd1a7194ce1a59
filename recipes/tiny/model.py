"""The architecture of the embedded model, batches of packs, and a training step.

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
ROPE_THETA = 1e8
LOOK_BACK = ((1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (8, 2.5), (6, 3.0))  # of heads 0-0 to 0-7: tokens, width
# Per layer and key-value group, the two places its keys hold and those each of its queries looks for: 0 is the token
# itself, 1 to 6 the token so many steps back, 7 and 8 the two windows.
MATCH = {
    1: (
        ((1, 2), ((0, 1), (1, 2))),
        ((2, 3), ((1, 2), (2, 3))),
        ((5, 6), ((4, 5), (5, 6))),
        ((7, 8), ((7, 8), (7, 8))),
    ),
    2: (
        ((7, 8), ((7, 8), (8, 8))),
        ((7, 8), ((7, 8), (7, 7))),
        ((5, 8), ((4, 8), (6, 8))),
        ((3, 7), ((3, 7), (4, 7))),
    ),
}
FAST, SLOW = 4, 6  # rotary pairs below tell near places apart; from here on they hardly turn over a thousand tokens
NOTCH = (3.0, 2.0, 1.2, 0.7)  # per fast pair: how strongly heads that compare windows turn away from near tokens
INDUCTION = (0, 2, 4)  # heads of layer 1 whose queries look one place nearer than their keys


@dataclass(frozen=True)
class Shape:
    """What a trial may change about the architecture."""

    hidden: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    mlp: int = 256


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
                    weight.mul_(0.1)
        plant(model, shape)
    return model


def plant(model: LlamaForCausalLM, shape: Shape) -> None:
    """A start that copies: heads that look back, heads that match what those brought, outputs that undo values.

    Every head of the first layer attends a place before the current token (a constant channel of the embeddings meets
    rotary pairs turned by that distance) and writes a code of the token it sees into a subspace of its own. Heads of
    the second and third layers compare two such places of the query with two of the key (`MATCH`), each place in rotary
    pairs that turn little over a hundred tokens. Windows of near tokens are alike, so heads that compare windows turn
    away from the last ten tokens or so (`NOTCH`). Three heads of the second layer hold the key's places one step
    further back than the query's, so that they attend the token that followed the same two tokens before: induction
    heads. The output matrix is the embeddings turned by a random rotation, and outputs of heads undo values into that
    rotation. No head starts with anything that knows of documents or questions.

    From a plain random start the same model is still at chance after several hundred steps of copying; this one copies
    a third of repeated random blocks of 7 tokens before any training, a tenth of those of 80. One matched token would
    copy blocks as well, but never tell documents about different countries apart (docs/results/tiny.md).
    """
    size, groups = shape.head_dim, shape.heads // shape.kv_heads
    half, places = size // 2, shape.heads * size
    if places > shape.hidden:
        raise ValueError(f"{shape.heads} heads of {size} need a hidden size of {places} at least, not {shape.hidden}")
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(0, 1 / math.sqrt(shape.hidden))
    turned, _ = torch.linalg.qr(torch.randn(shape.hidden, shape.hidden))
    model.lm_head.weight.copy_(embeddings @ turned.T)
    model.lm_head.weight[:, 0] = 0
    embeddings[:, 0] = 0.7
    embeddings *= 2.5
    undo = 3 * shape.hidden / places
    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        torch.nn.init.orthogonal_(attention.v_proj.weight)
        attention.v_proj.weight[:, 0] = 0
        for head in range(shape.heads):
            share = (1 if head in INDUCTION else 0.1) if index == 1 else 0.05
            values = attention.v_proj.weight[_rows(head // groups, size)]
            attention.o_proj.weight[:, _rows(head, size)] = turned @ values.T * (undo * share)

    first = model.model.layers[0].self_attn
    pair = torch.arange(half).float()
    turn = ROPE_THETA ** (-2 * pair / size)
    basis, _ = torch.linalg.qr(torch.randn(shape.hidden, places))
    code = torch.linalg.qr(torch.randn(shape.hidden, size))[0].T.clone()
    code[:, 0] = 0
    seen = [code]  # place -> directions that hold its token
    for head, (back, width) in enumerate(LOOK_BACK):
        rows, shared = _rows(head, size), _rows(head // groups, size)
        strength = 2.8 * torch.exp(-pair / 2)  # fast pairs tell neighbours apart
        if width:
            strength = 3.1 * torch.exp(-((turn * width - 0.6) ** 2) / 0.2)
        first.v_proj.weight[shared] = code
        if head % groups == 0:
            first.k_proj.weight[shared] *= 0.1
        first.k_proj.weight[shared][:half, 0] = 1.2
        first.q_proj.weight[rows] *= 0.1
        first.q_proj.weight[rows][:half, 0] = strength * torch.cos(back * turn)
        first.q_proj.weight[rows][half:, 0] = -strength * torch.sin(back * turn)
        seen.append(basis[:, rows].T)
        first.o_proj.weight[:, rows] = 0.25 * basis[:, rows]

    slow = torch.arange(SLOW, half)
    for index, groups_matched in MATCH.items():
        if index >= shape.layers:
            continue
        attention = model.model.layers[index].self_attn
        for group, (keys, queries) in enumerate(groups_matched):
            shared, parts = _rows(group, size), torch.randperm(size)[: 2 * len(slow)].chunk(2)
            attention.k_proj.weight[shared] *= 0.1
            for offset, place, part in zip((0, half), keys, parts, strict=True):
                attention.k_proj.weight[shared][offset + slow] = 2.5 * seen[place][part]
            for member, wanted in enumerate(queries):
                rows = _rows(group * groups + member, size)
                attention.q_proj.weight[rows] *= 0.1
                for offset, place, part in zip((0, half), wanted, parts, strict=True):
                    attention.q_proj.weight[rows][offset + slow] = (2.5 if place else 5.0) * seen[place][part]
                if max(keys) > 6:  # windows of near tokens are alike: turn away from them
                    attention.k_proj.weight[shared][:FAST, 0] = 0.3
                    attention.q_proj.weight[rows][:FAST, 0] = -torch.tensor(NOTCH)


def _rows(head: int, size: int) -> slice:
    return slice(head * size, (head + 1) * size)


def training_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **call: Any
) -> tuple[Tensor, None]:
    """Attention `[batch, head, query, key]` for training on a CPU.

    Prefix tokens attend causally; tail tokens attend to the prefix and to their own tail. `call["layout"]` holds prefix
    width, number of tails and tail width; `call["visible"]` is added to the scores of the tail tokens (see `Batch`).
    """
    width, count, _ = call["layout"]
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    q, k, v = (t[:, :, :width] for t in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    if count:
        tails = F.scaled_dot_product_attention(
            query[:, :, width:], key, value, attn_mask=call["visible"], scale=scaling
        )
        out = torch.cat((out, tails), 2)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(TRAINING_ATTENTION, training_attention)


@dataclass
class Batch:
    """Ids, labels (already shifted: the label of a position is the token after it), positions, and the layout.

    `visible` is 0 where a tail token may look (real prefix tokens, itself and what precedes it in its tail) and -1e4
    elsewhere, `[batch, 1, tails x tail, prefix + tails x tail]`; empty where there are no tails.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    layout: tuple[int, int, int]
    visible: Tensor


def collate(packs: list[Pack]) -> Batch:
    """Pad prefixes to one width and tails to another; a tail continues the positions of its prefix."""
    width = max(len(pack.prefix) for pack in packs)
    count = max(len(pack.tails) for pack in packs)
    length = max(len(tail) for pack in packs for tail in pack.tails)
    ids = torch.zeros(len(packs), width + count * length, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE)
    positions = torch.zeros_like(ids)
    owner, order = torch.arange(count).repeat_interleave(length), torch.arange(length).repeat(count)
    visible = torch.full((len(packs), 1, count * length, ids.shape[1]), -1e4)
    visible[..., width:][..., (owner[:, None] == owner) & (order[:, None] >= order)] = 0
    for row, pack in enumerate(packs):
        start = len(pack.prefix)
        ids[row, :start] = torch.tensor(pack.prefix)
        positions[row, :start] = torch.arange(start)
        visible[row, :, :, :start] = 0
        for index, (tail, learned) in enumerate(zip(pack.tails, pack.answers, strict=True)):
            place = width + index * length
            end = place + len(tail)
            ids[row, place:end] = torch.tensor(tail)
            positions[row, place:end] = torch.arange(start, start + len(tail))
            labels[row, end - learned - 1 : end - 1] = ids[row, end - learned : end]
    return Batch(ids, labels, positions, (width, count, length), visible)


def periodic(blocks: list[Tensor], width: int) -> Batch:
    """Blocks repeated to fill rows of one width; learned is what the first copy and one more token allow to know."""
    ids = torch.stack([block.repeat(width // len(block) + 1)[:width] for block in blocks])
    labels = torch.full_like(ids, IGNORE)
    for row, block in enumerate(blocks):
        labels[row, len(block) : -1] = ids[row, len(block) + 1 :]
    return Batch(ids, labels, torch.arange(width).expand_as(ids), (width, 0, 0), torch.empty(0))


def loss_and_hits(model: LlamaForCausalLM, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean cross-entropy; per learned position whether the top token is right, its row and its column.

    The output matrix is multiplied only where something is learned.
    """
    hidden = model.model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        use_cache=False,
        layout=batch.layout,
        visible=batch.visible,
    ).last_hidden_state
    rows, columns = torch.nonzero(batch.labels != IGNORE, as_tuple=True)
    logits = model.lm_head(hidden[rows, columns])
    wanted = batch.labels[rows, columns]
    return F.cross_entropy(logits, wanted), logits.argmax(-1) == wanted, rows, columns


class Trainer:
    """AdamW in fp32, on batches of packs."""

    attention: str | None = TRAINING_ATTENTION  # that the model is switched to; None leaves it as it is

    def __init__(self, model: Any, rate: float, weight_decay: float = 0.01) -> None:
        """Take the model's parameters."""
        self.model, self.rate = model, rate
        if self.attention is not None:
            model.set_attn_implementation(self.attention)
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=weight_decay, foreach=True
        )

    def loss(self, batch: Any) -> Tensor:
        """Mean cross-entropy of what a batch learns."""
        return loss_and_hits(self.model, batch)[0]

    def step(self, batch: Any, factor: float) -> float:
        """One update at `factor` times the peak rate; returns the loss before it."""
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on: weights under their names, optimizer state as ``optimizer/<kind>/<name>``."""
        named = dict(self.model.named_parameters())
        moments = {
            f"optimizer/{kind}/{name}": value
            for name, weight in named.items()
            for kind, value in self.optimizer.state[weight].items()
        }
        return {name: tensor.detach().clone() for name, tensor in {**named, **moments}.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        for name, weight in self.model.named_parameters():
            weight.data.copy_(state[name])
        named = dict(self.model.named_parameters())
        for key, value in state.items():
            if key.startswith("optimizer/"):
                _, kind, name = key.split("/", 2)
                self.optimizer.state[named[name]][kind] = value
