"""Greedy continuation of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel


@torch.inference_mode()
def continue_greedily(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, ends: Sequence[int], pad: int | None = None
) -> list[list[int]]:
    """One batch of prompts, padded on the left: the new token ids of each, up to (without) the first of ``ends``."""
    pad = pad if pad is not None else ends[0] if ends else 0
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + [*p] for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=list(ends) or None, pad_token_id=pad, use_cache=True
    )
    # What a configuration leaves open is taken from the model's own: a hub model's may sample or punish repetition.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)[:, width:].tolist()
    finally:
        model.generation_config = own
    return [new[: next((i for i, token in enumerate(new) if token in ends), len(new))] for new in written]
