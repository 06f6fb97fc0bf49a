"""Exact attention in rows and windows, beside transformers' fast kernel: no N x N matrix in any family.

The registered implementation hands plain causal layers to SDPA. Layers with a sliding window (Mistral, Phi-3,
Gemma, Qwen) are read window by window, and layers that SDPA cannot compute in chunks of rows: soft-capped
scores (Gemma 2), and attention sinks (gpt-oss). A `Tap` sees every layer's queries and keys on the way,
rotated and normalised, and can ask for attention weights of a few rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gateau_lib.study.errors import ModelError

IMPLEMENTATION = "rows_and_windows"
SCORE_ELEMENTS = 2**25  # attention weights held at the same time, at most: 128 MiB in fp32
_CACHE_ELEMENTS = 2**20  # what a CPU's cache holds of them: three times as fast as fresh memory
_FEWEST_ROWS = 16  # of a chunk on a CPU: with fewer, all keys are read too often
_OTHERS = "use a Llama-like model, or leave out cam and longattn"

# What transformers' models hand to an attention function beside queries, keys and values. Any other keyword
# may change what is attended to, and families grow new ones (`indices`, `block_indices`, `sinks`,
# `position_bias`), so it is refused.
_KNOWN = {"scaling", "dropout", "is_causal"}
# The mask and the rotated queries hold these already; the second line is the same mask for flash attention.
_KNOWN |= {"sliding_window", "position_ids", "cache_position", "seq_idx"}
_KNOWN |= {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
# What the model returns, and what `Trainer` gives to the loss.
_KNOWN |= {"use_cache", "output_attentions", "output_hidden_states", "output_router_logits"}
_KNOWN |= {"num_items_in_batch", "logits_to_keep"}


@dataclass(frozen=True)
class Layer:
    """What one attention layer computes with; positions are already in its queries and keys."""

    query: torch.Tensor  # (B, Hq, N, D)
    key: torch.Tensor  # (B, Hkv, N, D)
    scaling: float
    # (B or 1, Hq or 1, N, N), True where seen, or what is added to scores; None: causal, within `window`.
    mask: torch.Tensor | None
    window: int | None  # a token sees itself and the window - 1 tokens before it; None: all before it
    softcap: float | None
    kind: str | None = None  # "full_attention" or what else the configuration calls it; None: it does not say
    sinks: torch.Tensor | None = None  # (Hq,), each head's score of one more key, which has no value

    @property
    def sees_all(self) -> bool:
        """Whether a token sees every token before it, in a text of any length."""
        # Chunked layers (Llama 4) have no window; in a text within one chunk they have no mask either.
        return self.window is None and self.kind not in ("sliding_attention", "chunked_attention")

    def weights(self, b: int, begin: int, end: int) -> tuple[int, torch.Tensor]:
        """The first key that rows [begin, end) of sequence b see; weights (Hq, rows, end - first), fp32.

        A row sums to 1, with sinks to less.
        """
        query, key = self.query[b, :, begin:end], self.key[b]
        window = self.window if self.window is not None and self.window < end else None
        first = 0 if window is None else max(0, begin - window + 1)
        # Scores in fp32, as the fused kernel accumulates them. Query heads that share a key stand one after
        # another, so that one product serves all of them without repeating the key: (Hkv, G * rows, D).
        rows = query.reshape(key.shape[0], -1, key.shape[2])
        scores = _products(rows, key[:, first:end].transpose(1, 2), self.scaling)
        scores = scores.view(query.shape[0], end - begin, end - first)
        if self.softcap is not None:
            scores = scores.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.mask is not None:
            mask = self.mask[b if self.mask.shape[0] > 1 else 0, :, begin:end, first:end]
            if mask.dtype == torch.bool:
                scores.masked_fill_(~mask, float("-inf"))
            else:  # not only what is hidden: Doge learns what it adds
                scores.add_(mask)
        elif window is not None:
            scores.masked_fill_(~_visible(begin, end, first, window, scores.device), float("-inf"))
        else:
            # Only the square at the end can lie in the future: no mask as large as the scores.
            future = torch.ones(end - begin, end - begin, dtype=torch.bool, device=scores.device).triu(1)
            scores[:, :, begin - end :].masked_fill_(future, float("-inf"))
        if self.sinks is None:
            return first, scores.softmax(-1)
        sinks = self.sinks.float().view(-1, 1, 1).expand(-1, end - begin, 1)
        return first, torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]

    def chunks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Rows [start, stop) in pieces of at most `SCORE_ELEMENTS` weights (one row, if that is more)."""
        row = self.query.shape[1] * stop
        step = SCORE_ELEMENTS // row
        if self.query.device.type == "cpu":
            step = min(step, max(_FEWEST_ROWS, _CACHE_ELEMENTS // row))
        for begin in range(start, stop, max(1, step)):
            yield begin, min(begin + max(1, step), stop)


Tap = Callable[[Layer], None]
_TAP: ContextVar[Tap | None] = ContextVar("tap", default=None)


def _products(rows: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Scaled products of rows (H, R, D) and keys (H, D, K), fp32, (H, R, K)."""
    if rows.is_cuda and rows.dtype in (torch.bfloat16, torch.float16):
        # Products of half-precision numbers are exact in fp32, in which the card adds them up: the same as
        # below, without copies of all keys and at ten times the rate.
        return torch.bmm(rows, keys, out_dtype=torch.float32).mul_(scaling)
    return (rows.float() * scaling) @ keys.float()


def _visible(begin: int, end: int, first: int, window: int, device: torch.device) -> torch.Tensor:
    """Which keys [first, end) the rows [begin, end) see, (rows, keys)."""
    distance = torch.arange(begin, end, device=device)[:, None] - torch.arange(first, end, device=device)
    return (distance >= 0) & (distance < window)


def _windowed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int
) -> torch.Tensor:
    """Causal attention within a sliding window, (B, Hq, N, D): time and memory grow with N x window."""
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    parts = []
    # A window of rows sees its own keys and those of the window before it, no others.
    for begin in range(0, length, window):
        end, first = min(begin + window, length), max(0, begin - window + 1)
        keys, values = (t[:, :, first:end].repeat_interleave(groups, dim=1) for t in (key, value))
        seen = _visible(begin, end, first, window, query.device)
        read = functional.scaled_dot_product_attention
        parts.append(read(query[:, :, begin:end], keys, values, attn_mask=seen, scale=scaling))
    return torch.cat(parts, dim=2)


def _in_rows(layer: Layer, value: torch.Tensor) -> torch.Tensor:
    """Attention by explicit weights, (B, Hq, N, D), in chunks of rows: where no fast kernel computes it."""
    query = layer.query
    out = torch.empty(*query.shape[:3], value.shape[3], dtype=query.dtype, device=query.device)
    for b in range(len(query)):
        for begin, end in layer.chunks(0, query.shape[2]):
            first, weights = layer.weights(b, begin, end)
            seen = value[b, :, first:end]  # (Hkv, K, D)
            # As eager attention does: softmax in fp32, values mixed in the model's dtype.
            mixed = weights.to(value.dtype).reshape(len(seen), -1, end - first) @ seen
            out[b, :, begin:end] = mixed.view(-1, end - begin, value.shape[3])
    return out


@dataclass(frozen=True)
class Window:
    """In place of a mask: a token sees itself and the ``size - 1`` tokens before it."""

    size: int

    def __getitem__(self, place: tuple[slice, ...]) -> "Window":
        # Gemma 4 takes the rows whose logits are wanted out of every mask; here that is all of them.
        if any(part not in (slice(None), slice(0, None)) for part in place):
            raise ModelError("a part of a sliding window's rows is not read here; use another model")
        return self


def _refuse_unread(module: torch.nn.Module, keywords: dict[str, Any]) -> None:
    """Raise ModelError for a keyword that the attention function here would swallow."""
    # Some families (DeepSeek-V3.2, GLM-5) mask keys only for the implementations named eager and sdpa, and
    # hand any other one the indices of those that are left.
    odd = next((name for name, value in keywords.items() if value is not None and name not in _KNOWN), None)
    looks_ahead = keywords.get("is_causal") is False or not getattr(module, "is_causal", True)
    if odd is None and looks_ahead:
        odd = "a view ahead"
    if odd is not None:
        raise ModelError(f"{type(module).__name__}: attention with {odd} is not read here; use another model")


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | Window | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every attention layer: the output (B, N, Hq, D), and no weights."""
    _refuse_unread(module, kwargs)
    window = attention_mask.size if isinstance(attention_mask, Window) else None
    mask = None if isinstance(attention_mask, Window) else attention_mask
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    tap, in_rows = _TAP.get(), softcap is not None or s_aux is not None
    if key.shape[2] != query.shape[2] and (tap or window or in_rows or (mask is None and query.shape[2] > 1)):
        fix = "rows are read from whole sequences; call the model with use_cache=False"
        raise ModelError(f"{type(module).__name__}: {query.shape[2]} queries on {key.shape[2]} keys; {fix}")
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    index = getattr(module, "layer_idx", None)
    kind = kinds[index] if kinds and index is not None else None
    layer = Layer(query, key, scaling, mask, window, softcap, kind, s_aux)
    if tap is not None:
        tap(layer)
    if in_rows:
        return _in_rows(layer, value).transpose(1, 2).contiguous(), None
    if window is not None and window < query.shape[2]:
        return _windowed(query, key, value, scaling, window).transpose(1, 2).contiguous(), None
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, scaling=scaling, **kwargs)


def _mask(
    *,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., torch.Tensor],
    local_size: int | None = None,
    **kwargs: Any,
) -> torch.Tensor | Window | None:
    """`Window` for a sliding window over whole sequences without padding; else transformers' mask, N x N."""
    padding = kwargs.get("attention_mask")
    whole = q_length == kv_length and (padding is None or bool(padding.all()))
    causal = kwargs.get("allow_is_causal_skip", True)  # False: a family adds to the causal pattern
    device = kwargs.get("device", "cpu")
    if local_size and whole and causal and _slides(mask_function, local_size, q_length, device):
        return Window(local_size)
    asked = {"mask_function": mask_function, "local_size": local_size, **kwargs}
    return sdpa_mask(q_length=q_length, kv_length=kv_length, **asked)


def _slides(
    mask_function: Callable[..., torch.Tensor], size: int, length: int, device: torch.device | str
) -> bool:
    """Whether a pattern of ``size`` keys is a sliding window."""
    # Chunked attention (Llama 4) has a size too. The two differ in the first row after a chunk, which sees
    # itself only; that row and the last one are asked, so that no N x N pattern is made.
    rows = torch.tensor([min(size, length - 1), length - 1], device=device)
    keys = torch.arange(length, device=device)
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)  # batch and head
    seen = mask_function(zero, zero, rows.view(1, 1, -1, 1), keys.view(1, 1, 1, -1))
    distance = rows[:, None] - keys
    return torch.equal(seen.expand(1, 1, 2, length)[0, 0], (distance >= 0) & (distance < size))


# Said anew at each pass, and the one who needs the exchange says it (`reading_rows`).
_NOISE = "does not support setting its attention implementation dynamically"
getLogger("transformers.modeling_utils").addFilter(lambda record: _NOISE not in str(record.msg))

# Both or neither: without its mask function, an attention function is called with None, padded or not.
AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, _mask)


@contextmanager
def reading_rows(model: PreTrainedModel, tap: Tap | None = None) -> Iterator[None]:
    """For a while, let attention layers be computed as this module does, and ``tap`` see each of them.

    Raises ModelError: the family's attention cannot be exchanged, and there is a tap that would see nothing.
    """
    before = model.config._attn_implementation
    if before != IMPLEMENTATION:
        model.set_attn_implementation(IMPLEMENTATION)
    if tap is not None and model.config._attn_implementation != IMPLEMENTATION:
        raise ModelError(f"{model.config.model_type}: attention of this family cannot be read; {_OTHERS}")
    token = _TAP.set(tap)
    try:
        yield
    finally:
        _TAP.reset(token)
        if before != IMPLEMENTATION:
            model.set_attn_implementation(before)


def check_layers(model: PreTrainedModel, seen: int) -> None:
    """Raise ModelError unless a tap saw every layer: some families mix other kinds of layers in."""
    config = model.config.get_text_config(decoder=True)
    if seen != config.num_hidden_layers:
        found = f"{seen} of {config.num_hidden_layers} layers have softmax attention to read"
        raise ModelError(f"{model.config.model_type}: {found}; {_OTHERS}")
