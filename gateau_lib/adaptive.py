"""Segment importance estimated: the segments that decide contextual awareness are read, the others get a typical loss.

Exact importance reads instruction and response again for every segment, which is most of the cost of scoring. Contextual
awareness weighs each segment by its attention and its likelihood, so the segments that the response attends to, and those that
share its words, are read; a spread of the others tells the loss of the rest. Off by default; a table names the mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata, spearmanr
from transformers import PreTrainedModel

from gateau_lib.cam import LongPass
from gateau_lib.nll import BATCH_TOKENS, SequenceError, continuation_nll, named
from gateau_lib.samples import Encoded, segments

SHARE = 0.25  # of a sample's segments that are read
FEWEST = 8  # segments read of any sample that has as many
_GRAMS = (1, 2, 3)  # tokens of the pieces of text that a segment may share with the response


def shared_text(sample: Encoded, segment_length: int) -> np.ndarray:
    """How much of the response's wording stands in each segment and in few others, (segments,).

    The sum over the response's distinct pieces of 1 to 3 tokens that a segment holds, of log(segments / segments that hold it).
    """
    parts = segments(sample.context, segment_length)
    total = np.zeros(len(parts))
    for size in _GRAMS:
        wanted = _pieces(sample.response, size)
        held = [_pieces(part, size) & wanted for part in parts]
        spread = Counter(piece for pieces in held for piece in pieces)
        total += [sum(np.log(len(parts) / spread[piece]) for piece in pieces) for pieces in held]
    return total


def _pieces(tokens: Sequence[int], size: int) -> set[tuple[int, ...]]:
    return set(zip(*(tokens[i:] for i in range(size)), strict=False))


def _order(attention: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Segments, the one most worth reading first: by its best rank in mean attention, in any layer's attention, in wording."""
    share = attention / np.maximum(attention.sum(1, keepdims=True), np.finfo(float).tiny)
    ranks = [rankdata(-value, method="ordinal") for value in (share.mean(0), share.max(0), shared)]
    return np.argsort(np.min(ranks, axis=0), kind="stable")


def segments_read(attention: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Which segments of a sample are read, (segments,) bool; the loss of the others is estimated.

    Args:
        attention: (layers, segments), from `cam.long_pass`.
        shared: (segments,), from `shared_text`.
    """
    order, n = _order(attention, shared), len(shared)
    budget = min(n, max(FEWEST, round(SHARE * n)))
    most = -(-budget * 2 // 3)
    rest = np.linspace(most, n - 1, budget - most).round().astype(int)  # places in the order
    read = np.zeros(n, dtype=bool)
    read[order[:most]] = read[order[rest]] = True
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
        ValueError: passes of another segment length.
        NonFiniteLoss, OutOfMemory: naming the sample and the segment; ``index`` is the sample's place.
    """
    result = []
    for place, (sample, long_pass) in enumerate(zip(encoded, passes, strict=True)):
        parts, attention = segments(sample.context, segment_length), long_pass.attention
        if attention.shape[1] != len(parts):
            raise ValueError(
                f"sample {sample.id!r}: {len(parts)} segments, but attention to {attention.shape[1]}; use one length"
            )
        shared = shared_text(sample, segment_length)
        chosen = np.flatnonzero(segments_read(attention, shared))
        prefixes = [sample.start + parts[i] + sample.instruction for i in chosen]
        try:
            losses = continuation_nll(model, prefixes, [sample.response] * len(chosen), batch_tokens=batch_tokens, count=count)
        except SequenceError as error:
            raise named(error, place, f"sample {sample.id!r}, segment {chosen[error.index]}") from None
        result.append(_fill(_order(attention, shared), chosen, np.array([loss.mean() for loss in losses])))
    return result


def _fill(order: np.ndarray, chosen: np.ndarray, nll: np.ndarray) -> np.ndarray:
    """Every segment's NLL, (segments,): that of the segment read nearest to it in the order, or its own."""
    places = np.argsort(order)[chosen]  # where the read ones stand in the order
    nearest = np.abs(np.arange(len(order))[:, None] - places).argmin(1) if len(order) else np.empty(0, dtype=int)
    filled = np.empty(len(order))
    filled[order] = nll[nearest]
    return filled


def minimum_tokens(encoded: Sequence[Encoded], segment_length: int) -> int:
    """The fewest tokens that exact HMG and CAM read: each model each sample once, the long one each segment with x and y."""
    tokens = 0
    for sample in encoded:
        n = len(segments(sample.context, segment_length))
        around = len(sample.start) + len(sample.instruction) + len(sample.response)
        tokens += 2 * len(sample.ids) + len(sample.context) + n * around
    return tokens


def fidelity(exact: Sequence[float], adaptive: Sequence[float], fraction: float = 0.1) -> dict[str, float]:
    """How like the exact ranking of a pool the adaptive one is, both given as contextual awareness scores, high = select.

    Returns:
        ``rank_correlation`` (Spearman), ``top_overlap`` (share of the exact top ``fraction`` that the adaptive top has, too),
        ``largest_error`` (of a score).
    """
    a, b = np.asarray(exact, dtype=float), np.asarray(adaptive, dtype=float)
    k = max(1, round(fraction * a.size))
    common = set(np.argsort(-a, kind="stable")[:k]) & set(np.argsort(-b, kind="stable")[:k])
    return {
        "rank_correlation": float(spearmanr(a, b).statistic),
        "top_overlap": len(common) / k,
        "largest_error": float(np.abs(a - b).max()),
    }
