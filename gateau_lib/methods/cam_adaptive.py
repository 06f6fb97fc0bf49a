"""Segment importance estimated: segments that decide contextual awareness are read, the rest is inferred.

Exact importance reads instruction and response again for every segment, which is most of the cost of scoring.
CAM weighs each segment by its attention and its likelihood, so the segments that the response attends to, and
those that share its words, are read; a spread of the others tells the losses of the rest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded, segments
from gateau_lib.methods.model_passes import LongPass, segment_importance
from gateau_lib.models.nll import Count

SHARE = 0.35  # of a sample's segments that are read
FEWEST = 8  # segments read of any sample that has as many
RIDGE = 3.0  # in segments: the regression is trusted when many more than this were read
_GRAMS = (1, 2, 3)  # tokens of the pieces of text that a segment may share with the response


def shared_text(sample: Encoded, segment_length: int) -> np.ndarray:
    """How much of the response's wording stands in each segment and in few others, (segments,).

    The sum over the response's distinct pieces of 1 to 3 tokens that a segment holds, of log(segments /
    segments that hold it).
    """
    parts = segments(sample.context, segment_length)
    total = np.zeros(len(parts))
    for size in _GRAMS:
        wanted = _pieces(sample.response, size)
        held = [_pieces(part, size) & wanted for part in parts]
        holders = Counter(piece for pieces in held for piece in pieces)
        total += [sum(np.log(len(parts) / holders[piece]) for piece in pieces) for pieces in held]
    return total


def _pieces(tokens: Sequence[int], size: int) -> set[tuple[int, ...]]:
    return set(zip(*(tokens[i:] for i in range(size)), strict=False))


@dataclass(frozen=True)
class ReadingPlan:
    """Which segments of a sample are read, and how the losses of the others follow; indices of segments."""

    clues: np.ndarray  # (segments, 3): log attention of the mean and of the keenest layer, shared wording
    top: np.ndarray  # the segments that promise most by one clue or another: all are read
    rest: np.ndarray  # the others in falling order
    sampled: np.ndarray  # those of the rest that are read, evenly spread over it

    @property
    def read(self) -> np.ndarray:
        """Whether a segment is read, (segments,) bool."""
        read = np.zeros(len(self.clues), dtype=bool)
        read[self.top] = read[self.sampled] = True
        return read

    def estimate(self, nll: np.ndarray) -> np.ndarray:
        """Every segment's NLL, (segments,), from the NLL of those that are `read`, in their order.

        A ridge regression on the clues gives the others' level, and the segments sampled among them give
        their scatter: without it the estimated losses would be too much alike. Estimates stay between the
        losses that were read.
        """
        read = self.read
        filled = np.empty(len(read))
        filled[read] = nll
        if read.all():
            return filled
        known = self.clues[read]
        clues = (self.clues - known.mean(0)) / (known.std(0) + 1e-9)
        known = clues[read]
        penalty = RIDGE * np.eye(clues.shape[1])
        slope = np.linalg.solve(known.T @ known + penalty, known.T @ (nll - nll.mean()))
        level = nll.mean() + clues @ slope
        # Each of the rest scatters as the segment that was sampled from its own stretch.
        near = self.sampled[np.arange(len(self.rest)) * len(self.sampled) // len(self.rest)]
        guess = np.clip(level[self.rest] + filled[near] - level[near], nll.min(), nll.max())
        filled[self.rest] = np.where(read[self.rest], filled[self.rest], guess)
        return filled


def plan_reading(attention: np.ndarray, shared: np.ndarray) -> ReadingPlan:
    """The segments to be read, by attention (layers, segments) and `shared_text` (segments,) of a sample."""
    n = len(shared)
    share = attention / np.maximum(attention.sum(1, keepdims=True), np.finfo(float).tiny)
    clues = np.column_stack([np.log(share.mean(0) + 1e-9), np.log(share.max(0) + 1e-9), shared])
    ranks = [np.argsort(np.argsort(-clue, kind="stable")) for clue in clues.T]
    order = np.argsort(np.min(ranks, axis=0), kind="stable")
    wanted = max(FEWEST, SHARE * n)
    most = min(n, round(wanted * 2 / 3))  # a third of what is read is left for the spread
    rest = order[most:]
    spread = min(len(rest), round(wanted) - most)
    places = ((np.arange(spread) + 0.5) * len(rest) / max(spread, 1)).astype(int)
    return ReadingPlan(clues, order[:most], rest, rest[places])


def adaptive_importance(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    passes: Sequence[LongPass],
    segment_length: int,
    *,
    count: Count = None,
) -> list[np.ndarray]:
    """As `model_passes.segment_importance`, read for some segments and estimated for the others.

    ``passes``: of the same samples and segment length, from `model_passes.long_pass`.
    Raises ValueError: passes of another segment length; else as there.
    """
    plans = []
    for sample, long_pass in zip(encoded, passes, strict=True):
        shared, attended = shared_text(sample, segment_length), long_pass.attention.shape[1]
        if attended != len(shared):
            both = f"{len(shared)} segments, but attention to {attended}"
            raise ValueError(f"sample {sample.id!r}: {both}; use one length")
        plans.append(plan_reading(long_pass.attention, shared))
    chosen = [np.flatnonzero(plan.read).tolist() for plan in plans]
    losses = segment_importance(model, encoded, segment_length, chosen=chosen, count=count)
    return [plan.estimate(nll) for plan, nll in zip(plans, losses, strict=True)]


def minimum_tokens(encoded: Sequence[Encoded], segment_length: int) -> int:
    """The fewest tokens of exact HMG and CAM: each sample by both models, its segments by the long."""
    tokens = 0
    for sample in encoded:
        n = len(segments(sample.context, segment_length))
        around = len(sample.start) + len(sample.instruction) + len(sample.response)
        tokens += 2 * len(sample.ids) + len(sample.context) + n * around
    return tokens
