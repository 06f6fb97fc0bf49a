"""Greedy decoding that reads the whole text anew for every token."""

from __future__ import annotations

import torch
from tiny import eager


@torch.inference_mode()
def greedy_reference(model, prompt: list[int], steps: int, end: int | None) -> list[int]:
    """One sequence, one token at a time, eager, everything computed again at each step."""
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(eager(model)(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == end:
            break
    return ids[len(prompt) :]
