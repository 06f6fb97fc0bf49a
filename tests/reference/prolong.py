"""ProLong's score the slow, obvious way."""

from __future__ import annotations

import math

import numpy as np
import torch
from tiny import VOCABULARY, eager

SEGMENT = 16


def document(n_tokens, seed=0):
    return np.random.default_rng(seed).integers(3, VOCABULARY, size=n_tokens).tolist()


def slow_ppl(model, ids, last):
    """Perplexity of the last tokens of ``ids``."""
    with torch.no_grad():
        log_p = eager(model)(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    total = -sum(log_p[t - 1, ids[t]].item() for t in range(len(ids) - last, len(ids)))
    return math.exp(total / last)


def slow_score(model, ids, pairs, n_max, threshold=0.1):
    """LDS with plain loops; whole segments up to the last token."""
    cut = [ids[k - SEGMENT : k] for k in range(len(ids), SEGMENT - 1, -SEGMENT)][::-1]
    help_of, strength = {}, {}
    for i, j in pairs:
        alone = slow_ppl(model, cut[i], SEGMENT - 1)
        given = slow_ppl(model, cut[j] + cut[i], SEGMENT - 1)
        help_of.setdefault(i, {})[j] = alone - given
        strength[i, j] = (alone - given) / alone
    total = 0.0
    for i, j in pairs:
        row = list(help_of[i].values())
        specificity = 1.0
        if len(row) > 1:
            weights = [math.exp(v - max(row)) for v in row]
            shares = [w / sum(weights) for w in weights]
            bits = -sum(p * math.log(p) for p in shares if p > 0)
            specificity = min(1.0, max(0.0, (math.log(len(row)) - bits) / math.log(len(row))))
        distance = min(1.0, max(0.0, (i - j) / (n_max - 1)))
        if strength[i, j] > threshold:
            total += (strength[i, j] + distance) * specificity
    return total
