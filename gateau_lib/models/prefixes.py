"""Keys and values of many short prefixes, encoded once and read by many continuations each.

A causal model's reading of a prefix does not depend on what follows, so a continuation needs the prefix's keys and values only.
The rows of one batch may follow different prefixes: each layer gathers what its rows need when it is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from gateau_lib.models.attention import exact
from gateau_lib.models.output_head import head_on
from gateau_lib.models.rope import rope_edge

_HEAD_ROWS = 1024  # rows whose logits are in fp32 at the same time


def reusable(model: PreTrainedModel, length: int) -> bool:
    """Whether ``length`` tokens have the same keys and values alone and before as many others, and the model can take them."""
    config = model.config.get_text_config(decoder=True)
    if getattr(model, "_is_stateful", False) or getattr(config, "attn_logit_softcapping", None):
        return False  # no keys to hand on, or read in rows of whole sequences, see `attention`
    edge = rope_edge(model)
    crossed = edge is not None and length <= edge < 2 * length
    return not crossed and set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}


def read(
    model: PreTrainedModel, parts: Sequence[Sequence[int]], count: Counter | None = None
) -> tuple[list[float], DynamicCache]:
    """Mean NLL of each part's tokens but the first, nats per token, and the parts' keys and values.

    Args:
        parts: token ids, all of one length of at least two.
        count: its ``tokens``, ``padded`` and ``forwards`` are increased.
    """
    cache = DynamicCache()  # without the config: a sliding layer keeps all keys, and its mask hides those out of reach
    return _forward(model, parts, cache, count), cache


def read_after(
    model: PreTrainedModel, prefixes: DynamicCache, rows: np.ndarray, parts: Sequence[Sequence[int]], count: Counter | None = None
) -> list[float]:
    """As `read`, where part b follows prefix ``rows[b]`` of those that `read` returned."""
    which = torch.as_tensor(rows, device=model.device)
    cache = DynamicCache()
    cache.layers = [_Prefixes(layer, which) for layer in prefixes.layers]
    return _forward(model, parts, cache, count)


@torch.inference_mode()
def _forward(model: PreTrainedModel, parts: Sequence[Sequence[int]], cache: DynamicCache, count: Counter | None) -> list[float]:
    ids = torch.tensor(parts, device=model.device)  # (B, L)
    size, past = ids.shape[1], cache.get_seq_length()
    head = torch.arange(ids.numel(), device=ids.device).view(ids.shape)[:, :-1].flatten()  # a row predicts the next token
    with exact(model), head_on(model, head):
        logits = model(
            input_ids=ids,
            attention_mask=ids.new_ones(len(ids), past + size),
            position_ids=torch.arange(past, past + size, device=ids.device).expand(len(ids), -1),
            past_key_values=cache,
            use_cache=True,
        ).logits[0]  # (B * (L - 1), vocabulary)
    if count is not None:
        count.update(tokens=ids.numel(), padded=ids.numel(), forwards=1)
    chunks = zip(logits.split(_HEAD_ROWS), ids[:, 1:].flatten().to(logits.device).split(_HEAD_ROWS), strict=True)
    losses = torch.cat([functional.cross_entropy(part.float(), target, reduction="none") for part, target in chunks])
    return losses.double().view(len(ids), -1).mean(1).tolist()


class _Prefixes(DynamicLayer):
    """One layer's keys and values of many prefixes, (P, Hkv, L, D); row b of a batch reads those of prefix ``rows[b]``."""

    def __init__(self, of: DynamicLayer, rows: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.rows = of.keys, of.values, rows.to(of.keys.device)  # layers may lie on several devices
        self.dtype, self.device, self.is_initialized = of.keys.dtype, of.keys.device, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the batch attends to; nothing is stored, so one layer's copy exists at a time."""
        keys, values = self.keys[self.rows], self.values[self.rows]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
