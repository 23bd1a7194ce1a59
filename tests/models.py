"""Random models of each architecture, built in memory from a config, and a word-level tokenizer for them."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import headwater as hw

VOCABULARY = 258


def random_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = 4, **kwargs):
    """A small random model. Families: llama (8 query heads on 4 key/value heads), llama-mha, llama-mqa, gpt2."""
    torch.manual_seed(seed)
    if family.startswith("llama"):
        groups = {"llama": 4, "llama-mha": 8, "llama-mqa": 1}[family]
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=groups,
            head_dim=16,
            initializer_range=0.2,
            **{"max_position_embeddings": 512, **kwargs},
        )
        model = LlamaForCausalLM(config)
    elif family == "gpt2":
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=64,
            n_layer=layers,
            n_head=4,
            n_positions=512,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=0,
            **kwargs,
        )
        model = GPT2LMHeadModel(config)
    else:
        raise ValueError(family)
    return model.to(dtype).eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: every text has tokens, every token is one byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<bos>", "<eos>", *alphabet]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")


def random_lm(family: str = "llama", **kwargs):
    """A random model with the byte tokenizer."""
    return hw.load(model=random_model(family, **kwargs), tokenizer=byte_tokenizer())
