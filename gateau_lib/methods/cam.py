"""Contextual awareness measurement: does a model attend to the segments that make the response likely? (GATEAU, select/cam)

Two vectors over the segments of a context. *Importance*: how likely the response is given one segment and the instruction
alone. *Attention*: how much the response tokens look at the segment when the model reads the whole sample. The attention
rows are taken beside the fast kernel in the pass that also gives the response's NLL, for response queries only.
"""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

IMPORTANCES = ("softmax_nll", "softmax_ppl", "ppl")
ATTENTIONS = ("sum", "softmax")
SIGNS = ("misaligned", "aligned")










def importance_vector(segment_nll: np.ndarray, importance: str = "softmax_nll") -> np.ndarray:
    """Segment NLL (segments,) as a weight a segment.

    ``softmax_nll``: softmax of -NLL, which is 1/PPL normalised to sum one; ``softmax_ppl``: softmax of -PPL;
    ``ppl``: PPL itself over its maximum, where *low* means important.
    """
    nll = np.asarray(segment_nll, dtype=float)
    if importance == "softmax_nll":
        return softmax(-nll)
    if importance == "softmax_ppl":
        return softmax(-np.exp(np.minimum(nll, 700.0)))  # exp overflows at 709
    if importance == "ppl":
        return np.exp(nll - nll.max())
    raise ValueError(f"unknown importance {importance!r}: choose one of {', '.join(IMPORTANCES)}")


def attention_vector(attention_layers: np.ndarray, attention: str = "sum") -> np.ndarray:
    """One weight a segment from attention (layers, segments).

    ``sum``: mean over layers, normalised to sum one; ``softmax``: the softmax of those shares, nearly uniform by construction.
    """
    mean = np.asarray(attention_layers, dtype=float).mean(axis=0)
    total = mean.sum()
    # Attention that underflowed everywhere tells nothing about the segments: no preference, rather than 0/0.
    shares = mean / total if total > 0 else np.full(mean.shape, 1 / mean.size)
    if attention == "sum":
        return shares
    if attention == "softmax":
        return softmax(shares)
    raise ValueError(f"unknown attention normalisation {attention!r}: choose one of {', '.join(ATTENTIONS)}")


def contextual_awareness(
    segment_nll: np.ndarray,
    attention_layers: np.ndarray,
    *,
    importance: str = "softmax_nll",
    attention: str = "sum",
    sign: str = "misaligned",
) -> float:
    """How little (``misaligned``: 1 - cosine) or how much (``aligned``: cosine) attention follows importance.

    The cosine's sign and normalisation are in no commit of the released code; the defaults are this study's, high = select.

    Args:
        segment_nll: (segments,), from `segment_importance`.
        attention_layers: (layers, segments), from `long_pass`.

    Raises:
        ValueError: no segments, shapes that differ, NaN, or an unknown variant.
    """
    nll, layers = np.asarray(segment_nll, dtype=float), np.asarray(attention_layers, dtype=float)
    if nll.size == 0:
        raise ValueError("no context segments: contextual awareness is defined for samples with a context only")
    if layers.ndim != 2 or layers.shape[1:] != nll.shape:
        raise ValueError(f"attention has shape {layers.shape}, expected (layers, {nll.size}); use one segment length for both")
    if not (np.isfinite(nll).all() and np.isfinite(layers).all()):
        raise ValueError("segment NLL and attention must be finite; score the sample again")
    if sign not in SIGNS:
        raise ValueError(f"unknown sign {sign!r}: choose one of {', '.join(SIGNS)}")
    a, b = importance_vector(nll, importance), attention_vector(layers, attention)
    cosine = float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1.0, 1.0))
    return 1.0 - cosine if sign == "misaligned" else cosine
