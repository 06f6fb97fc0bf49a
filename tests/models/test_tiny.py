"""Tiny models are what they are asked to be, and their first layer begins by looking back."""

from __future__ import annotations

import torch
from tiny import IDS, VOCABULARY, built

from gateau_lib.models.tiny import build_llama


def test_build_is_seeded_and_of_the_asked_shape():
    first, again, other = built(1000.0), built(1000.0), built(1000.0, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert first.config.intermediate_size == 96 and first.config.max_position_embeddings == 128
    assert first.lm_head.weight is first.model.embed_tokens.weight
    assert first.dtype == torch.float32


def test_first_layer_begins_by_looking_back():
    """Attention weights, not scores: head h puts most of its weight h tokens back,
    at any distance from the start."""
    sizes = {"hidden_size": 128, "layers": 2, "heads": 4, "window": 256, "rope_theta": 1000.0}
    model = build_llama(VOCABULARY, **sizes, seed=0).eval()
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        first = model(input_ids=IDS, output_attentions=True).attentions[0][0]  # (heads, queries, keys)
    for weights, offset in zip(first, (1, 2, 3, 1), strict=True):
        back = torch.arange(100) - weights.argmax(-1)
        assert (back[offset:] == offset).float().mean() > 0.95
        assert weights.diagonal(-offset).mean() > 0.4
