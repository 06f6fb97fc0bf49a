"""Contextual awareness (GATEAU): does a model attend to the segments that make the response likely?

Two vectors over the segments s_i of a context c. *Importance*: how likely the response y is given one segment
and the instruction x alone. *Attention*: how much the response tokens look at the segment when the model
reads the whole sample.

    a_i = softmax_i(−NLL(y | s_i, x))
    b_i = Ā_i / Σ_j Ā_j       Ā_i: weight from the response to a key of s_i, mean over heads, tokens, layers
    CAM = 1 − (a · b) / (‖a‖ ‖b‖)                     high = misaligned = select

Source: GATEAU, contextual awareness measurement, arXiv 2410.15633; released code ``select/cam``, segments of
128 tokens.

Open points: the cosine, its normalisation and its sign are in no commit of the released code. The defaults
here are this study's, fixed before any result; the other choices are arguments of `contextual_awareness`,
compared in notebook 04.
"""

from typing import Any, Literal, cast, get_args

import numpy as np
from scipy.special import softmax

from gateau_lib.methods.base import Columns, Kind, Method, by, without_context

Importance = Literal["softmax_nll", "softmax_ppl", "ppl"]
Attention = Literal["sum", "softmax"]
Sign = Literal["misaligned", "aligned"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
SIGNS: tuple[Sign, ...] = get_args(Sign)
# Per segment: loss given it alone, share of attention, characters of the context at its borders.
DETAILS: dict[str, Kind] = {
    "cam_mode": "text",
    "segment_nll": "numbers",
    "segment_attention": "numbers",
    "segment_chars": "integers",
}


def importance_vector(segment_nll: np.ndarray, importance: Importance = "softmax_nll") -> np.ndarray:
    """Segment NLL (segments,) as a weight a segment.

    ``softmax_nll``: softmax of -NLL, which is 1/PPL normalised to sum one; ``softmax_ppl``: softmax of -PPL;
    ``ppl``: PPL itself over its maximum, where *low* means important.
    """
    nll = np.asarray(segment_nll, dtype=float)
    if importance == "softmax_nll":
        return cast(np.ndarray, softmax(-nll))
    if importance == "softmax_ppl":
        return cast(np.ndarray, softmax(-np.exp(np.minimum(nll, 700.0))))  # exp overflows at 709
    if importance == "ppl":
        return cast(np.ndarray, np.exp(nll - nll.max()))
    raise ValueError(f"unknown importance {importance!r}: choose one of {', '.join(IMPORTANCES)}")


def attention_vector(attention_layers: np.ndarray, attention: Attention = "sum") -> np.ndarray:
    """One weight a segment from attention (layers, segments).

    ``sum``: mean over layers, normalised to sum one; ``softmax``: softmax of those shares, nearly uniform.
    """
    mean = np.asarray(attention_layers, dtype=float).mean(axis=0)
    total = mean.sum()
    # Attention that underflowed everywhere tells nothing about the segments: no preference, rather than 0/0.
    shares = mean / total if total > 0 else np.full(mean.shape, 1 / mean.size)
    if attention == "sum":
        return shares
    if attention == "softmax":
        return cast(np.ndarray, softmax(shares))
    raise ValueError(f"unknown attention normalisation {attention!r}: choose one of {', '.join(ATTENTIONS)}")


def contextual_awareness(
    segment_nll: np.ndarray,
    attention_layers: np.ndarray,
    *,
    importance: Importance = "softmax_nll",
    attention: Attention = "sum",
    sign: Sign = "misaligned",
) -> float:
    """How little (``misaligned``: 1 - cosine) or how much (``aligned``: cosine) attention follows importance.

    ``segment_nll``: (segments,), ``attention_layers``: (layers, segments), both of `model_passes`.
    Raises ValueError: no segments, shapes that differ, NaN, or an unknown variant.
    """
    nll, layers = np.asarray(segment_nll, dtype=float), np.asarray(attention_layers, dtype=float)
    if nll.size == 0:
        only = "contextual awareness is defined for samples with a context only"
        raise ValueError(f"no context segments: {only}")
    if layers.ndim != 2 or layers.shape[1:] != nll.shape:
        wanted = f"(layers, {nll.size}); use one segment length for both"
        raise ValueError(f"attention has shape {layers.shape}, expected {wanted}")
    if not (np.isfinite(nll).all() and np.isfinite(layers).all()):
        raise ValueError("segment NLL and attention must be finite; score the sample again")
    if sign not in SIGNS:
        raise ValueError(f"unknown sign {sign!r}: choose one of {', '.join(SIGNS)}")
    a, b = importance_vector(nll, importance), attention_vector(layers, attention)
    cosine = float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1.0, 1.0))
    return 1.0 - cosine if sign == "misaligned" else cosine


def _fill(reader: Any) -> Columns:
    """CAM, and what it is made of; a sample without context has none of it."""
    columns: dict[str, list[Any]] = {name: [] for name in ("nll_long", "cam", *DETAILS)}
    for read, nll, chars in zip(reader.long_pass, reader.segment_nll, reader.segment_chars(), strict=True):
        values: dict[str, Any] = {"nll_long": read.nll}
        if len(nll):
            values |= {"cam": contextual_awareness(nll, read.attention), "cam_mode": reader.options.cam_mode}
            values |= {"segment_nll": nll, "segment_attention": read.mass.mean(0)}
            values["segment_chars"] = [int(place) for place in chars]
        for name, column in columns.items():
            column.append(values.get(name))
    return columns


CAM = Method(
    name="cam",
    title="CAM",
    source="GATEAU (arXiv 2410.15633), contextual awareness measurement; select/cam",
    rank=by("cam"),
    needs=("cam",),
    fill=_fill,
    passes=("long_pass", "segment_nll"),
    columns=("nll_long", "cam"),
    details=DETAILS,
    unfit=without_context,
    look=("#009E73", "D"),
)
