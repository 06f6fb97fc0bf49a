"""LongPPL's key tokens: how much the whole context helps where it helps a lot.

With L(y_t) the loss of a response token by the long model, on the whole sample or on what the short window
holds:

    key tokens K = {t : L_short(y_t) − L_long(y_t) > 2  and  L_long(y_t) < 2}        nats
    longppl      = 1 / |y| · Σ over K of (L_short(y_t) − L_long(y_t))                high = select

Source: Fang et al., arXiv 2410.23771 (ICLR 2025); released code ``longppl/longppl.py`` of PKU-ML/LongPPL,
whose constants these are (alpha = 2 and beta = −2, on logarithms of probabilities).

Open points: LongPPL itself, exp of the mean of L_long over K, measures a *model* on a long text. It has no
value for a text without key tokens and does not know how many there are, so it cannot rank samples. What is
ranked by here is this study's choice: the gain on key tokens, spread over the response; 0 without any. So
a sample is wanted for tokens that the far context decides and that the model then gets right; a small gain
on every token counts for nothing. The paper finds key tokens with another, strong model in windows of 4,096
tokens that move by 1,024; here the long model at hand reads the one window that ends with the sample.
"""

from typing import Any, cast

import numpy as np

from gateau_lib.methods.base import Columns, Method, by, without_context

GAIN = 2.0  # nats that the far context must save on a key token (alpha)
LOSS = 2.0  # nats that a key token may cost with it (−beta)


def key_tokens(nll_long: np.ndarray, nll_cut: np.ndarray) -> np.ndarray:
    """Which tokens are key tokens, (tokens,) bool."""
    return cast(np.ndarray, (nll_cut - nll_long > GAIN) & (nll_long < LOSS))


def key_token_gain(nll_long: np.ndarray, nll_cut: np.ndarray) -> float:
    """What the far context saves on key tokens, nats per token of the response; 0 without any.

    ``nll_long``, ``nll_cut``: losses with the whole and with the cut context, nats; if the cut reading scored
    the last tokens only, those count.
    """
    whole = nll_long[-len(nll_cut) :]
    return float(np.where(key_tokens(whole, nll_cut), nll_cut - whole, 0.0).mean())


def _fill(reader: Any) -> Columns:
    both = zip(reader.token_nll_long, reader.token_nll_cut, strict=True)
    return {"longppl": [key_token_gain(whole, cut) for whole, cut in both]}


LONGPPL = Method(
    name="longppl",
    title="LongPPL's key tokens",
    source="LongPPL (arXiv 2410.23771); longppl/longppl.py",
    rank=by("longppl"),
    needs=("longppl",),
    fill=_fill,
    passes=("token_nll_long", "token_nll_cut"),
    columns=("longppl",),
    unfit=without_context,
    look=("#7570B3", "p"),
)
