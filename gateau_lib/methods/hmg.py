"""Homologous models' guidance: how much easier the response is for the long-window model (GATEAU, select/hmg and rank.py).

Two models of one ancestry read the same sample. What the long one predicts and the short one does not needs the long
context. Per sample only the two NLLs are stored; the min-max and the softmax need the whole candidate pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

SCALES = ("minmax_ppl", "log")






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
