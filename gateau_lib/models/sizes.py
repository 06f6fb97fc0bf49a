"""What decides a model's cost, without its weights: from the registry, else from its configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

from gateau_lib.models import loading
from gateau_lib.study import registry
from gateau_lib.study.errors import ModelError, UserError


class UnknownSize(UserError):
    """A model of which nothing can be read here; the message says what to do."""


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
    window: int  # tokens

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
        """Operations of one forward pass after ``before`` cached tokens; attention in full and causal."""
        # Two a weight and token; for a query and a key it sees, four a channel (query x key, weight x value).
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
    speed: float = 1.0  # of its operations, over bfloat16's
    alone: bool = False  # one GPU does it, however many there are


def llama(
    layers: int, hidden: int, mlp: int, heads: int, kv_heads: int, vocabulary: int, *,
    tied: bool, window: int, biased: bool = False,
) -> Size:  # fmt: skip
    """The size of a Llama-like model: grouped heads, a gated MLP, RMS norms, ``biased`` projections."""
    head_dim = hidden // heads
    queries, keys = heads * head_dim, kv_heads * head_dim
    attention = 2 * hidden * (queries + keys) + biased * (queries + 2 * keys + hidden)
    linear = layers * (attention + 3 * hidden * mlp + 2 * hidden) + hidden
    shape = (layers, hidden, mlp, heads, kv_heads, head_dim, vocabulary, window)
    return Size(linear, vocabulary * hidden, tied, *shape)


def of_config(config: Any) -> Size:
    """The size of a model of that configuration, counted on a model without memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    text = config.get_text_config(decoder=True)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    tables = {id(p): p.numel() for module in ends for p in module.parameters()}
    heads = text.num_attention_heads
    return Size(
        linear=sum(p.numel() for p in model.parameters()) - sum(tables.values()),
        head=ends[1].weight.numel(),
        tied=ends[0].weight is ends[1].weight,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        mlp=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=len(ends[1].weight),
        window=text.max_position_embeddings,
    )


def of(name: str) -> Size:
    """The size of a model by its hub id or folder; UnknownSize if neither registry nor configuration says."""
    entry = registry.models().get(name)
    if entry and not (Path(name).expanduser() / "config.json").is_file():
        facts = (entry.layers, entry.hidden, entry.mlp, entry.heads, entry.kv_heads, entry.vocabulary)
        return llama(*facts, tied=entry.tied, window=entry.window)
    try:
        return of_config(loading.load_config(name))
    except ModelError as error:
        raise UnknownSize(f"{name}: size unknown, no configuration to read ({error})") from None
    except AttributeError as error:
        why = "its configuration is not one of a decoder"
        raise UnknownSize(f"{name}: size unknown, {why} ({error})") from None
