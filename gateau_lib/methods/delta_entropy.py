"""Delta entropy: how much surer the far context makes the model, whatever the response says.

With H_t the entropy of what the long model predicts for the place of response token t, on the whole sample or
on what the short window holds:

    delta_entropy = 1 / |y| · Σ_t (H_short,t − H_long,t)                             nats, high = select

Source: this study's, after EntropyLong (arXiv 2510.02330, known to us at second hand), which lets a context
count if it lowers the entropy at uncertain positions by more than a threshold.

Open points: no threshold and no choice of positions here, so that it differs from the one-model contrast in
one thing only: the response's tokens are read, but their probability is not. A context that makes the model
sure of something wrong has a high score.
"""

from typing import Any

import numpy as np

from gateau_lib.methods.base import Columns, Method, by, without_context


def entropy_drop(entropy_long: np.ndarray, entropy_cut: np.ndarray) -> float:
    """Mean fall of the entropy from the cut to the whole context, nats.

    Both (tokens,); if the cut reading scored the last tokens of the response only, those count.
    """
    return float((entropy_cut - entropy_long[-len(entropy_cut) :]).mean())


def _fill(reader: Any) -> Columns:
    both = zip(reader.entropy_long, reader.entropy_cut, strict=True)
    return {"delta_entropy": [entropy_drop(whole, cut) for whole, cut in both]}


DELTA_ENTROPY = Method(
    name="delta_entropy",
    title="delta entropy",
    source="this study, after EntropyLong (arXiv 2510.02330), at second hand",
    rank=by("delta_entropy"),
    needs=("delta_entropy",),
    fill=_fill,
    passes=("entropy_long", "entropy_cut"),
    columns=("delta_entropy",),
    unfit=without_context,
    look=("#66A61E", "8"),
)
