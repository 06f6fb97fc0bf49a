"""What decides a model's cost, without its weights: from the registry, else from the model's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM

from gateau_lib.study.errors import UserError

if TYPE_CHECKING:
    from gateau_lib.study.registry import ModelEntry


class UnknownSize(UserError):
    """A model of which nothing can be read here; the message says what to do."""


@dataclass(frozen=True)
class Size:
    """The numbers of a Llama-like model: grouped heads, a gated MLP, RMS norms."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    window: int  # tokens
    biased: bool = False  # query, key, value and output projections have biases

    @property
    def linear(self) -> int:
        """Weights, norms and biases of the layers: what every token passes, without embeddings and output head."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * (queries + keys) + self.biased * (queries + 2 * keys + self.hidden)
        return self.layers * (attention + 3 * self.hidden * self.mlp + 2 * self.hidden) + self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.linear + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def shape(self) -> Shape:
        """The same for `estimate`, which counts operations."""

        return Shape(self.linear, self.vocabulary * self.hidden, self.layers, self.heads * self.head_dim, self.window)

    @property
    def kept_by_norms(self) -> int:
        """Numbers a token that the backward pass of one layer's two norms needs: what comes in, and it normalised."""
        return 4 * self.hidden

    @property
    def kept_by_products(self) -> int:
        """Numbers a token that the rest of it needs: inputs of products and of the activation, attention's parts."""
        return 3 * self.hidden + 2 * (self.heads + self.kv_heads) * self.head_dim + 4 * self.mlp

    @property
    def cache(self) -> int:
        """Numbers a token in the key-value cache of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim






def of(name: str) -> Size:
    """The size of a model by its hub id or folder.

    Raises:
        UnknownSize: not in the registry, and no configuration in the folder, the hub's cache or on the hub.
    """
    if (Path(name).expanduser() / "config.json").is_file():
        return _configured(name)
    from gateau_lib.study import registry

    entry = registry.models().get(name)
    return (entry and _entry(entry)) or _configured(name)


def _entry(entry: ModelEntry) -> Size | None:
    """From the registry's facts; None where one is unknown."""
    facts = (entry.layers, entry.hidden, entry.mlp, entry.heads, entry.kv_heads, entry.vocabulary, entry.tied, entry.window)
    if None in facts:
        return None
    layers, hidden, mlp, heads, kv_heads, vocabulary, tied, window = facts
    return Size(layers, hidden, mlp, heads, kv_heads, hidden // heads, vocabulary, tied, window)


def _configured(name: str) -> Size:
    from gateau_lib.models import loading
    from gateau_lib.study import errors

    try:
        config = loading.load_config(name).get_text_config(decoder=True)
        heads = config.num_attention_heads
        return Size(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            config.vocab_size,
            config.tie_word_embeddings,
            config.max_position_embeddings,
            bool(getattr(config, "attention_bias", False)),
        )
    except errors.ModelError as error:
        raise UnknownSize(f"{name}: size unknown, no configuration to read ({error})") from None
    except AttributeError as error:
        raise UnknownSize(f"{name}: size unknown, its configuration is not one of a Llama-like model ({error})") from None


@dataclass(frozen=True)
class Shape:
    """What of a model decides its cost."""

    linear: int  # weights that every token is multiplied with, without embeddings and output head
    head: int  # weights of the output head, which runs on scored tokens only
    layers: int
    width: int  # heads x channels a head
    window: int

    def flops(self, tokens: int, scored: int, before: int = 0) -> float:
        """One forward pass of a sequence whose first ``before`` tokens are cached; attention counted in full and causal.

        Two operations a weight and token; for every query and key it sees, four a channel (query x key, weight x value).
        """
        seen = tokens * before + tokens * (tokens + 1) / 2
        return 2.0 * self.linear * tokens + 2.0 * self.head * scored + 4.0 * self.layers * self.width * seen


def shape_of(config: Any) -> Shape:
    """The shape of a model of that configuration, counted on a model without memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    text = config.get_text_config(decoder=True)
    tables = {id(p): p.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings()) for p in m.parameters()}
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        linear=sum(p.numel() for p in model.parameters()) - sum(tables.values()),
        head=model.get_output_embeddings().weight.numel(),
        layers=text.num_hidden_layers,
        width=text.num_attention_heads * head_dim,
        window=text.max_position_embeddings,
    )
