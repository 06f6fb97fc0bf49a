"""Segment importance estimated: the segments that decide contextual awareness are read, the others get a typical loss.

Exact importance reads instruction and response again for every segment, which is most of the cost of scoring. Contextual
awareness weighs each segment by its attention, so the most attended segments are read, and a spread of the others says what
a segment that nobody looks at is worth. Off by default; a table names the mode, and the two are never mixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr
from transformers import PreTrainedModel

from gateau_lib.cam import LongPass
from gateau_lib.nll import BATCH_TOKENS, NonFiniteLoss, continuation_nll
from gateau_lib.samples import Encoded, segments

SHARE = 0.25  # of a sample's segments that are read
FEWEST = 8  # segments read of any sample that has as many


def segments_read(attention: np.ndarray) -> np.ndarray:
    """Which segments of a sample are read, (segments,) bool; the loss of the others is estimated.

    Args:
        attention: (layers, segments), from `cam.long_pass`.
    """
    n = attention.shape[1]
    read = np.zeros(n, dtype=bool)
    budget = min(n, max(FEWEST, round(SHARE * n)))
    peak = (attention / attention.sum(1, keepdims=True)).max(0)  # one head that finds the evidence is enough
    read[np.argsort(-peak, kind="stable")[: -(-budget // 2)]] = True
    rest = np.flatnonzero(~read)
    read[rest[np.linspace(0, len(rest) - 1, budget - read.sum()).round().astype(int)]] = True
    return read


def adaptive_importance(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    passes: Sequence[LongPass],
    segment_length: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    count: Counter | None = None,
) -> list[np.ndarray]:
    """Mean response NLL given one segment and the instruction, read for `segments_read` and estimated for the others.

    Args:
        passes: of the same samples and segment length, from `cam.long_pass`.

    Returns:
        As `cam.segment_importance`: for each sample an array (segments,), nats per token.

    Raises:
        NonFiniteLoss: NaN or infinity, naming the sample.
    """
    result = []
    for sample, long_pass in zip(encoded, passes, strict=True):
        parts = segments(sample.context, segment_length)
        read = segments_read(long_pass.attention)
        prefixes = [sample.start + parts[i] + sample.instruction for i in np.flatnonzero(read)]
        try:
            losses = continuation_nll(model, prefixes, [sample.response] * len(prefixes), batch_tokens=batch_tokens, count=count)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(error.index, f"sample {sample.id!r}, segment {np.flatnonzero(read)[error.index]}") from None
        nll = np.array([loss.mean() for loss in losses])
        estimate = np.full(len(parts), np.median(nll) if len(nll) else 0.0)
        estimate[read] = nll
        result.append(estimate)
    return result


def minimum_tokens(encoded: Sequence[Encoded], segment_length: int) -> int:
    """The fewest tokens that exact HMG and CAM read: each model each sample once, the long one each segment with x and y."""
    tokens = 0
    for sample in encoded:
        n = len(segments(sample.context, segment_length))
        around = len(sample.start) + len(sample.instruction) + len(sample.response)
        tokens += 2 * len(sample.ids) + len(sample.context) + n * around
    return tokens


def fidelity(exact: Sequence[float], adaptive: Sequence[float], fraction: float = 0.1) -> dict[str, float]:
    """How well adaptive contextual awareness ranks a pool: ``rank_correlation`` (Spearman), ``top_overlap`` (share of the
    exact top ``fraction`` that the adaptive top has), ``largest_error``."""
    a, b = np.asarray(exact, dtype=float), np.asarray(adaptive, dtype=float)
    k = max(1, round(fraction * a.size))
    top = set(np.argsort(-a, kind="stable")[:k]) & set(np.argsort(-b, kind="stable")[:k])
    return {
        "rank_correlation": float(spearmanr(a, b).statistic),
        "top_overlap": len(top) / k,
        "largest_error": float(np.abs(a - b).max()),
    }
