"""GATEAU's combination of homologous models' guidance and contextual awareness, in three scales.

    score_k = α · HMP_k + (1 − α) · CAM_k                     high = select

Source: GATEAU, arXiv 2410.15633; released code ``select/rank.py``; α = 0.8 with 100k short samples, 0.7 with
10k.

Open points: HMP is a softmax over the pool, of the size 1/n; CAM is a cosine. Added as released, CAM decides
alone (notebook 06), so the same sum is kept in three scales and ``rank`` is the default.
"""

from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import softmax

from gateau_lib.methods.base import Method, RankOptions, ranks_of, without_context
from gateau_lib.methods.hmg import homologous_models_perplexity
from gateau_lib.methods.selection import numbers

Variant = Literal["rank", "softmax_both", "as_released"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


def combine(
    hmp: npt.ArrayLike, cam: npt.ArrayLike, variant: Variant = "rank", alpha: float = 0.8
) -> np.ndarray:
    """GATEAU's final score, alpha x HMP + (1 - alpha) x CAM, (n,), high = select.

    ``hmp``: HMP over the pool, from `hmg.homologous_models_perplexity` (sums to one).
    ``cam``: contextual awareness scores that grow with misalignment, from `cam.contextual_awareness`.
    ``variant``: ``as_released``: both as they are; ``softmax_both``: CAM softmaxed over the pool as HMP is;
        ``rank``: both turned into pool ranks in (0, 1], ties shared.
    Raises ValueError: NaN, unequal lengths, unknown variant, alpha outside [0, 1], an HMP that is no softmax.
    """
    h, c = numbers(hmp, "hmp"), numbers(cam, "cam")
    if h.shape != c.shape:
        raise ValueError(f"hmp has {h.size} samples and cam {c.size}; score the same pool with both")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if variant == "rank":
        h, c = ranks_of(h) / h.size, ranks_of(c) / c.size
    elif variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    elif not (np.isclose(h.sum(), 1) and (h >= 0).all()):
        raise ValueError(
            f"hmp sums to {h.sum():.6g}, not 1; give hmg.homologous_models_perplexity of the whole pool"
        )
    elif variant == "softmax_both":
        c = softmax(c)
    return alpha * h + (1 - alpha) * c


def _rank(pool: pd.DataFrame, options: RankOptions) -> np.ndarray:
    hmp = homologous_models_perplexity(pool["nll_short"], pool["nll_long"])
    return combine(hmp, pool["cam"], cast(Variant, options.combine), options.alpha)


GATEAU = Method(
    name="gateau",
    title="GATEAU",
    source="GATEAU (arXiv 2410.15633); select/rank.py",
    rank=_rank,
    needs=("nll_short", "nll_long", "cam"),
    unfit=without_context,
    look=("#0072B2", "o"),
)
