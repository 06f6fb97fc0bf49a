"""HMG the slow, obvious way."""

from __future__ import annotations

import copy

import numpy as np
import torch
from tiny import eager

from gateau_lib.models.tiny import build_llama


def slow_mean_nll(model, prefix, targets):
    with torch.no_grad():
        log_p = eager(model)(torch.tensor([prefix + targets])).logits[0].double().log_softmax(-1)
    return -np.mean([log_p[len(prefix) + t - 1, token].item() for t, token in enumerate(targets)])


def rebuilt(model, theta):
    """The model built anew with another RoPE base, its weights copied."""
    twin = build_llama(259, hidden_size=32, layers=2, heads=4, window=128, rope_theta=theta, seed=5)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    return twin.eval()
