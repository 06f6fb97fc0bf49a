"""Tiny random models of the families that are read exactly."""

from __future__ import annotations

import functools

import torch
from tiny import VOCABULARY
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SLIDING = {"sliding_window": 24}
HALF_SLIDING = SLIDING | {"layer_types": ["sliding_attention", "full_attention"]}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "original_max_position_embeddings": 70,
    "short_factor": [1.0, 1.0, 1.0, 1.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}
TWO_ROPES = {
    "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
FAMILIES = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, sliding": ("mistral", SLIDING),
    "qwen2": ("qwen2", {}),
    "qwen2, sliding": ("qwen2", HALF_SLIDING | {"use_sliding_window": True}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "phi": (
        "phi",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5}},
    ),
    "granite": ("granite", {"attention_multiplier": 0.2, "residual_multiplier": 0.22, "logits_scaling": 8.0}),
    "phi3, sliding": ("phi3", SLIDING),
    "phi3, long rope": ("phi3", {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 70}),
    "gemma": ("gemma", {"head_dim": 8}),
    "gemma2": (
        "gemma2",
        HALF_SLIDING | {"head_dim": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    ),
    "gemma3": ("gemma3_text", HALF_SLIDING | {"head_dim": 8, "rope_parameters": TWO_ROPES}),
}


@functools.cache
def build(family: str) -> PreTrainedModel:
    """Two layers, four heads on two key-value heads, weights large enough that attention
    is far from uniform."""
    kind, more = FAMILIES[family]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CONFIG_MAPPING[kind](
        **sizes, num_key_value_heads=2, max_position_embeddings=256, **tokens, **more
    )
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.25)
    return model
