"""Segments left out, and attention head by head, the slow, obvious way."""

from __future__ import annotations

import torch
from reference.nll import slow_nll
from tiny import eager


def slow_leave_one_out(model, sample, segment_length):
    """One whole reading for each segment, the context built token by token."""
    whole = slow_nll(model, sample.prompt, sample.response).mean()
    found = []
    for segment in range(-(-len(sample.context) // segment_length)):
        kept = [token for i, token in enumerate(sample.context) if i // segment_length != segment]
        without = slow_nll(model, sample.start + kept + sample.instruction, sample.response).mean()
        found.append(without - whole)
    return found


def slow_head_attention(model, sample, segment_length, top=None):
    """Nested lists (layers, heads, segments) from the full attention matrices of an eager model."""
    with torch.no_grad():
        attentions = eager(model)(torch.tensor([sample.ids]), output_attentions=True).attentions
    found = []
    for layer in attentions:
        rows = layer[0, :, len(sample.prompt) :].double().mean(1)  # (heads, keys), mean over response tokens
        heads = []
        for head in rows:
            keys = head[len(sample.start) : len(sample.start) + len(sample.context)].tolist()
            segments = [keys[i : i + segment_length] for i in range(0, len(keys), segment_length)]
            best = [sorted(part, reverse=True)[:top] for part in segments]
            heads.append([sum(part) / len(part) for part in best])
        found.append(heads)
    return found
