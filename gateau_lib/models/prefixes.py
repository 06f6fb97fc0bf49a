"""Keys and values of many short prefixes, encoded once and read by many continuations each.

A causal model's reading of a prefix does not depend on what follows, so a continuation needs the prefix's
keys and values only. The rows of one batch may follow different prefixes: each layer gathers what its rows
need when it is there.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from gateau_lib.models.nll import Count, batch_nll
from gateau_lib.models.rope import rope_edge


class NotKept(Exception):
    """A model takes a cache and does not leave all keys in it (the first GPT)."""


def reusable(model: PreTrainedModel, length: int) -> bool:
    """Whether keys and values of ``length`` tokens can be handed on to as many tokens that follow them."""
    config = model.config.get_text_config(decoder=True)
    if getattr(model, "_is_stateful", False):
        return False  # a state in place of keys
    sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())
    if sinks or getattr(config, "attn_logit_softcapping", None):
        return False  # read in rows of whole sequences, see `attention`
    edge = rope_edge(model)
    if edge is not None and length <= edge < 2 * length:
        return False  # alone and together, the tokens would be turned by different factors
    return set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}


def read(
    model: PreTrainedModel, parts: Sequence[Sequence[int]], count: Count = None
) -> tuple[list[float], DynamicCache]:
    """Mean NLL of tokens but the first, nats per token, and keys and values of parts of one length.

    Raises NotKept.
    """
    # Without the configuration, a sliding layer keeps all keys; its mask hides those out of reach.
    cache = DynamicCache()
    losses = _forward(model, parts, cache, count)
    # Layers that share the keys of others (Gemma 4) have none of their own.
    if {cast(DynamicLayer, layer).get_seq_length() for layer in cache.layers} != {len(parts[0])}:
        raise NotKept
    return losses, cache


def read_after(
    model: PreTrainedModel,
    prefixes: DynamicCache,
    rows: np.ndarray,
    parts: Sequence[Sequence[int]],
    count: Count = None,
) -> list[float]:
    """As `read`, where part b follows prefix ``rows[b]`` of those that `read` returned."""
    which = torch.as_tensor(rows, device=model.device)
    cache = DynamicCache()
    cache.layers = [_Prefixes(cast(DynamicLayer, layer), which) for layer in prefixes.layers]
    return _forward(model, parts, cache, count)


@torch.inference_mode()
def _forward(
    model: PreTrainedModel, parts: Sequence[Sequence[int]], cache: DynamicCache, count: Count
) -> list[float]:
    losses = batch_nll(model, parts, [len(part) - 1 for part in parts], count, cache=cache)
    return torch.stack(losses).double().mean(1).tolist()


class _Prefixes(DynamicLayer):
    """One layer's keys and values of many prefixes, (P, Hkv, L, D); row b reads prefix ``rows[b]``."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, of: DynamicLayer, rows: torch.Tensor) -> None:
        super().__init__()
        assert of.keys is not None and of.values is not None, "the prefixes have been read"
        self.keys, self.values = of.keys, of.values
        self.rows = rows.to(of.keys.device)  # layers may lie on several devices
        self.dtype, self.device, self.is_initialized = of.keys.dtype, of.keys.device, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the batch attends to; nothing is stored, so one layer's copy exists at a time."""
        keys, values = self.keys[self.rows], self.values[self.rows]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
