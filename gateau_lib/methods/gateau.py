"""GATEAU's combination of HMP and CAM, in its three scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from scipy.stats import rankdata

from gateau_lib.methods.selection import _numbers

VARIANTS = ("rank", "softmax_both", "as_released")


def combine(hmp: Sequence[float], cam: Sequence[float], variant: str = "rank", alpha: float = 0.8) -> np.ndarray:
    """GATEAU's final score, alpha x HMP + (1 - alpha) x CAM, (n,); high = select (GATEAU, select/rank.py).

    Args:
        hmp: HMP over the pool, from `hmg.homologous_models_perplexity` (sums to one).
        cam: contextual awareness scores that grow with misalignment, from `cam.contextual_awareness`.
        variant: ``as_released``: the two as they are, where HMP is of the size 1/n and so weighs next to nothing;
            ``softmax_both``: CAM softmaxed over the pool as HMP is; ``rank``: both turned into pool ranks in (0, 1], ties shared.
        alpha: weight of HMP; GATEAU 0.8 with 100k short samples, 0.7 with 10k.

    Raises:
        ValueError: NaN, unequal lengths, unknown variant, alpha outside [0, 1], or an HMP that is no softmax where that matters.
    """
    h, c = _numbers(hmp, "hmp"), _numbers(cam, "cam")
    if h.shape != c.shape:
        raise ValueError(f"hmp has {h.size} samples and cam {c.size}; score the same pool with both")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if variant == "rank":
        h, c = rankdata(h) / h.size, rankdata(c) / c.size
    elif variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    elif not (np.isclose(h.sum(), 1) and (h >= 0).all()):
        raise ValueError(f"hmp sums to {h.sum():.6g}, not 1; give hmg.homologous_models_perplexity of the whole pool")
    elif variant == "softmax_both":
        c = softmax(c)
    return alpha * h + (1 - alpha) * c
