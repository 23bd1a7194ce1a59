"""The random models that benchmarks run on: real shapes, no weights to download."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import headwater as hw
from headwater.model.lm import LanguageModel

VOCABULARY = 8192
MARKERS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]  # as in Llama 3
KNOWN_WORDS = VOCABULARY - 2 - len(MARKERS)
SHAPES = {  # layers, width, inner width, query heads, key/value heads
    "100M": (14, 768, 2048, 12, 4),
    "300M": (24, 1024, 2816, 16, 4),
}
EIGHT = (8, 256, 704, 8, 8)  # 8 layers of 8 heads, 10 M parameters


def random_llama(seed: int = 0, size: str = "100M") -> LanguageModel:
    """A random Llama in fp32: about 100 M parameters (14 layers x 12 heads), 300 M (24 x 16), or "8x8" (8 x 8 heads).

    Its tokenizer knows the words w0, w1, ... between white space, one token each, and the role markers of Llama 3.
    """
    torch.manual_seed(seed)
    layers, width, inner, heads, groups = EIGHT if size == "8x8" else SHAPES[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=16384,
    )
    words = ["<unk>", "<bos>", *MARKERS, *(f"w{number}" for number in range(KNOWN_WORDS))]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>", additional_special_tokens=MARKERS
    )
    return hw.load(model=LlamaForCausalLM(config), tokenizer=wrapped)
