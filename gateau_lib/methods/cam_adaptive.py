"""Segment importance estimated: the segments that decide contextual awareness are read, the others get a typical loss.

Exact importance reads instruction and response again for every segment, which is most of the cost of scoring. Contextual
awareness weighs each segment by its attention and its likelihood, so the segments that the response attends to, and those that
share its words, are read (`segments_read`); a spread of the others tells the losses of the rest (`estimate`). Off by default;
a table names the mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded, segments
from gateau_lib.methods.model_passes import LongPass
from gateau_lib.models.nll import BATCH_TOKENS, SequenceError, continuation_nll, named

SHARE = 0.35  # of a sample's segments that are read
FEWEST = 8  # segments read of any sample that has as many
RIDGE = 3.0  # in segments: the regression is trusted when many more than this were read
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


def _clues(attention: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """What is known of a segment before it is read, (segments, 3): attention of the mean and of the keenest layer, wording."""
    share = attention / np.maximum(attention.sum(1, keepdims=True), np.finfo(float).tiny)
    return np.column_stack([np.log(share.mean(0) + 1e-9), np.log(share.max(0) + 1e-9), shared])


def _plan(attention: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments that promise most by one clue or another, and the others in falling order, of which every k-th is read."""
    n = len(shared)
    ranks = [rankdata(-clue, method="ordinal") for clue in _clues(attention, shared).T]
    order = np.argsort(np.min(ranks, axis=0), kind="stable")
    most = min(n, round(max(FEWEST, SHARE * n) * 2 / 3))
    return order[:most], order[most:]


def _spread(n: int, total: int) -> np.ndarray:
    """Places of the segments that are read among the ``n`` that promise little, evenly spread."""
    k = min(n, max(FEWEST, round(SHARE * total)) - (total - n))
    return ((np.arange(k) + 0.5) * n / max(k, 1)).astype(int)


def segments_read(attention: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Which segments of a sample are read, (segments,) bool; the loss of the others is estimated.

    Args:
        attention: (layers, segments), from `model_passes.long_pass`.
        shared: (segments,), from `shared_text`.
    """
    top, rest = _plan(attention, shared)
    read = np.zeros(len(shared), dtype=bool)
    read[top] = read[rest[_spread(len(rest), len(shared))]] = True
    return read


def estimate(nll: np.ndarray, attention: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Every segment's NLL, (segments,), from the NLL of those that `segments_read` names, in their order.

    A ridge regression on attention and wording gives the others' level, and the segments read here and there among them give
    their scatter: without it the estimated losses would be too much alike. Estimates stay between the losses that were read.
    """
    top, rest = _plan(attention, shared)
    read = segments_read(attention, shared)
    filled = np.empty(len(read))
    filled[read] = nll
    if read.all():
        return filled
    clues = _clues(attention, shared)
    clues = (clues - clues[read].mean(0)) / (clues[read].std(0) + 1e-9)
    slope = np.linalg.solve(clues[read].T @ clues[read] + RIDGE * np.eye(clues.shape[1]), clues[read].T @ (nll - nll.mean()))
    level = nll.mean() + clues @ slope
    picked = rest[_spread(len(rest), len(read))]
    near = picked[np.arange(len(rest)) * len(picked) // len(rest)]  # for each of the rest the one read in its stretch
    guess = np.clip(level[rest] + filled[near] - level[near], nll.min(), nll.max())
    filled[rest] = np.where(read[rest], filled[rest], guess)
    return filled


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
        passes: of the same samples and segment length, from `model_passes.long_pass`.

    Returns:
        As `model_passes.segment_importance`: for each sample an array (segments,), nats per token.

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
        result.append(estimate(np.array([loss.mean() for loss in losses]), attention, shared))
    return result


def minimum_tokens(encoded: Sequence[Encoded], segment_length: int) -> int:
    """The fewest tokens that exact HMG and CAM read: each model each sample once, the long one each segment with x and y."""
    tokens = 0
    for sample in encoded:
        n = len(segments(sample.context, segment_length))
        around = len(sample.start) + len(sample.instruction) + len(sample.response)
        tokens += 2 * len(sample.ids) + len(sample.context) + n * around
    return tokens


