"""The random models that benchmarks run on: real shapes, no weights to download."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import headwater as hw
from headwater.model.lm import LanguageModel


def random_llama(seed: int = 0) -> LanguageModel:
    """A random Llama of about 100 M parameters: 14 layers x 12 heads on 4 key/value heads, width 768, fp32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=14,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=16384,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), bos_token="<bos>")
    return hw.load(model=LlamaForCausalLM(config), tokenizer=tokenizer)
