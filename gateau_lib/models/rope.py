"""Rotary position embeddings: window, base, and a model stretched beyond its window by another base.

RoPE turns pairs of channels by (position x frequency); the base sets the frequencies. A larger base slows the
slow pairs down, so that positions beyond the window look like ones within it (NTK-aware scaling).
"""

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from gateau_lib.study.errors import ModelError


def _text(config: PreTrainedConfig) -> Any:
    """The configuration of the language model, also where it is part of a larger one (Gemma 3)."""
    return config.get_text_config(decoder=True)


def parameters(config: PreTrainedConfig) -> dict[str, Any]:
    """RoPE parameters of the layers that see the whole text, {} without any."""
    found = getattr(_text(config), "rope_parameters", None) or {}
    # One set for all layers, or one for each kind (Gemma 3): None where a kind has no positions, and sliding
    # layers need no stretching.
    return found.get("full_attention", found) or {}


def _rope(config: PreTrainedConfig) -> dict[str, Any]:
    if found := parameters(config):
        return found
    raise _refused(config, "no rotary positions to stretch; use --reading truncate")


def _refused(config: PreTrainedConfig, why: str) -> ModelError:
    return ModelError(f"{config.name_or_path or config.model_type}: {why}")


def window_of(config: PreTrainedConfig) -> int | None:
    """Tokens that models of that configuration were made for; None if it does not say (Bloom, Mamba)."""
    named = getattr(_text(config), "max_position_embeddings", None)
    return int(named) if named and named > 0 else None


def window(model: PreTrainedModel) -> int | None:
    """Tokens the model was made for; None if its configuration does not say."""
    return window_of(model.config)


def rope_edge(model: PreTrainedModel) -> int | None:
    """Length past which a whole batch is read with other RoPE factors (LongRoPE of Phi-3), or None.

    Samples on both sides of it must not share a batch: the short ones would be read as if they were long.
    Raises ModelError: dynamic NTK, whose reading of a sample depends on what was read before it.
    """
    found = parameters(model.config)
    kind = found.get("rope_type", "default")
    if kind == "dynamic":
        why = "with dynamic RoPE a loss depends on what was read before; set rope_type to default in its "
        raise _refused(
            model.config, why + "config.json, a longer window is then given to it by --reading ntk"
        )
    return int(found["original_max_position_embeddings"]) if kind == "longrope" else None


def rope_theta(model: PreTrainedModel) -> float:
    """The RoPE base a model was built with."""
    return theta_of(model.config)


def theta_of(config: PreTrainedConfig) -> float:
    """The RoPE base of models of that configuration."""
    return float(_rope(config)["rope_theta"])


def ntk_theta(theta: float, factor: float, head_dim: int) -> float:
    """NTK-aware base for a window ``factor`` times as long; ``head_dim`` channels of a head are turned.

    It slows the slowest of their pairs by the whole factor and leaves the fastest alone.
    """
    return theta * factor ** (head_dim / (head_dim - 2))


def _stretchable(config: PreTrainedConfig) -> dict[str, Any]:
    """RoPE parameters that another base may take the place of; ModelError if there are none."""
    rope = _rope(config)
    kind, fix = rope.get("rope_type", "default"), "use --reading truncate for the short model"
    fix += ", and a --max-length within the long model's window"
    if kind != "default":
        raise _refused(config, f"RoPE of type {kind!r} cannot be stretched here; {fix}")
    if getattr(_text(config), "layer_rope_theta", None) or "rope_theta" not in rope:
        raise _refused(
            config, f"its layers have RoPE bases of their own, which are not stretched here; {fix}"
        )
    if "chunked_attention" in (getattr(_text(config), "layer_types", None) or ()):
        # Llama 4: where it turns, it sees no further than its chunk, and where it sees all, it does not turn.
        raise _refused(config, f"its rotary positions do not reach beyond a chunk of the text; {fix}")
    return rope


def stretched_theta(config: PreTrainedConfig, target: int) -> float:
    """The NTK base at which a model of that configuration reads ``target`` tokens; its own in its window."""
    rope, text = _stretchable(config), _text(config)
    theta, factor = float(rope["rope_theta"]), target / (window_of(config) or target)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rotated = int(head_dim * rope.get("partial_rotary_factor", 1.0))  # Phi turns a part of each head only
    if rotated <= 2 and factor > 1:  # a single pair is the fastest, which NTK leaves alone
        raise _refused(config, "a single turned pair of channels has no NTK base; use --reading truncate")
    return ntk_theta(theta, factor, rotated) if factor > 1 else theta


def _rotary(model: PreTrainedModel) -> torch.nn.Module:
    """The module that turns queries and keys, or one of many alike (Moshi has one a layer)."""
    if (found := getattr(model.get_decoder(), "rotary_emb", None)) is not None:
        return found
    every = [each for name, each in model.named_modules() if name.endswith("rotary_emb")]
    if len({type(each) for each in every}) != 1:
        raise _refused(model.config, "its rotary positions are not found; use --reading truncate")
    return every[0]


def with_rope_theta(model: PreTrainedModel, theta: float, window: int | None = None) -> PreTrainedModel:
    """The same weights (shared, not copied) read with another RoPE base and nominal window.

    Raises ModelError: the model's RoPE is already scaled in another way, or it has none.
    """
    # A configuration that is changed after a model was built changes nothing in it: a second one is built.
    rope, rotary = _stretchable(model.config), _rotary(model)
    config = type(model.config).from_dict(model.config.to_dict())
    text = _text(config)
    stretched = {**rope, "rope_type": "default", "rope_theta": float(theta)}
    layered = "full_attention" in text.rope_parameters
    text.rope_parameters = {**text.rope_parameters, "full_attention": stretched} if layered else stretched
    if window:
        text.max_position_embeddings = window
    with torch.device("meta"):  # no memory for weights that are about to be replaced
        twin = type(model)(config)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.tie_weights()
    # Buffers that no state dict holds are still on meta. The rotary module is built for real with the new
    # base, in float32 whatever the dtype of the weights; others (Gemma's embedding scale) are the model's.
    for name, module in list(twin.named_modules()):
        if isinstance(module, type(rotary)):
            twin.set_submodule(name, type(rotary)(config=text).to(model.device))
    for name, buffer in list(twin.named_buffers()):
        if buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            twin.get_submodule(owner)._buffers[leaf] = model.get_buffer(name)
    return twin.train(model.training)


def extend_window(model: PreTrainedModel, target: int) -> PreTrainedModel:
    """The model stretched to ``target`` tokens by a fixed NTK base (GATEAU's extended window, stateless)."""
    own = window(model)
    if own is None or target <= own:  # without a window, there is none to leave
        return model
    return with_rope_theta(model, stretched_theta(model.config, target), target)
