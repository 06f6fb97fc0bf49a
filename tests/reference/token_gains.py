"""Scores of token losses the slow, obvious way: all logits of one sequence at a time, loops over tokens."""

from __future__ import annotations

import math

import torch
from tiny import eager

from gateau_lib.methods.model_passes import last_window


def slow_tokens(model, prefix, targets):
    """Probability of each target and entropy of each prediction, from whole softmaxes."""
    with torch.no_grad():
        logits = eager(model)(torch.tensor([[*prefix, *targets]])).logits[0].double()
    found = []
    for place, token in enumerate(targets, len(prefix)):
        shares = logits[place - 1].softmax(-1).tolist()
        found.append((shares[token], -sum(p * math.log(p) for p in shares if p > 0)))
    return found


def slow_scores(model, sample, window, alpha, beta):
    """LongPPL's key token gain, LongFilter and delta entropy of one sample."""
    cut = slow_tokens(model, *last_window(sample, window))
    whole = slow_tokens(model, sample.prompt, sample.response)[len(sample.response) - len(cut) :]
    key = filtered = fall = 0.0
    for (p_long, h_long), (p_cut, h_cut) in zip(whole, cut, strict=True):
        gain = math.log(p_long) - math.log(p_cut)
        if gain > alpha and math.log(p_long) > -beta:
            key += gain
        filtered += p_long * gain
        fall += h_cut - h_long
    return key / len(cut), filtered / len(cut), fall / len(cut)
