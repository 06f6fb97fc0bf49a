"""LongFilter: what the long window gains, weighted by how sure the model is with it.

With L(y_t) the loss of a response token by the long model, on the whole sample or on what the short window
holds:

    longfilter = 1 / |y| · Σ_t exp(−L_long(y_t)) · (L_short(y_t) − L_long(y_t))      high = select

Source: LongFilter, arXiv 2510.25804 (ICLR 2026), known to us at second hand; no code of it is public.

Open points: the paper weighs all tokens of a document, read in windows of 64k and 4k tokens, and keeps the
best fifth. Here the tokens are those of the response, as in every other score of this study, and the windows
those of the two models. The weight is the probability of the token, so a token that stays unlikely counts for
little however much it gains. Without the weight it is the one-model contrast of `baselines`.
"""

from typing import Any

import numpy as np

from gateau_lib.methods.base import Columns, Method, by, without_context


def weighted_gain(nll_long: np.ndarray, nll_cut: np.ndarray) -> float:
    """Mean gain of the whole context over the cut one, each token weighted by its probability, in nats.

    ``nll_long``, ``nll_cut``: losses with the whole and with the cut context, nats; if the cut reading scored
    the last tokens only, those count.
    """
    whole = nll_long[-len(nll_cut) :]
    return float((np.exp(-whole) * (nll_cut - whole)).mean())


def _fill(reader: Any) -> Columns:
    both = zip(reader.token_nll_long, reader.token_nll_cut, strict=True)
    return {"longfilter": [weighted_gain(whole, cut) for whole, cut in both]}


LONGFILTER = Method(
    name="longfilter",
    title="LongFilter",
    source="LongFilter (arXiv 2510.25804), at second hand",
    rank=by("longfilter"),
    needs=("longfilter",),
    fill=_fill,
    passes=("token_nll_long", "token_nll_cut"),
    columns=("longfilter",),
    unfit=without_context,
    look=("#E7298A", "h"),
)
