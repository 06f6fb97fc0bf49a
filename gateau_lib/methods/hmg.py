"""Homologous models' guidance: how much easier the response is for the long-window model (GATEAU).

Two models of one ancestry read the same sample. What the long one predicts and the short one does not needs
the long context. With context c, instruction x, response y, short model A, long model B and a pool of samples
k:

    NLL_θ  = −1/|y| · Σ_t log P_θ(y_t | c, x, y_<t)           PPL_θ = exp NLL_θ
    d_k    = minmax_k(PPL_A,k) − minmax_k(PPL_B,k)            each model's PPL moved to [0, 1] over the pool
    HMP_k  = softmax_k(d_k)                                   high = select

Source: GATEAU, homologous models' guidance, arXiv 2410.15633; released code ``select/hmg`` and
``select/rank.py``. Per sample only the two NLLs are stored; the min-max and the softmax need the whole
candidate pool.

Open points: the short model must read beyond its window. GATEAU extends it (its ablation without is worse);
how much depends on the reading, so four are kept apart (``ntk``, ``truncate``, ``raw``, and ``ntk_each``,
one factor a sample; see `model_passes.short_reader_nll`). The released code stretches nothing, see
`released.Defects`. The score table's column ``hmg`` is NLL_A − NLL_B, which needs no pool; it is shown, not
ranked by.
"""

from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from gateau_lib.methods.base import Columns, Method, without_context

Scale = Literal["minmax_ppl", "log"]
SCALES: tuple[Scale, ...] = get_args(Scale)


def min_max(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values (n,) moved to [0, 1] over the pool; a constant pool prefers nobody and gives zeros."""
    values = np.asarray(values, dtype=float)
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def pool_gap(
    nll_short: npt.ArrayLike, nll_long: npt.ArrayLike, *, scale: Scale = "minmax_ppl"
) -> npt.NDArray[np.float64]:
    """The gap d_k between the two models over a pool, (n,); high = needs the long window.

    ``minmax_ppl``: perplexities min-maxed over the pool for each model, then subtracted (GATEAU), in [-1, 1];
    ``log``: NLL difference in nats per token, which needs no pool.
    Raises ValueError: unknown scale, unequal lengths, NaN.
    """
    short, long = np.asarray(nll_short, dtype=np.float64), np.asarray(nll_long, dtype=np.float64)
    if short.shape != long.shape or short.ndim != 1 or short.size == 0:
        both = f"nll_short {short.shape} and nll_long {long.shape}"
        raise ValueError(f"{both} must be equally long lists of at least one sample")
    bad = np.flatnonzero(~(np.isfinite(short) & np.isfinite(long)))
    if bad.size:
        fix = "leave samples without both scores out of the pool"
        raise ValueError(f"NLL of row {bad[0]} is not finite; {fix}")
    if scale == "log":
        return short - long
    if scale == "minmax_ppl":
        # Over the pool's maximum: min-max forgets the factor, and a perplexity of exp(710) overflows.
        return min_max(np.exp(short - short.max())) - min_max(np.exp(long - long.max()))
    raise ValueError(f"unknown scale {scale!r}: choose one of {', '.join(SCALES)}")


def homologous_models_perplexity(nll_short: npt.ArrayLike, nll_long: npt.ArrayLike) -> np.ndarray:
    """HMP: softmax over the pool of the min-max gap (GATEAU), (n,); its largest over its smallest <= e²."""
    return cast(np.ndarray, softmax(pool_gap(nll_short, nll_long)))


def _fill(reader: Any) -> Columns:
    short, long = reader.nll_short, reader.nll_long
    return {"nll_short": short, "nll_long": long, "hmg": pool_gap(short, long, scale="log")}


HMG = Method(
    name="hmg",
    title="HMG",
    source="GATEAU (arXiv 2410.15633), homologous models' guidance; select/hmg and select/rank.py",
    rank=lambda pool, options: homologous_models_perplexity(pool["nll_short"], pool["nll_long"]),
    needs=("nll_short", "nll_long"),
    fill=_fill,
    passes=("nll_short", "nll_long"),
    columns=("nll_short", "nll_long", "hmg"),
    unfit=without_context,
    look=("#D55E00", "s"),
)
