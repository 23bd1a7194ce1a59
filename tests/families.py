"""One tiny random model per supported architecture, with the features that set it apart switched on."""

from __future__ import annotations

from typing import Any

import torch
import transformers as T

VOCABULARY = 258
_IDS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    **_IDS,
}
_WINDOW = {"sliding_window": 16}
_GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512, "vocab_size": VOCABULARY, **_IDS}
_SPECIAL: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama-mha": (T.LlamaConfig, T.LlamaForCausalLM, {"num_key_value_heads": 8}),
    "llama-mqa": (T.LlamaConfig, T.LlamaForCausalLM, {"num_key_value_heads": 1}),
    "llama-wide": (T.LlamaConfig, T.LlamaForCausalLM, {"head_dim": 16}),
    "llama": (T.LlamaConfig, T.LlamaForCausalLM, {}),
    "mistral": (T.MistralConfig, T.MistralForCausalLM, _WINDOW),
    "mixtral": (T.MixtralConfig, T.MixtralForCausalLM, {"num_local_experts": 4}),
    "qwen2": (T.Qwen2Config, T.Qwen2ForCausalLM, {"use_sliding_window": True, "max_window_layers": 2, **_WINDOW}),
    "qwen3": (T.Qwen3Config, T.Qwen3ForCausalLM, {"head_dim": 16}),
    "gemma2": (T.Gemma2Config, T.Gemma2ForCausalLM, {"head_dim": 16, "query_pre_attn_scalar": 24, **_WINDOW}),
    "gemma3_text": (T.Gemma3TextConfig, T.Gemma3ForCausalLM, {"head_dim": 16, **_WINDOW}),
    "phi": (T.PhiConfig, T.PhiForCausalLM, {}),
    "phi3": (T.Phi3Config, T.Phi3ForCausalLM, {}),
    "opt": (T.OPTConfig, T.OPTForCausalLM, {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "gpt2": (T.GPT2Config, T.GPT2LMHeadModel, {}),
    "gpt2-scaled": (T.GPT2Config, T.GPT2LMHeadModel, {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox": (T.GPTNeoXConfig, T.GPTNeoXForCausalLM, {}),
    "granite": (T.GraniteConfig, T.GraniteForCausalLM, {"attention_multiplier": 0.2}),
    "olmo2": (T.Olmo2Config, T.Olmo2ForCausalLM, {}),
    "cohere": (T.CohereConfig, T.CohereForCausalLM, {}),
    "cohere2": (T.Cohere2Config, T.Cohere2ForCausalLM, _WINDOW),
    "smollm3": (T.SmolLM3Config, T.SmolLM3ForCausalLM, {"no_rope_layer_interval": 2}),
    "gpt_oss": (T.GptOssConfig, T.GptOssForCausalLM, {"head_dim": 16, "num_local_experts": 4, **_WINDOW}),
    "starcoder2": (T.Starcoder2Config, T.Starcoder2ForCausalLM, _WINDOW),
}
_OWN_ATTENTION: dict[str, tuple[Any, Any, dict[str, Any]]] = {  # outside transformers' attention interface
    "bloom": (T.BloomConfig, T.BloomForCausalLM, {"n_layer": 4, "n_head": 8}),
    "mpt": (T.MptConfig, T.MptForCausalLM, {"d_model": 64, "n_heads": 8, "n_layers": 4, "max_seq_len": 512}),
    "falcon": (T.FalconConfig, T.FalconForCausalLM, {"alibi": False}),
    "falcon-new": (T.FalconConfig, T.FalconForCausalLM, {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-alibi": (T.FalconConfig, T.FalconForCausalLM, {"alibi": True, "multi_query": False}),
}
_HYBRID: dict[str, tuple[Any, Any, dict[str, Any]]] = {  # some layers (0 and 2) have no attention heads
    "lfm2": (T.Lfm2Config, T.Lfm2ForCausalLM, {"layer_types": ["conv", "full_attention"] * 2, "block_ff_dim": 96}),
    "jamba": (
        T.JambaConfig,
        T.JambaForCausalLM,
        {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False},
    ),
}
FAMILIES = sorted(_SPECIAL)
HYBRID = sorted(_HYBRID)
OWN_ATTENTION = sorted(_OWN_ATTENTION)


def family_model(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **more: Any):
    """A random model of the family (a part after "-" names a variant), in eval mode."""
    torch.manual_seed(seed)
    config, model, own = {**_SPECIAL, **_OWN_ATTENTION, **_HYBRID}[name]
    common = _GPT2 if name.startswith("gpt2") else _COMMON
    built = model(config(**{**common, **own, **more}))
    with torch.no_grad():
        for key, parameter in built.named_parameters():
            if key.endswith("sinks"):
                parameter.normal_()
    return built.to(dtype).eval()


def composite_model(*, seed: int = 0):
    """A random vision-language model around a Llama, in eval mode."""
    torch.manual_seed(seed)
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = T.LlavaConfig(
        vision_config=T.CLIPVisionConfig(image_size=16, patch_size=8, **vision),
        text_config=T.LlamaConfig(**_COMMON),
        image_token_index=VOCABULARY - 1,
    )
    return T.LlavaForConditionalGeneration(config).eval()
