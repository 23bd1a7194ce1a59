"""A two-layer model set by hand that answers needle cases: head `BEFORE` looks one token back, head `COPIER` looks
behind an earlier occurrence of the current token and says what stands there. All other heads are even and do nothing.

A statement is `k0 Answer: a0 a1 a2 a3 stop.`: the prompt ends in `Answer:`, so the copier starts at the answer.
"""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import headwater as hw
from headwater.data.needle import Needle

BEFORE, COPIER = (0, 1), (1, 2)
HAY = [f"h{i}" for i in range(16)] + [f"h{i}." for i in range(6)]
ANSWERS = [f"a{i}" for i in range(20)]
WORDS = ["<unk>", "<bos>", "Answer:", "stop.", *(f"k{i}" for i in range(5)), *ANSWERS, *HAY]
NEEDLES = [
    Needle(f"k{i} Answer: {' '.join(part)} stop.", f"k{i} what", " ".join(part), f"needle {i}")
    for i, part in enumerate(ANSWERS[start : start + 4] for start in range(0, 20, 4))
]
PARAGRAPHS = [" ".join(HAY[(7 * i + j * j) % 16] for j in range(9)) + f" h{i % 6}." for i in range(60)]
_SIZE = len(WORDS)
_HEAD = 128
_ANGLES = [10 ** (-0.21875 * i) for i in range(8)]  # the quickest rotary pairs of a base of 1e14


def copier_lm(family: str = "llama"):
    """The model: "llama" with two key/value heads for its four query heads and rotary positions, or "gpt2"."""
    with torch.no_grad():
        model = {"llama": _llama, "gpt2": _gpt2}[family]()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>")
    return hw.load(model=model.eval(), tokenizer=words)


def _matching() -> torch.Tensor:
    """`[head_dim, words]`: one direction per word but <unk> and <bos>, in the slowest rotary dimensions."""
    directions = torch.zeros(_HEAD, _SIZE)
    for word, place in zip(range(2, _SIZE), [*range(32, 64), *range(96, 128)], strict=False):
        directions[place, word] = 1.0
    return directions


def _llama():
    now, before, even = slice(0, _SIZE), slice(_SIZE, 2 * _SIZE), 2 * _SIZE
    config = LlamaConfig(
        vocab_size=_SIZE,
        hidden_size=2 * _SIZE + 2,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=_HEAD,
        rope_parameters={"rope_type": "default", "rope_theta": 1e14},
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    model.model.embed_tokens.weight[:, now] = torch.eye(_SIZE)
    model.model.embed_tokens.weight[:, even] = 1.0
    model.lm_head.weight[:, now] = torch.eye(_SIZE)

    def part(head: int) -> slice:
        return slice(head * _HEAD, (head + 1) * _HEAD)

    looks, head = model.model.layers[BEFORE[0]].self_attn, BEFORE[1]
    for pair, angle in enumerate(_ANGLES):  # queries turned back by one position
        looks.q_proj.weight[head * _HEAD + pair, even] = 4 * torch.cos(torch.tensor(angle))
        looks.q_proj.weight[head * _HEAD + 64 + pair, even] = -4 * torch.sin(torch.tensor(angle))
        looks.k_proj.weight[(head // 2) * _HEAD + pair, even] = 4
    looks.v_proj.weight[part(head // 2)][:_SIZE, now] = torch.eye(_SIZE)
    looks.o_proj.weight[before, part(head)] = torch.eye(_SIZE, _HEAD) / 8
    copies, head = model.model.layers[COPIER[0]].self_attn, COPIER[1]
    copies.q_proj.weight[part(head), now] = 10 * _matching()
    copies.k_proj.weight[part(head // 2), before] = _matching()
    copies.v_proj.weight[part(head // 2)][:_SIZE, now] = torch.eye(_SIZE)
    copies.o_proj.weight[now, part(head)] = torch.eye(_SIZE, _HEAD)
    return model


def _gpt2():
    width = 4 * _HEAD
    config = GPT2Config(
        vocab_size=_SIZE, n_embd=width, n_layer=2, n_head=4, n_positions=2048, bos_token_id=1, eos_token_id=None
    )
    model = GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():
        if "ln_" not in name:
            parameter.zero_()
    now, before, place = 0, 128, 256  # each beside its negative, so that layer norm subtracts nothing
    model.transformer.wte.weight[:, now : now + _SIZE] = torch.eye(_SIZE)
    model.transformer.wte.weight[:, now + 64 : now + 64 + _SIZE] = -torch.eye(_SIZE)
    positions, angles = torch.arange(2048)[:, None], torch.tensor(_ANGLES)
    waves = torch.cat([torch.cos(positions * angles), torch.sin(positions * angles)], 1)
    model.transformer.wpe.weight[:, place : place + 16] = waves
    model.transformer.wpe.weight[:, place + 16 : place + 32] = -waves

    def columns(kind: int, head: int) -> slice:
        return slice(kind * width + head * _HEAD, kind * width + (head + 1) * _HEAD)

    looks, head = model.transformer.h[BEFORE[0]].attn, BEFORE[1]
    query, key = torch.zeros(width, _HEAD), torch.zeros(width, _HEAD)
    for wave, angle in enumerate(angles):
        cos, sin = torch.cos(angle), torch.sin(angle)
        query[place + wave, wave], query[place + 8 + wave, wave] = 20 * cos, 20 * sin
        query[place + 8 + wave, 8 + wave], query[place + wave, 8 + wave] = 20 * cos, -20 * sin
        key[place + wave, wave] = key[place + 8 + wave, 8 + wave] = 1
    looks.c_attn.weight[:, columns(0, head)] = query
    looks.c_attn.weight[:, columns(1, head)] = key
    looks.c_attn.weight[now : now + _SIZE, columns(2, head)] = torch.eye(_SIZE, _HEAD)
    looks.c_proj.weight[head * _HEAD : (head + 1) * _HEAD, before : before + 64] = torch.eye(_HEAD, 64) / 5
    looks.c_proj.weight[head * _HEAD : (head + 1) * _HEAD, before + 64 : before + 128] = -torch.eye(_HEAD, 64) / 5
    copies, head = model.transformer.h[COPIER[0]].attn, COPIER[1]
    copies.c_attn.weight[now : now + _SIZE, columns(0, head)] = 20 * _matching().T
    copies.c_attn.weight[before : before + _SIZE, columns(1, head)] = _matching().T
    copies.c_attn.weight[now : now + _SIZE, columns(2, head)] = torch.eye(_SIZE, _HEAD)
    copies.c_proj.weight[head * _HEAD : (head + 1) * _HEAD, now : now + 64] = torch.eye(_HEAD, 64)
    copies.c_proj.weight[head * _HEAD : (head + 1) * _HEAD, now + 64 : now + 128] = -torch.eye(_HEAD, 64)
    return model
