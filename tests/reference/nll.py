"""Losses one sequence at a time, from all logits."""

from __future__ import annotations

import numpy as np
import torch
from tiny import eager


def slow_nll(model, prefix, target):
    """Per-token NLL from the logits of the whole sequence, no batch, no mask."""
    ids = torch.tensor([[*prefix, *target]])
    with torch.no_grad():
        log_probabilities = eager(model)(ids).logits[0].double().log_softmax(-1)
    return np.array([-log_probabilities[len(prefix) + t - 1, token].item() for t, token in enumerate(target)])
