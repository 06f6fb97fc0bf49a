"""Rotary position embeddings: window, base, and a model stretched beyond its window by another base."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from gateau_lib.study.errors import ModelError


def _text(model: PreTrainedModel) -> Any:
    """The configuration of the language model, also where it is part of a larger one (Gemma 3)."""
    return model.config.get_text_config(decoder=True)


def _rope(model: PreTrainedModel) -> dict[str, Any]:
    """RoPE parameters of the layers that see the whole text; those of sliding layers need no stretching (Gemma 3)."""
    parameters = getattr(_text(model), "rope_parameters", None)
    if not parameters:
        kind = model.config.model_type
        raise ModelError(f"{model.config.name_or_path or kind}: no rotary positions to stretch; use --reading truncate")
    return parameters.get("full_attention", parameters)


def window(model: PreTrainedModel) -> int:
    """Tokens the model was made for."""
    return int(_text(model).max_position_embeddings)


def rope_edge(model: PreTrainedModel) -> int | None:
    """Length past which a whole batch is read with other RoPE factors (LongRoPE of Phi-3), None if there is no such length.

    Samples on both sides of it must not share a batch, or the short ones would be read as if they were long.

    Raises:
        ModelError: dynamic NTK, whose reading of a sample depends on what was read before it.
    """
    parameters = getattr(_text(model), "rope_parameters", None) or {}
    kind = parameters.get("full_attention", parameters).get("rope_type", "default")
    if kind == "dynamic":
        raise ModelError(
            f"{model.config.name_or_path or model.config.model_type}: with dynamic RoPE a loss depends on what was read before; "
            "set rope_type to default in its config.json, a longer window is then given to it by --reading ntk"
        )
    return int(parameters["original_max_position_embeddings"]) if kind == "longrope" else None


def rope_theta(model: PreTrainedModel) -> float:
    """The RoPE base a model was built with."""
    return float(_rope(model)["rope_theta"])


def ntk_theta(theta: float, factor: float, head_dim: int) -> float:
    """NTK-aware base for a window ``factor`` times as long: ``theta * factor ** (d / (d - 2))``, d rotated channels a head."""
    return theta * factor ** (head_dim / (head_dim - 2))


def with_rope_theta(model: PreTrainedModel, theta: float, window: int | None = None) -> PreTrainedModel:
    """The same weights (shared, not copied) read with another RoPE base and nominal window.

    Raises:
        ModelError: the model's RoPE is already scaled in another way, or it has none.
    """
    rope = _rope(model)
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise ModelError(
            f"{model.config.name_or_path or model.config.model_type}: RoPE of type {kind!r} cannot be stretched here; "
            "give a --max-length within the model's window, and --reading truncate for the short one"
        )
    config = type(model.config).from_dict(model.config.to_dict())
    text = config.get_text_config(decoder=True)
    stretched = {**rope, "rope_type": "default", "rope_theta": float(theta)}
    layered = "full_attention" in text.rope_parameters
    text.rope_parameters = {**text.rope_parameters, "full_attention": stretched} if layered else stretched
    text.max_position_embeddings = window or text.max_position_embeddings
    with torch.device("meta"):
        twin = type(model)(config)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.tie_weights()
    # Buffers that no state dict holds are still on meta: the rotary module is built for real with the new base, the others
    # (Gemma's embedding scale) are the model's own.
    for name, module in list(twin.named_modules()):
        if isinstance(module, type(model.get_decoder().rotary_emb)):
            twin.set_submodule(name, type(module)(config=text).to(model.device))
    for name, buffer in list(twin.named_buffers()):
        if buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            twin.get_submodule(owner)._buffers[leaf] = model.get_buffer(name)
    return twin.train(model.training)


def extend_window(model: PreTrainedModel, target: int) -> PreTrainedModel:
    """The model stretched to ``target`` tokens by a fixed NTK base (GATEAU's extended window, stateless)."""
    factor = target / window(model)
    if factor <= 1:
        return model
    text = _text(model)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rotated = int(head_dim * _rope(model).get("partial_rotary_factor", 1.0))  # Phi turns a part of each head only
    return with_rope_theta(model, ntk_theta(rope_theta(model), factor, rotated), target)
