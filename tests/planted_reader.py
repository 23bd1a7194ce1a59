"""A model set by hand in which one known head reads: it copies the value word of the context, all others do nothing.

2 layers x 4 heads over words; `READER` attends from every position to value words (`v0` ...) and writes the word it
finds into a part of the stream of its own, from which the output layer reads the next token. After a value word, and
where nothing was copied, the model stops: without the head it says nothing.
"""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import headwater as hw
from headwater.evaluate.tasks.reading import ReadingTask
from headwater.evaluate.tasks.task import ReadingItem

READER = (1, 2)
VALUES = [f"v{i}" for i in range(10)]
FILLERS = [f"w{i}" for i in range(17)]
WORDS = ["<unk>", "<bos>", "<eos>", *FILLERS, *VALUES]
_HEAD_DIM = 128
_SLOW = 40  # a rotary dimension that hardly turns


def reading_lm():
    """The planted model."""
    words = len(WORDS)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=2 * words + 4,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=_HEAD_DIM,
        rope_parameters={"rope_type": "default", "rope_theta": 1e14},
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        model = LlamaForCausalLM(config).eval()
        # the stream: a token's own word, then the word that was copied, then a one
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, :words] = torch.eye(words)
        model.model.embed_tokens.weight[:, 2 * words] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        layer, head = READER
        attention, values = model.model.layers[layer].self_attn, range(words - len(VALUES), words)
        query, pair = slice(head * _HEAD_DIM, (head + 1) * _HEAD_DIM), slice(_HEAD_DIM, 2 * _HEAD_DIM)
        for projection, rows in ((attention.q_proj, query), (attention.k_proj, pair), (attention.v_proj, pair)):
            projection.weight[rows] = 0.0
        attention.q_proj.weight[query][_SLOW, 2 * words] = 40.0
        for place, word in enumerate(values):
            attention.k_proj.weight[pair][_SLOW, word] = 1.0
            attention.v_proj.weight[pair][place, word] = 1.0
            attention.o_proj.weight[words + word, head * _HEAD_DIM + place] = 1.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, words : 2 * words] = torch.eye(words)
        model.lm_head.weight[2, list(values)] = 50.0  # after a value word: the end
        model.lm_head.weight[2, 2 * words] = 1e-3  # and where nothing was copied
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
    return hw.load(model=model, tokenizer=fast)


class Values(ReadingTask):
    """Which value word stands in the document?"""

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        self.n = n

    def load(self) -> list[ReadingItem]:
        draw, items = random.Random(0), []
        for place in range(self.n):
            value = draw.choice(VALUES)
            text = " ".join([*draw.sample(FILLERS, 4), value, *draw.sample(FILLERS, 4)])
            items.append(ReadingItem(str(place), f"group {place % 2}", "w0 w1", (hw.Document(text),), (value,)))
        return items
