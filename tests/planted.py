"""Models whose weights are set by hand so that one known head does one known thing.

`planted_lm(family)`: 3 layers x 4 heads over a vocabulary of words; head `PLANTED` attends from a word to earlier
occurrences of the same word and nothing else does anything: no layer writes to the residual stream, all other heads
attend by small random weights. A question that names a key word is answered by the document that holds that word.
"""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import headwater as hw

PLANTED = (1, 2)
WORDS = ["<unk>", "<bos>", *(f"w{i}" for i in range(62))]
KEYS = WORDS[2:32]
FILLERS = WORDS[32:]
_HEAD_DIM = 128
_SHARPNESS = 40.0


def word_tokenizer() -> PreTrainedTokenizerFast:
    """White-space words; whatever is not a word of the vocabulary is one unknown token."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>")


def planted_lm(family: str = "llama"):
    """The planted model; "llama" has two key/value heads for its four query heads and rotary positions, "gpt2" not."""
    torch.manual_seed(0)
    build = {"llama": _planted_llama, "gpt2": _planted_gpt2}[family]
    with torch.no_grad():
        return hw.load(model=build().eval(), tokenizer=word_tokenizer())


def _matching() -> torch.Tensor:
    """`[head_dim, words]`: one direction per word, none for <unk> and <bos>, in the slowest rotary dimensions."""
    slow = [*range(_HEAD_DIM // 4, _HEAD_DIM // 2), *range(3 * _HEAD_DIM // 4, _HEAD_DIM)]
    directions = torch.zeros(_HEAD_DIM, len(WORDS))
    for word, place in zip(range(2, len(WORDS)), slow, strict=False):
        directions[place, word] = 1.0
    return directions


def _planted_llama():
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=len(WORDS),
        intermediate_size=8,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=_HEAD_DIM,
        rope_parameters={"rope_type": "default", "rope_theta": 1e14},
    )
    model = LlamaForCausalLM(config)
    model.model.embed_tokens.weight.copy_(torch.eye(len(WORDS)))
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    layer, head = PLANTED
    attention = model.model.layers[layer].self_attn
    attention.q_proj.weight[head * _HEAD_DIM : (head + 1) * _HEAD_DIM] = _SHARPNESS * _matching()
    attention.k_proj.weight[(head // 2) * _HEAD_DIM : (head // 2 + 1) * _HEAD_DIM] = _matching()
    return model


def _planted_gpt2():
    width = 4 * _HEAD_DIM
    config = GPT2Config(
        vocab_size=len(WORDS), n_embd=width, n_layer=3, n_head=4, n_positions=2048, bos_token_id=1, eos_token_id=1
    )
    model = GPT2LMHeadModel(config)
    model.transformer.wpe.weight.zero_()
    model.transformer.wte.weight.copy_(torch.eye(len(WORDS), width))
    for block in model.transformer.h:
        block.attn.c_proj.weight.zero_()
        block.mlp.c_proj.weight.zero_()
    layer, head = PLANTED
    weight = model.transformer.h[layer].attn.c_attn.weight  # Conv1D: [in, 3 * out]
    matching = torch.zeros(width, _HEAD_DIM)
    matching[: len(WORDS)] = _matching().T
    query, key = head * _HEAD_DIM, width + head * _HEAD_DIM
    weight[:, query : query + _HEAD_DIM] = matching / 4
    weight[:, key : key + _HEAD_DIM] = matching / 4
    return model


def planted_examples(n: int = 24, documents: int = 8, seed: int = 0, *, shuffled_labels: bool = False):
    """Queries that name a key word; each document holds another key word among fillers that all may share."""
    draw = random.Random(seed)
    examples = []
    for number in range(n):
        keys = draw.sample(KEYS, documents)
        texts = [" ".join(draw.sample([key, *draw.choices(FILLERS, k=6)], 7)) for key in keys]
        gold = draw.randrange(documents)
        label = (gold + draw.randrange(1, documents)) % documents if shuffled_labels else gold
        examples.append(hw.RankingExample(f"{keys[gold]}", texts, [label], id=str(number)))
    return examples
