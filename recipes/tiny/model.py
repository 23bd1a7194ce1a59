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
ROPE_THETA = 100_000.0


@dataclass(frozen=True)
class Shape:
    """What a trial may change about the architecture."""

    hidden: int = 128
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    mlp: int = 384


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
    """Mimetic start: output rows = embeddings, queries like keys, outputs undo values; three heads start to copy.

    Two heads of the first layer attend one and two tokens back (a constant channel of the embeddings meets fast rotary
    pairs, turned by that many positions) and write what they see into two subspaces. Head 1-0 compares the current and
    the previous token of the query with the previous two of the key: an induction head that matches two tokens. No
    head starts with anything that knows of documents or questions.

    From a plain random start the same model is still at chance after several hundred steps of copying. With one token
    matched it copies after 150 steps where one token decides, but where two do it is still at one half after 500 (and
    then never tells apart documents about different countries); from this start it copies both after 150.
    """
    size, groups = shape.head_dim, shape.heads // shape.kv_heads
    half, undo = size // 2, 0.5 * shape.hidden / (shape.heads * size)
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(0, 1 / math.sqrt(shape.hidden))
    model.lm_head.weight.copy_(embeddings)
    for layer in model.model.layers:
        attention = layer.self_attn
        torch.nn.init.orthogonal_(attention.v_proj.weight)
        for head in range(shape.heads):
            rows, shared = _rows(head, size), _rows(head // groups, size)
            attention.o_proj.weight[:, rows] = attention.v_proj.weight[shared].T * undo
            attention.q_proj.weight[rows] = 0.8 * attention.q_proj.weight[rows] + 0.5 * attention.k_proj.weight[shared]
    embeddings[:, 0] = 0.7
    model.lm_head.weight[:, 0] = 0
    pair = torch.arange(half)
    turn = ROPE_THETA ** (-2 * pair / size)
    strength = 2 * torch.exp(-pair / 2)  # fast pairs tell neighbours apart
    first, second = (model.model.layers[i].self_attn for i in (0, 1))
    basis, _ = torch.linalg.qr(torch.randn(shape.hidden, 2 * size))
    seen = first.v_proj.weight[:size].clone()
    back = {}  # steps back -> directions that hold the token so many steps back
    for group in range(2):
        steps = group + 1
        keys, queries = _rows(group, size), _rows(group * groups, size)
        first.v_proj.weight[keys] = seen
        first.k_proj.weight[keys] *= 0.1
        first.q_proj.weight[queries] *= 0.1
        first.k_proj.weight[keys][:half, 0] = strength
        first.q_proj.weight[queries][:half, 0] = strength * torch.cos(steps * turn)
        first.q_proj.weight[queries][half:, 0] = -strength * torch.sin(steps * turn)
        back[steps] = basis[:, keys].T
        first.o_proj.weight[:, queries] = back[steps].T * 0.5
    second.k_proj.weight[:size] *= 0.1
    second.q_proj.weight[:size] *= 0.1
    slow = torch.arange(4, half)  # rotary pairs that turn little over a hundred tokens
    one, two = torch.randperm(size)[: 2 * len(slow)].chunk(2)
    second.q_proj.weight[slow] = 1.5 * seen[one]
    second.k_proj.weight[slow] = 1.5 * back[1][one]
    second.q_proj.weight[half + slow] = 3 * back[1][two]
    second.k_proj.weight[half + slow] = 1.5 * back[2][two]


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
    """AdamW in fp32."""

    def __init__(self, model: LlamaForCausalLM, rate: float, weight_decay: float = 0.01) -> None:
        """Switch the model to the training attention."""
        self.model, self.rate = model, rate
        model.set_attn_implementation(TRAINING_ATTENTION)
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=weight_decay, foreach=True
        )

    def step(self, batch: Batch, factor: float) -> float:
        """One update at `factor` times the peak rate; returns the loss before it."""
        loss, *_ = loss_and_hits(self.model, batch)
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
