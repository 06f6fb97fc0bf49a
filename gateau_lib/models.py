"""Load or build causal language models, and stretch a RoPE window without touching the library's code.

Weights are safetensors; ``trust_remote_code`` stays off. A window is stretched by building a second model over the same
weight tensors with another RoPE base, so the reading of one sample never depends on what was read before it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging

logging.disable_progress_bar()  # loading a model takes seconds here; its bars would drown our own progress lines

SHIPPED = Path(__file__).parent / "tiny_pair"  # short/ and long/, the pair the cpu profile trained


class ModelError(ValueError):
    """A model that cannot be loaded; the message says what was looked for and what to do."""


def device() -> torch.device:
    """CUDA if there is one, else CPU; ``GATEAU_DEVICE`` overrides."""
    return torch.device(os.environ.get("GATEAU_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))


def _resolve(name: str | Path) -> str:
    text = str(name)
    looks_local = text.startswith((".", "/", "~")) or Path(text).exists() or text.count("/") != 1
    if looks_local and not (Path(text).expanduser() / "config.json").is_file():
        raise ModelError(f"{text}: no config.json there; give a folder with a saved model or a hub id owner/name")
    return str(Path(text).expanduser()) if looks_local else text


def load(name: str | Path, dtype: str = "float32", to: torch.device | None = None) -> tuple[PreTrainedModel, Any]:
    """A causal language model in eval mode with its fast tokenizer, from a local folder or the hub.

    Raises:
        ModelError: nothing there, or the hub cannot be reached.
    """
    source = _resolve(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype), use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{source}: cannot load ({reason}); download it first, or give a local folder") from error
    return model.to(to or device()).eval(), tokenizer


def build_llama(
    vocab_size: int,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    window: int,
    rope_theta: float,
    seed: int,
    kv_heads: int | None = None,
) -> LlamaForCausalLM:
    """A Llama with random weights (seeded), tied embeddings, MLP of 8/3 hidden size as in Llama-2, and `look_back` heads."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=-(-hidden_size * 8 // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": float(rope_theta)},
        tie_word_embeddings=True,
        attention_bias=True,
        initializer_range=0.04,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    look_back(model)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM, offsets: Sequence[int] = (1, 2, 3), sharpness: float = 20.0) -> None:
    """Let the first layer's heads begin by looking 1, 2, 3 tokens back, through query and key biases that RoPE turns.

    Recall of a fact needs a head that copies the token before into each position, and a later one that matches it (an
    induction head). From purely random weights this model stays for thousands of steps on a plateau of attending to any value
    word; with the first half given, the second forms within a few hundred. The biases are trained like all other weights.
    """
    attention = model.model.layers[0].self_attn
    query, key = attention.q_proj.bias.view(-1, attention.head_dim), attention.k_proj.bias.view(-1, attention.head_dim)
    turns = model.model.rotary_emb.inv_freq[:6]  # the fast pairs of channels: only they tell neighbours apart
    half, size = attention.head_dim // 2, sharpness**0.5
    query.zero_()
    key.zero_()
    query[:, : len(turns)] = size
    for head in range(len(key)):  # the product of query and key is then sum_f cos((distance - offset) * turn_f)
        angle = offsets[head % len(offsets)] * turns
        key[head, : len(turns)] = size * angle.cos()
        key[head, half : half + len(turns)] = size * angle.sin()


def rope_theta(model: PreTrainedModel) -> float:
    """The RoPE base a model was built with."""
    return float(model.config.rope_parameters["rope_theta"])


def ntk_theta(theta: float, factor: float, head_dim: int) -> float:
    """NTK-aware base for a window ``factor`` times as long: ``theta * factor ** (d / (d - 2))``."""
    return theta * factor ** (head_dim / (head_dim - 2))


def with_rope_theta(model: PreTrainedModel, theta: float, window: int | None = None) -> PreTrainedModel:
    """The same weights (shared, not copied) read with another RoPE base and nominal window.

    Raises:
        ModelError: the model's RoPE is already scaled in another way.
    """
    kind = model.config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        raise ModelError(
            f"{model.config.name_or_path or model.config.model_type}: RoPE of type {kind!r} cannot be stretched here"
        )
    config = type(model.config).from_dict(model.config.to_dict())
    config.rope_parameters = {**model.config.rope_parameters, "rope_type": "default", "rope_theta": float(theta)}
    config.max_position_embeddings = window or model.config.max_position_embeddings
    with torch.device("meta"):
        twin = type(model)(config)
    # Non-persistent buffers (inv_freq) are not in the state dict: build the rotary module for real, on the model's device.
    rotary = type(twin.model.rotary_emb)(config=config).to(model.device)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.tie_weights()
    twin.model.rotary_emb = rotary
    return twin.train(model.training)


def extend_window(model: PreTrainedModel, window: int) -> PreTrainedModel:
    """The model stretched to ``window`` tokens by a fixed NTK base (GATEAU's extended window, stateless)."""
    factor = window / model.config.max_position_embeddings
    if factor <= 1:
        return model
    head_dim = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    return with_rope_theta(model, ntk_theta(rope_theta(model), factor, head_dim), window)
