"""Segment contrast: does the response need more of the context than its best single segment?

    segment_contrast = min_i NLL(y | s_i, x) − NLL(y | c, x)              nats per token, high = select

with the segments s_i and the losses of CAM (`cam`), so that it costs what CAM costs.

Source: this study's; the losses are those of GATEAU's contextual awareness, arXiv 2410.15633.

Open points: high where evidence lies in several segments, or where a segment is understood only with the
rest of the context, wherever it lies: near or far makes no difference. Where one segment says all, both
losses are alike, and the score is about 0. With adaptive importance (``--adaptive``) the losses of segments
are partly estimated. A sample without context has no segment and is left out.
"""

from typing import Any

import numpy as np

from gateau_lib.methods.base import Columns, Method, by, without_context


def best_segment_gap(segment_nll: np.ndarray, nll_long: float) -> float | None:
    """Loss given the best segment minus loss given all, nats per token; None without segments."""
    return float(np.min(segment_nll) - nll_long) if len(segment_nll) else None


def _fill(reader: Any) -> Columns:
    both = list(zip(reader.segment_nll, reader.nll_long, strict=True))
    return {"segment_contrast": [best_segment_gap(*each) for each in both], "nll_long": reader.nll_long}


SEGMENT_CONTRAST = Method(
    name="segment_contrast",
    title="segment contrast",
    source="this study, with the losses of GATEAU's contextual awareness (arXiv 2410.15633)",
    rank=by("segment_contrast"),
    needs=("segment_contrast",),
    fill=_fill,
    passes=("nll_long", "segment_nll"),
    columns=("segment_contrast", "nll_long"),
    unfit=without_context,
    look=("#B2182B", ">"),
)
