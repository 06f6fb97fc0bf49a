"""CAM the slow, obvious way."""

from __future__ import annotations

import numpy as np
import torch
from tiny import eager


def slow_attention(model, sample, segment_length):
    """(layers, segments): loops over layers, segments and the full attention matrices of an eager model."""
    with torch.no_grad():
        attentions = eager(model)(torch.tensor([sample.ids]), output_attentions=True).attentions
    rows = []
    for layer in attentions:
        weights = layer[0].double()  # (heads, N, N)
        row = []
        for begin in range(0, len(sample.context), segment_length):
            end = min(begin + segment_length, len(sample.context))
            offset = len(sample.start)
            row.append(weights[:, len(sample.prompt) :, offset + begin : offset + end].mean().item())
        rows.append(row)
    return np.array(rows).reshape(len(attentions), -1)


def slow_importance(model, sample, segment_length):
    found = []
    for begin in range(0, len(sample.context), segment_length):
        prefix = sample.start + sample.context[begin : begin + segment_length] + sample.instruction
        with torch.no_grad():
            log_p = eager(model)(torch.tensor([prefix + sample.response])).logits[0].double().log_softmax(-1)
        total = -sum(log_p[len(prefix) + t - 1, token].item() for t, token in enumerate(sample.response))
        found.append(total / len(sample.response))
    return np.array(found)
