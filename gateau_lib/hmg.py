"""Homologous models' guidance: how much easier the response is for the long-window model (GATEAU, select/hmg and rank.py).

Two models of one ancestry read the same sample. What the long one predicts and the short one does not needs the long
context. Per sample only the two NLLs are stored; the min-max and the softmax need the whole candidate pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded
from gateau_lib.models import rope
from gateau_lib.models.nll import BATCH_TOKENS, SequenceError, continuation_nll, named, response_nll

READINGS = ("ntk", "truncate", "raw")
SCALES = ("minmax_ppl", "log")


def last_window(sample: Encoded, window: int) -> tuple[list[int], list[int]]:
    """Prefix and targets of a sample cut to ``window`` tokens, the start token included.

    The context is cut on the left; instruction and response stay. If those two alone exceed the window, the last tokens of
    both are read, and a response that alone exceeds it is scored on the tokens that are left, each with a predecessor.
    """
    if window < 2:
        raise ValueError(f"window must be at least 2 tokens, got {window}")
    room = window - len(sample.start)
    body = (sample.context + sample.instruction + sample.response)[-room:]
    cut = max(0, len(body) - len(sample.response))
    prefix, targets = sample.start + body[:cut], body[cut:]
    return (prefix, targets) if prefix else (targets[:1], targets[1:])


def short_reader_nll(
    short_model: PreTrainedModel,
    encoded: Sequence[Encoded],
    reading: str,
    *,
    window: int | None = None,
    target: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    count: Counter | None = None,
) -> np.ndarray:
    """Mean response NLL of the short-window model, which must somehow read beyond its window.

    Args:
        reading: ``ntk``: RoPE stretched to ``target`` tokens by one fixed NTK base (GATEAU; its ablation "w/o extended window"
            is worse); ``truncate``: the last ``window`` tokens only, see `last_window`; ``raw``: as if it had no window.
        window: tokens the short model was trained for; the model's own ``max_position_embeddings`` by default.
        target: tokens to stretch to. Give a fixed number in a run over shards: the default, the longest sample of this call,
            makes a sample's score depend on its company.

    Returns:
        Array (n,), nats per response token.

    Raises:
        ValueError: unknown reading.
        NonFiniteLoss: NaN or infinity, naming the sample.
    """
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r}: choose one of {', '.join(READINGS)}")
    window = window or rope.window(short_model)
    if reading == "truncate":
        pairs = [last_window(s, window) for s in encoded]
        try:
            losses = continuation_nll(
                short_model, [p for p, _ in pairs], [t for _, t in pairs], batch_tokens=batch_tokens, count=count
            )
        except SequenceError as error:
            raise named(error, error.index, f"sample {encoded[error.index].id!r}") from None
        return np.array([loss.mean() for loss in losses])
    reader = short_model
    if reading == "ntk":
        target = target or max((len(s.ids) for s in encoded), default=window)
        if window != rope.window(short_model):
            reader = rope.with_rope_theta(short_model, rope.rope_theta(short_model), window)
        reader = rope.extend_window(reader, target)
    return response_nll(reader, encoded, batch_tokens=batch_tokens, count=count)


def _finite_pair(nll_short: Sequence[float], nll_long: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    short, long = np.asarray(nll_short, dtype=float), np.asarray(nll_long, dtype=float)
    if short.shape != long.shape or short.ndim != 1 or short.size == 0:
        raise ValueError(f"nll_short {short.shape} and nll_long {long.shape} must be equally long lists of at least one sample")
    bad = np.flatnonzero(~(np.isfinite(short) & np.isfinite(long)))
    if bad.size:
        raise ValueError(f"NLL of row {bad[0]} is not finite; leave samples without both scores out of the pool")
    return short, long


def min_max(values: np.ndarray) -> np.ndarray:
    """Values (n,) moved to [0, 1] over the pool; a constant pool prefers nobody and gives zeros."""
    values = np.asarray(values, dtype=float)
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def pool_gap(nll_short: Sequence[float], nll_long: Sequence[float], *, scale: str = "minmax_ppl") -> np.ndarray:
    """The gap d_k between the two models over a pool, (n,); high = needs the long window.

    ``minmax_ppl``: perplexities min-maxed over the pool for each model, then subtracted (GATEAU), in [-1, 1];
    ``log``: NLL difference in nats per token, which needs no pool.

    Raises:
        ValueError: unknown scale, unequal lengths, NaN.
    """
    short, long = _finite_pair(nll_short, nll_long)
    if scale == "log":
        return short - long
    if scale == "minmax_ppl":
        # Over the pool's maximum: min-max forgets the factor, and a perplexity of exp(710) overflows.
        return min_max(np.exp(short - short.max())) - min_max(np.exp(long - long.max()))
    raise ValueError(f"unknown scale {scale!r}: choose one of {', '.join(SCALES)}")


def homologous_models_perplexity(nll_short: Sequence[float], nll_long: Sequence[float]) -> np.ndarray:
    """HMP: softmax over the pool of the min-max gap (GATEAU), (n,), sum one; largest over smallest is at most e squared."""
    return softmax(pool_gap(nll_short, nll_long))
