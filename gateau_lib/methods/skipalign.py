"""Position ids that make short samples look long (SkipAlign and its baselines).

Positions go from ``i`` to ``i + b_i`` with ``b`` non-decreasing and the last one below the target window:
tokens and order stay, only distances grow. What the public text of SkipAlign (arXiv 2405.03939) does not say
is a parameter here, with our assumption:

- total skip: uniform on ``{0..target - tokens}``, as PoSE's second chunk in its released code, so that all
  strategies differ only in *where* they jump; ``reach="full"`` always jumps to the end of the window.
- number of jumps: Skip-Outer jumps at every turn boundary, Skip-Inner at ``jumps`` random places inside
  turns, Skip-All at both; the total is divided among them at random. Ids are contiguous inside the blocks
  between jumps.
- turns: context and instruction are the user turn, the response (with its end-of-text token) the assistant
  turn, as in LongAlign's messages. A sample of one question then has one boundary, before the response, and a
  jump there parts the question from its answer, which no long task does. With ``document_turn`` the document
  and the question are turns of their own, as if the one had been sent before the other: the distance between
  evidence and question grows as well.
- share of samples that are skipped: a parameter of the fine-tuning job.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from gateau_lib.data.samples import Encoded

Strategy = Literal["normal", "packed", "pose", "skip_outer", "skip_inner", "skip_all", "randpos"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Reach = Literal["uniform", "full"]


def _cuts(turns: Sequence[int], strategy: Strategy, jumps: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of the tokens before which positions jump."""
    total = sum(turns)
    if strategy == "pose":
        if total < 2:
            return np.array([], dtype=np.int64)
        return np.array([rng.integers(1, (total + 1) // 2 + 1)])  # a first chunk of 1..(n + 1) // 2 tokens
    boundaries = np.cumsum(turns)
    outer = np.unique(boundaries[(boundaries > 0) & (boundaries < total)])
    inner = np.setdiff1d(np.arange(1, total), outer)
    chosen = rng.choice(inner, min(jumps, len(inner)), replace=False)
    if strategy == "skip_outer":
        return outer
    return np.sort(chosen) if strategy == "skip_inner" else np.union1d(outer, chosen)


def skip_positions(
    turns: Sequence[int],
    target: int,
    strategy: Strategy,
    rng: np.random.Generator,
    jumps: int = 2,
    *,
    reach: Reach = "uniform",
) -> np.ndarray:
    """Position ids of one sample under a strategy: strictly increasing and below ``target``.

    ``turns``: tokens of each turn, in order; ``target``: window to be reached, tokens.
    ``jumps``: jumps inside turns (Skip-Inner and Skip-All); fewer when the turns have fewer tokens.
    ``reach``: ``uniform``, the total skip is drawn from {0..target - tokens}; ``full``, it is the largest.
    Returns int64 ``(sum(turns),)``: 0, 1, 2, ... for ``normal``, ``packed`` and where there is no jump.
    Raises ValueError: unknown strategy or reach, or more tokens than ``target``.
    Source: SkipAlign (arXiv 2405.03939); PoSE and RandPos as in dwzhu-pku/PoSE ``train_pose.py``: two chunks,
        the second skipping u ~ U{0..target - tokens}; and positions drawn from {0..target - 1}, sorted.
    """
    total = sum(turns)
    if strategy not in STRATEGIES or reach not in ("uniform", "full"):
        known = f"{', '.join(STRATEGIES)}; uniform, full"
        raise ValueError(f"unknown strategy {strategy!r} or reach {reach!r}: choose from {known}")
    if total > target:
        fix = "raise the window or cut the sample"
        raise ValueError(f"a sample of {total} tokens does not fit a window of {target}; {fix}")
    positions = np.arange(total, dtype=np.int64)
    if strategy in ("normal", "packed"):
        return positions
    if strategy == "randpos":
        return np.sort(rng.choice(target, total, replace=False)).astype(np.int64)
    cuts = _cuts(turns, strategy, jumps, rng)
    if len(cuts) == 0:
        return positions
    skip = target - total if reach == "full" else int(rng.integers(0, target - total + 1))
    inner_ends = np.sort(rng.integers(0, skip + 1, len(cuts) - 1))
    bias = np.zeros(total, dtype=np.int64)
    bias[cuts] = np.diff(np.concatenate(([0], inner_ends, [skip])))
    return positions + np.cumsum(bias)


def sample_turns(
    encoded: Encoded, ending: Sequence[int] = (), document_turn: bool = False
) -> tuple[int, ...]:
    """Tokens of the user's and the assistant's turn of a sample, ``ending`` (end-of-text) with the latter.

    ``document_turn``: three turns, document, question and response; two where a sample has no document, since
        what stands before the first text is no turn.
    """
    last = len(encoded.response) + len(ending)
    if not (document_turn and encoded.context):
        return len(encoded.prompt), last
    return len(encoded.start) + len(encoded.context), len(encoded.instruction), last
