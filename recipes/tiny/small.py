"""Small models of three architectures that begin alike: able to copy, each with its own way to tell places apart.

At the start the residual stream is divided: tokens, three *places* that heads of the first layer fill with a short code
of what they attend, and spare channels. Place 1 holds the last token, place 2 the one before it, place 3 several around
the fourth. Which token that is, Llama tells by rotary pairs, GPT-2 by position embeddings that begin as sines; BLOOM
cannot look at one distance, so its places hold averages of the last tokens, over 2, 4 and 8 of them or so, as its
three steepest slopes give them. From there on everything is trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.tiny.model import NOTCH, ROPE_THETA, SLOW

CONTEXT = 1024
LAYERS, HEADS = 4, 8
BACK = (1, 2, 4)  # how far heads 0-0, 0-1 and 0-2 look; the last one sees a window
INDUCTION = (4, 5, 6, 7)  # heads of layer 1 that attend what followed the same two tokens before
SLOPES = tuple(2.0 ** -(head + 1) for head in range(HEADS))  # ALiBi, of eight heads
WAVES = 2.2 ** (1 - torch.arange(8.0))  # radians per token of GPT-2's position embeddings
SHARP = 14.0  # attention logit of a match


@dataclass(frozen=True)
class Layout:
    """How the channels of the residual stream are dealt out at the start: tokens, three places, spare ones."""

    hidden: int
    code: int
    spare: int

    @property
    def tokens(self) -> int:
        """Channels of the token itself, the first ones."""
        return self.hidden - 3 * self.code - self.spare

    def place(self, number: int) -> slice:
        """Channels of place 1, 2 or 3."""
        start = self.tokens + (number - 1) * self.code
        return slice(start, start + self.code)

    @property
    def rest(self) -> int:
        """The first spare channel."""
        return self.hidden - self.spare


# BLOOM's feed-forward layers are four times as wide as the stream, whatever one wants.
LAYOUTS = {"llama": Layout(128, 16, 16), "gpt2": Layout(128, 16, 16), "bloom": Layout(112, 14, 0)}


def empty(architecture: str, vocabulary: int) -> Any:
    """A model of the architecture with the weights that transformers gives it; at most a million parameters."""
    hidden = LAYOUTS[architecture].hidden
    common: dict[str, Any] = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    common["tie_word_embeddings"] = False
    if architecture == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=hidden,
                intermediate_size=192,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=HEADS // 2,
                head_dim=32,
                max_position_embeddings=CONTEXT,
                rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
                **common,
            )
        )
    if architecture == "gpt2":
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        shape = {"n_positions": CONTEXT, "n_embd": hidden, "n_layer": LAYERS, "n_head": HEADS, "n_inner": 256}
        return GPT2LMHeadModel(GPT2Config(**shape, **still, **common))
    return BloomForCausalLM(BloomConfig(hidden_size=hidden, n_layer=LAYERS, n_head=HEADS, seq_length=CONTEXT, **common))


@dataclass(frozen=True)
class HeadWeights:
    """Views of the weights of one head: query, key and value `[size, hidden]`, output `[hidden, size]`."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


def head_weights(model: Any, layer: int, head: int) -> HeadWeights:
    """The weights of a head, wherever the architecture keeps them; keys and values may be shared (Llama)."""
    config = model.config
    if config.model_type == "llama":
        attention, size = model.model.layers[layer].self_attn, config.head_dim
        own, shared = _rows(head, size), _rows(head * config.num_key_value_heads // HEADS, size)
        query, key, value, output = (
            projection.weight.detach()
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        )
        return HeadWeights(query[own], key[shared], value[shared], output[:, own])
    size = config.hidden_size // HEADS
    if config.model_type == "gpt2":
        attention = model.transformer.h[layer].attn
        parts = attention.c_attn.weight.detach().T.view(3, HEADS, size, -1)[:, head]
        return HeadWeights(parts[0], parts[1], parts[2], attention.c_proj.weight.detach().T[:, _rows(head, size)])
    attention = model.transformer.h[layer].self_attention
    parts = attention.query_key_value.weight.detach().view(HEADS, 3, size, -1)[head]
    return HeadWeights(parts[0], parts[1], parts[2], attention.dense.weight.detach()[:, _rows(head, size)])


def build(architecture: str, vocabulary: int, seed: int) -> Any:
    """A new model whose weights start near what copying needs."""
    torch.manual_seed(seed)
    model, layout = empty(architecture, vocabulary), LAYOUTS[architecture]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                turned = architecture == "gpt2" and ".h." in name  # its matrices are [input, output]
                weight.normal_(0, 1 / math.sqrt(weight.shape[0 if turned else 1]))
                if name.endswith(("o_proj.weight", "down_proj.weight", "c_proj.weight", "dense.weight", "to_h.weight")):
                    weight.mul_(0.1)
        _Start(model, layout).plant()
    return model


class _Start:
    """Sets the first weights; every method follows the module's docstring."""

    def __init__(self, model: Any, layout: Layout) -> None:
        self.model, self.layout, self.family = model, layout, model.config.model_type
        tokens = layout.tokens
        self.turned = torch.linalg.qr(torch.randn(tokens, tokens))[0]  # from a token to the channels that predict it
        self.code = torch.linalg.qr(torch.randn(tokens, layout.code))[0].T
        self.waves = layout.rest + torch.arange(8)  # channels of the cosines, those of the sines follow

    def head(self, layer: int, head: int) -> HeadWeights:
        return head_weights(self.model, layer, head)

    def plant(self) -> None:
        """Embeddings, output matrix, values that outputs undo; then the heads that look back and those that match."""
        layout, tokens = self.layout, self.layout.tokens
        embeddings = self.model.get_input_embeddings().weight
        embeddings.zero_()
        directions = torch.nn.functional.normalize(torch.randn(len(embeddings), tokens))
        embeddings[:, :tokens] = math.sqrt(tokens) * directions  # of one length, or norms would shift every logit
        output = self.model.get_output_embeddings().weight
        output.mul_(0.1)
        output[:, :tokens] = 1.5 * embeddings[:, :tokens] @ self.turned.T / math.sqrt(tokens)
        if self.family == "llama":
            embeddings[:, layout.rest] = 2.0
        elif self.family == "gpt2":
            angles = torch.arange(CONTEXT)[:, None] * WAVES
            positions = self.model.transformer.wpe.weight.zero_()
            positions[:, self.waves], positions[:, self.waves + 8] = angles.cos(), angles.sin()
        for layer in range(LAYERS):
            for head in range(HEADS):
                weights = self.head(layer, head)
                size = len(weights.value)
                if self.family != "llama" or head % 2 == 0:
                    weights.value.zero_()[:, :tokens] = torch.linalg.qr(torch.randn(tokens, size))[0].T
                weights.output[:tokens] = 0.05 * self.turned @ weights.value[:, :tokens].T
        for head, back in enumerate(BACK):
            self._look_back(head, back, window=back == BACK[-1])
        for head in range(HEADS):
            if head in INDUCTION:
                self._induction(head)
            elif self.family != "bloom":
                self._same_fact(head)

    def _look_back(self, head: int, back: int, window: bool) -> None:
        """Head 0-`head` attends the token so far back (BLOOM: the last ones) and writes its code into a place."""
        weights, code = self.head(0, head), self.layout.code
        weights.value.zero_()[:code, : self.layout.tokens] = self.code
        weights.output[:, :code] = 0
        weights.output[self.layout.place(head + 1), :code] = (2 if window else 1) * torch.eye(code)
        weights.query.mul_(0.05)
        weights.key.mul_(0.05)
        if self.family == "bloom":
            weights.output.mul_((2.0, 2.9, 2.0)[head])
        elif self.family == "gpt2":
            strength = torch.tensor((0, 0, 2, 2.6, 3.5, 3.5, 3.5, 3.5)) if window else torch.full((8,), 2.6)
            self._waves(weights, torch.arange(8), strength, 2.6, back)
        else:
            turn, pairs = self._turn(), torch.arange(16)
            strength = 3.2 * torch.exp(-pairs / 2)
            if window:
                strength = 1.2 * torch.exp(-((turn * 2.5 - 0.4) ** 2) / 0.5)
            weights.key[:16, self.layout.rest] = 4.0
            weights.query[:16, self.layout.rest] = strength * torch.cos(back * turn)
            weights.query[16:, self.layout.rest] = -strength * torch.sin(back * turn)

    def _induction(self, head: int) -> None:
        """Head 1-`head` attends what stood after the same tokens before, and predicts it."""
        weights, layout = self.head(1, head), self.layout
        size, tokens = len(weights.value), layout.tokens
        if self.family == "bloom":
            self._after_the_same(weights, both=head % 2 == 1)
        else:
            later = self.family == "llama" and head % 2 == 1  # shares its keys with the head before it
            self._match(weights, head, keys=(1, 2), queries=(1, 2) if later else (0, 1))
            if later:
                return
        first = size * ((head - INDUCTION[0]) // (2 if self.family == "llama" else 1))
        weights.value.zero_()[:, first : first + size] = torch.eye(size)
        weights.output.zero_()[:tokens] = 3 * self.turned[:, first : first + size]

    def _same_fact(self, head: int) -> None:
        """Head 1-`head` looks for another place after the same token and among the same words, not for a near one."""
        weights = self.head(1, head)
        self._match(weights, head, keys=(2, 3), queries=(1 if head % 2 else 2, 3))
        if self.family == "gpt2":
            self._waves(weights, torch.tensor((1, 3, 4)), torch.full((3,), -2.7), 2.7, 0)
        else:
            weights.key[: len(NOTCH), self.layout.rest] = 2.0
            weights.query[: len(NOTCH), self.layout.rest] = -1.65 * torch.tensor(NOTCH)
        weights.output.mul_(6)

    def _match(self, weights: HeadWeights, head: int, keys: tuple[int, int], queries: tuple[int, int]) -> None:
        """Keys hold two places, queries look for two: half of the free rows for each."""
        size, code = len(weights.query), self.layout.code
        if self.family == "llama":
            slow = torch.arange(SLOW, size // 2)
            halves = [slow, size // 2 + slow]
        else:
            halves = list(torch.arange(10 if 3 in keys else 16).chunk(2))
        weights.query.mul_(0.1)
        weights.key.mul_(0.1)
        gain = math.sqrt(SHARP * math.sqrt(size) / (1.1 * 2 * len(halves[0])))
        for rows, key, query in zip(halves, keys, queries, strict=True):
            part = (3 * torch.arange(len(rows)) + 5 * key + 4 * (head // 2)) % code  # the same on both sides
            weights.key[rows] += gain * self._seen(key)[part]
            weights.query[rows] += gain * self._seen(query)[part]

    def _after_the_same(self, weights: HeadWeights, both: bool) -> None:
        """BLOOM: keys hold the tokens before (the average without the token itself), queries the last ones."""
        weights.query.mul_(0.1)
        weights.key.mul_(0.1)
        code = self.layout.code
        for place, gain, slope in ((1, 2.0, SLOPES[0]), (2, 2.9, SLOPES[1])):
            if place == 2 and not both:
                continue
            rows = torch.arange(code)[place - 1 :: 2] if both else torch.arange(code)
            own = gain * (1 - math.exp(-slope)) * self._seen(0)
            weights.key[rows] += 2.5 * (self._seen(place) - own)[rows]
            weights.query[rows] += 2.5 * self._seen(place)[rows]

    def _seen(self, place: int) -> Tensor:
        """Reads the code of a place out of the stream, `[code, hidden]`; place 0 is the token itself."""
        read = torch.zeros(self.layout.code, self.layout.hidden)
        if place == 0:
            read[:, : self.layout.tokens] = self.code
        else:
            read[:, self.layout.place(place)] = torch.eye(self.layout.code)
        return read

    def _waves(self, weights: HeadWeights, which: Tensor, query: Tensor, key: float, back: int) -> None:
        """GPT-2: a logit of query x key x cos(wave x (distance - back)) per wave, in the last rows of the head."""
        count = len(which)
        cosines = torch.arange(len(weights.query) - 2 * count, len(weights.query) - count)
        sines, angle = cosines + count, back * WAVES[which]
        cosine, sine = self.waves[which], self.waves[which] + 8
        for rows in (cosines, sines):
            weights.query[rows] *= 0.05
            weights.key[rows] *= 0.05
        weights.key[cosines, cosine] = weights.key[sines, sine] = key
        weights.query[cosines, cosine] = weights.query[sines, sine] = query * angle.cos()
        weights.query[cosines, sine] = query * angle.sin()
        weights.query[sines, cosine] = -query * angle.sin()

    @staticmethod
    def _turn() -> Tensor:
        """Radians per token of Llama's rotary pairs."""
        return ROPE_THETA ** (-torch.arange(16) / 16)


def _rows(head: int, size: int) -> slice:
    return slice(head * size, (head + 1) * size)
