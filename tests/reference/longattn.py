"""LongAttn the slow, obvious way."""

from __future__ import annotations

import numpy as np
import torch
from tiny import eager


def slow_long_attention(model, sample, layer=0):
    """Whole attention matrices, masked by the distance of each pair of tokens."""
    ids = sample.ids
    with torch.no_grad():
        weights = (
            eager(model)(torch.tensor([ids]), output_attentions=True).attentions[layer][0].double()
        )  # (heads, N, N)
    n = len(ids)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    strengths, variances = [], []
    for head in weights:
        far = torch.where(distance >= n - 3 * (n // 4), head, 0.0)
        strengths.append(far.sum().item() / n)
        variances.append(far.var().item())
    return np.mean(strengths), np.mean(variances)
