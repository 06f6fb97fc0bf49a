"""Continuations of prompts: greedy, or drawn with a seed."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel

Ids = Sequence[int]  # of tokens


def continue_greedily(
    model: PreTrainedModel, prompts: Sequence[Ids], max_new_tokens: int, ends: Ids, pad: int | None = None
) -> list[list[int]]:
    """New ids of each prompt of a batch padded on the left, up to (without) the first of ``ends``."""
    return _continue(model, prompts, ends, pad, do_sample=False, max_new_tokens=max_new_tokens)


def continue_by_chance(
    model: PreTrainedModel, prompt: Ids, max_new_tokens: int, ends: Ids, *, temperature: float, seed: int
) -> list[int]:
    """The new token ids of a prompt, each drawn from the model's whole distribution; a seed decides."""
    device = model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        return _continue(model, [prompt], ends, None, max_new_tokens=max_new_tokens, **how)[0]


@torch.inference_mode()
def _continue(
    model: PreTrainedModel, prompts: Sequence[Ids], ends: Ids, pad: int | None, **how: float
) -> list[list[int]]:
    pad = pad if pad is not None else ends[0] if ends else 0
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + [*p] for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    asked = GenerationConfig(eos_token_id=list(ends) or None, pad_token_id=pad, use_cache=True, **how)
    # What a configuration leaves open is taken from the model's own: it may sample or punish repetition.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        # Every causal language model has `generate`, from a mixin that PreTrainedModel does not name.
        generate = cast(Any, model).generate
        written = generate(input_ids=ids, attention_mask=mask, generation_config=asked)[:, width:].tolist()
    finally:
        model.generation_config = own
    return [new[: next((i for i, token in enumerate(new) if token in ends), len(new))] for new in written]


def end_tokens(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and the model's own (a chat model's ends a turn)."""
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return [token for token in dict.fromkeys([tokenizer.eos_token_id, *own]) if token is not None]
