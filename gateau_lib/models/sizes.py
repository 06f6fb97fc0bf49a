"""What decides a model's cost, without its weights: from the registry, else from its configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from gateau_lib.models import loading, rope
from gateau_lib.study import registry
from gateau_lib.study.errors import ModelError, reason

Rows = tuple[float, int, int]  # so many sequences, tokens of one, how many of these are scored


@dataclass(frozen=True)
class Size:
    """The numbers of a decoder that decide what it costs to read with it, to train it and to keep it."""

    linear: int  # weights that every token passes, norms and biases too; without embeddings and output head
    head: int  # weights of the output head, which runs on scored tokens only
    tied: bool  # the output head is the embedding
    layers: int
    hidden: int  # channels
    mlp: int  # channels inside the MLP
    heads: int
    kv_heads: int
    head_dim: int  # channels
    vocabulary: int  # rows of the output head
    window: int  # tokens; 0: the configuration does not say

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.linear + self.head * (1 if self.tied else 2)

    @property
    def width(self) -> int:
        """Channels of all heads."""
        return self.heads * self.head_dim

    @property
    def cache(self) -> int:
        """Numbers a token in the key-value cache of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def flops(self, tokens: int, scored: int, before: int = 0) -> float:
        """One forward pass of a sequence after ``before`` cached tokens; attention in full and causal.

        Two operations a weight and token; for every query and key it sees, four a channel (query x key,
        weight x value).
        """
        seen = tokens * before + tokens * (tokens + 1) / 2
        return 2.0 * self.linear * tokens + 2.0 * self.head * scored + 4.0 * self.layers * self.width * seen


class Work(NamedTuple):
    """One part of the study: what models do in it."""

    notebook: str
    what: str
    tokens: float  # that models read or are trained on
    operations: float
    steps: int = 0  # of an optimizer
    written: float = 0.0  # tokens, one after the other
    alone: bool = False  # one GPU does it, however many there are


def work(notebook: str, what: str, model: Size, rows: Sequence[Rows], passes: float = 1, **more: Any) -> Work:
    """The part in which a model reads these rows, each in so many passes; ``more``: fields of `Work`."""
    operations = passes * sum(count * model.flops(tokens, scored) for count, tokens, scored in rows)
    return Work(notebook, what, sum(count * tokens for count, tokens, _ in rows), operations, **more)


def of_config(config: Any) -> Size:
    """The size of a model of that configuration, counted on one without memory; ModelError if none fits."""
    try:
        return _counted(config)
    except Exception as error:  # what a family's code stumbles over
        name, why = config.name_or_path or config.model_type, f"{type(error).__name__}: {reason(error)}"
        raise ModelError(f"{name}: not a decoder's configuration ({why}); use another model") from error


def _counted(config: Any) -> Size:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    text = config.get_text_config(decoder=True)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    tables = {id(p): p.numel() for module in ends for p in module.parameters()}
    heads = _number(text, "num_attention_heads")  # none in models of states only (Mamba)
    return Size(
        linear=sum(p.numel() for p in model.parameters()) - sum(tables.values()),
        head=ends[1].weight.numel(),
        tied=ends[0].weight is ends[1].weight,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        mlp=_number(text, "intermediate_size") or 4 * text.hidden_size,
        heads=heads,
        kv_heads=_number(text, "num_key_value_heads") or heads,
        head_dim=_number(text, "head_dim") or (text.hidden_size // heads if heads else 0),
        vocabulary=len(ends[1].weight),
        window=rope.window_of(config) or 0,
    )


def _number(text: Any, name: str) -> int:
    """A number of a configuration, that of the first layer where they differ (Gemma 4); 0 without it."""
    try:
        return getattr(text, name, None) or 0
    except RuntimeError:  # transformers does not choose a layer
        return getattr(text.per_layer_config[0], name)


def of(name: str) -> Size:
    """The size of a model by its hub id or folder.

    Raises:
        ModelError: not in the registry, and no configuration in the folder, the hub's cache or on the hub.
    """
    entry = registry.models().get(name)
    if entry and not (Path(name).expanduser() / "config.json").is_file():
        shape: dict[str, Any] = {"num_hidden_layers": entry.layers, "hidden_size": entry.hidden}
        shape |= {"num_attention_heads": entry.heads, "num_key_value_heads": entry.kv_heads}
        shape |= {"intermediate_size": entry.mlp, "max_position_embeddings": entry.window}
        shape |= {"vocab_size": entry.vocabulary, "tie_word_embeddings": entry.tied}
        return of_config(LlamaConfig(**shape))
    try:
        return of_config(loading.load_config(name))
    except ModelError as error:
        raise ModelError(f"{name}: size unknown, no configuration to read ({error})") from None
