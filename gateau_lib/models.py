"""Load or build causal language models, and stretch a RoPE window without touching the library's code.

Weights are safetensors; code that a model brings along is never run. A window is stretched by building a second model over the
same weight tensors with another RoPE base, so the reading of one sample never depends on what was read before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from logging import LogRecord
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging

from gateau_lib import adapters
from gateau_lib.study.devices import device
from gateau_lib.study.errors import ModelError

logging.disable_progress_bar()  # loading a model takes seconds here; its bars would drown our own progress lines

SHIPPED = Path(__file__).parent / "tiny_pair"  # short/ and long/, the pair the cpu profile trained








def _resolve(name: str | Path, *enough: str) -> str:
    """The folder or hub id that a name stands for; a folder must hold config.json or a file that is enough."""
    text = str(name)
    folder = Path(text).expanduser()
    looks_local = text.startswith((".", "/", "~")) or folder.exists() or text.count("/") != 1
    if looks_local and not any((folder / file).is_file() for file in ("config.json", *enough)):
        raise ModelError(f"{text}: no config.json there; give a folder with a saved model or a hub id owner/name")
    source = str(folder) if looks_local else text
    _refuse_code(source)
    return source


def _refuse_code(source: str) -> None:
    """Raise ModelError if a model or tokenizer asks for code of its own.

    It would not be run in any case. But where transformers has a class for the same type, it takes that one without a word, and
    nothing says that the two compute the same.
    """
    readers = {"config.json": lambda: PreTrainedConfig.get_config_dict(source)[0]}
    readers["tokenizer_config.json"] = lambda: get_tokenizer_config(source)
    for file, read in readers.items():
        try:
            asks = read().get("auto_map")
        except (OSError, ValueError):  # not there or not readable, which the one who needs it says
            continue
        if asks:
            raise ModelError(
                f"{source}: auto_map in its {file} asks for code of its own, which is never run here; use another model, or "
                "delete auto_map from a copy if transformers knows the model by itself"
            )


def load_config(name: str | Path) -> PreTrainedConfig:
    """The configuration of a local folder or hub id.

    Raises:
        ModelError: nothing there, the hub cannot be reached, or the model asks for code of its own.
    """
    source = _resolve(name)
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(source, error) from error


def load_tokenizer(name: str | Path) -> Any:
    """The fast tokenizer of a local folder, with or without a model, or of a hub id.

    Raises:
        ModelError: nothing there, the hub cannot be reached, or the tokenizer asks for code of its own.
    """
    source = _resolve(name, "tokenizer_config.json")
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(source, error) from error


def first_line(error: Exception) -> str:
    """What an error says, in one line; the name of its kind if it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _unloadable(source: str, error: Exception) -> ModelError:
    return ModelError(f"{source}: cannot load ({first_line(error)}); download it first, or give a local folder")


def load(name: str | Path, dtype: str = "float32", to: torch.device | None = None) -> tuple[PreTrainedModel, Any]:
    """A causal language model in eval mode with its fast tokenizer, from a local folder or the hub.

    A folder of adapters (`gateau_lib.adapters`) gives their base with the adapters merged into it.

    Raises:
        ModelError: nothing there, the hub cannot be reached, weights and configuration are not of one model, or
            the model asks for code of its own.
    """
    tokenizer, source = load_tokenizer(name), _resolve(name)
    base = adapters.base_of(source)
    if base is None:
        model = _load_model(source, dtype)
    else:  # the base is read with the RoPE base and window that the adapters were trained at
        whole = _load_model(_resolve(base), dtype, load_config(source))
        try:
            model = adapters.merged(whole, source)
        except adapters.AdapterError as error:
            raise ModelError(f"{source}: {error}") from error
        except (OSError, ValueError, SafetensorError) as error:
            raise _unloadable(source, error) from error
    return model.to(to or device()).eval(), tokenizer


def _load_model(source: str, dtype: str, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """The model of a folder or hub id, read with another configuration than its own if one is given."""
    options = {"config": config, "dtype": getattr(torch, dtype), "use_safetensors": True}
    # What does not fit is refused below, by name; transformers would only stop at sizes, and at these without a name.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with _without_report():
            model, info = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unloadable(source, error) from error
    if wrong := _misfits(info):
        raise ModelError(f"{source}: {wrong}; weights and configuration are not of one model, fetch or save both again")
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' report of weights that do not fit, unless some were not converted: only it says why."""

    def keep(record: LogRecord) -> bool:
        text = record.getMessage()
        return "CONVERSION" in text or not ("LOAD REPORT" in text or "checkpoint seem corrupted" in text)

    logger = logging.get_logger("transformers.modeling_utils")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _misfits(info: dict[str, Any]) -> str:
    """Weights of a model that its files lack, that only the files have, or that have another size; "" if none.

    Weights that are tied to others, and those that a family is known to leave out or to have too many of, are no
    misfits: transformers has taken them out.
    """
    sizes = [
        f"{name} ({' x '.join(map(str, found))}, not {' x '.join(map(str, wanted))})"
        for name, found, wanted in info["mismatched_keys"]
    ]
    kinds = {"weights missing for": info["missing_keys"], "no place for": info["unexpected_keys"], "of another size": sizes}
    return "; ".join(f"{kind} {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: Iterable[str], shown: int = 2) -> str:
    """The first few of many names."""
    ordered = sorted(names)
    return ", ".join(ordered[:shown]) + (f" and {len(ordered) - shown} more" if len(ordered) > shown else "")


def exact(name: str | Path) -> tuple[PreTrainedModel, Any]:
    """`load` in single precision on the CPU, for worked examples: exact, and it takes no GPU memory from what is measured."""
    return load(name, to=torch.device("cpu"))


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
