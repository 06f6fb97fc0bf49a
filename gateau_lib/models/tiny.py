"""Tiny models built from scratch for the study."""

from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def build_llama(
    vocab_size: int,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    window: int,
    rope_theta: float,
    seed: int,
    kv_heads: int | None = None,
) -> LlamaForCausalLM:
    """A Llama with seeded random weights and `look_back` heads; tied embeddings, the MLP as in Llama-2."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=-(-hidden_size * 8 // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": float(rope_theta)},
        tie_word_embeddings=True,
        attention_bias=True,
        initializer_range=0.04,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    look_back(model)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM, offsets: Sequence[int] = (1, 2, 3), sharpness: float = 20.0) -> None:
    """Let the first layer's heads begin by looking 1, 2, 3 tokens back, through biases that RoPE turns.

    Recall of a fact needs a head that copies the token before into each position, and a later one that
    matches it (an induction head). From purely random weights this model stays for thousands of steps on a
    plateau of attending to any value word; with the first half given, the second forms within a few hundred.
    """
    attention = model.model.layers[0].self_attn
    query = attention.q_proj.bias.view(-1, attention.head_dim)
    key = attention.k_proj.bias.view(-1, attention.head_dim)
    turns = model.model.rotary_emb.inv_freq[:6]  # the fast pairs of channels: only they tell neighbours apart
    half, size = attention.head_dim // 2, sharpness**0.5
    query.zero_()
    key.zero_()
    query[:, : len(turns)] = size
    # The product of query and key is then sum_f cos((distance - offset) * turn_f).
    for head in range(len(key)):
        angle = offsets[head % len(offsets)] * turns
        key[head, : len(turns)] = size * angle.cos()
        key[head, half : half + len(turns)] = size * angle.sin()
