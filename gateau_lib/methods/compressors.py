"""Compressors in the place of models: what a selection by a model has to beat.

With Z the bytes that zlib (level 9) makes of a text, and Z(y | t) = Z(t y) − Z(t) what a response y
costs after a text t:

    zlib_contrast = Z(y | near, x) − Z(y | far, near, x)      bytes that the far context saves on the response
    gzip_ratio    = Z(c) / |c|                                of the context, less compressible first
    gzip_band     = −|gzip_ratio − median of the pool|        neither repetitive nor noise

The context c is *near* where a reader with the short model's window still sees it beside instruction x and
response y, and *far* before; what the maximal length cuts off is read by nobody. High = select, in all three.

Source: zlib_contrast is this study's: the one-model contrast (`baselines`) with a compressor for the model.
The band follows Olmo 3 (arXiv 2512.13961), which drops the most and the least compressible fifth of long
documents; that is known to us at second hand, no code of it was read. The ratio alone is this study's.

Open points: deflate looks back 32 KiB. Of longer texts the near part counts with its last 16,000 bytes, the
far one in pieces that fit before it, of which the best counts: evidence in several pieces is valued too low.
Another build of zlib may give other bytes. To a compressor, a word that happens to stand far away and one
that the response depends on are the same.

A sample without far context has zlib_contrast 0: nothing far can help. Without any context there is no
ratio, and the sample is left out.
"""

import zlib
from typing import Any, cast

import numpy as np
import pandas as pd

from gateau_lib.data.samples import far_and_near, kept_context
from gateau_lib.methods.base import Columns, Method, RankOptions, by, without_context
from gateau_lib.models.prompts import SEPARATOR

LEVEL = 9
REACH = 32000  # bytes that deflate looks back: 32 KiB without what it reads ahead
SHARED = 256  # bytes of a far context that two pieces share, so that no sentence is parted in both


def compressed(text: bytes) -> int:
    """Bytes of a text under zlib."""
    return len(zlib.compress(text, LEVEL))


def cost(response: bytes, before: bytes) -> int:
    """Bytes that a response adds to the compressed text before it."""
    return compressed(before + response) - compressed(before)


def bytes_saved(far: str, near: str, question: str, response: str) -> int:
    """Bytes that the far context saves on the response beyond near context and question; seldom below 0."""
    last = (near + SEPARATOR + question + SEPARATOR).encode("utf-8", "replace")
    wanted, distant = response.encode("utf-8", "replace"), far.encode("utf-8", "replace")
    if not distant:
        return 0
    if len(distant) + len(last) + len(wanted) > REACH:
        last = last[-REACH // 2 :]
    room = max(REACH // 2, REACH - len(last) - len(wanted))
    pieces = [distant[max(0, end - room) : end] for end in range(len(distant), 0, SHARED - room)]
    return cost(wanted, last) - min(cost(wanted, piece + last) for piece in pieces)


def compression_ratio(text: str) -> float | None:
    """Compressed over plain bytes, about 0.4 for English prose; None for no text."""
    plain = text.encode("utf-8", "replace")
    return compressed(plain) / len(plain) if plain else None


def _contrast(reader: Any) -> Columns:
    found = []
    for sample, encoded in zip(reader.samples, reader.encoded, strict=True):
        parts = far_and_near(sample, reader.pair.tokenizer, encoded, reader.options.short_window)
        found.append(float(bytes_saved(*parts, sample.instruction, sample.response)))
    return {"zlib_contrast": found}


def _ratio(reader: Any) -> Columns:
    both = zip(reader.samples, reader.encoded, strict=True)
    return {"gzip_ratio": [compression_ratio(kept_context(s, reader.pair.tokenizer, e)) for s, e in both]}


def _band(pool: pd.DataFrame, options: RankOptions) -> np.ndarray:
    ratio = pool["gzip_ratio"].to_numpy(dtype=float)
    return cast(np.ndarray, -np.abs(ratio - np.median(ratio)))


ZLIB_CONTRAST = Method(
    name="zlib_contrast",
    title="zlib contrast",
    source="this study",
    rank=by("zlib_contrast"),
    needs=("zlib_contrast",),
    fill=_contrast,
    needs_window=True,
    columns=("zlib_contrast",),
    unfit=without_context,
    look=("#661100", "s"),
)
GZIP_RATIO = Method(
    name="gzip_ratio",
    title="gzip ratio",
    source="this study",
    rank=by("gzip_ratio"),
    needs=("gzip_ratio",),
    fill=_ratio,
    documents=True,
    columns=("gzip_ratio",),
    look=("#A6761D", "D"),
)
GZIP_BAND = Method(
    name="gzip_band",
    title="gzip band",
    source="Olmo 3 (arXiv 2512.13961), at second hand",
    rank=_band,
    needs=("gzip_ratio",),
    look=("#DDCC77", "d"),
)
