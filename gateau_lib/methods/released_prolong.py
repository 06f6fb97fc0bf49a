"""ProLong's public procedure as it was released: pair by pair, every logit, loops over all pairs.

Source: October2001/ProLong (commit 193a51b), prolong/run_batch_multi_process.py and prolong/run.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import entropy
from transformers import PreTrainedModel

from gateau_lib.methods.prolong import THRESHOLD, document_segments, sample_pairs
from gateau_lib.methods.released import every_loss

PAIRS_AT_ONCE, SINGLES_AT_ONCE = 8, 16  # prolong/run.py


@torch.inference_mode()
def _perplexities(
    model: PreTrainedModel, rows: Sequence[list[int]], last: int, at_once: int, count: Counter[str] | None
) -> np.ndarray:
    """Perplexity of the last tokens of sequences of one length, in batches, every logit computed."""
    found = []
    for begin in range(0, len(rows), at_once):
        ids = torch.tensor(rows[begin : begin + at_once], device=model.device)
        losses = every_loss(model, ids, torch.ones_like(ids), count)
        found += losses[:, -last:].mean(1).exp().tolist()
    return np.array(found)


def released_prolong(
    model: PreTrainedModel,
    docs: Sequence[Sequence[int]],
    *,
    segment_length: int,
    pairs: int,
    window_segments: int = 256,
    seed: int = 0,
    count: Counter[str] | None = None,
) -> np.ndarray:
    """ProLong's score as the released code computes it: pair by pair, every logit, loops over all pairs.

    0 for a document of fewer than ``pairs`` pairs, for a score that is NaN, and for any error; such a 0
    cannot be told from "no dependency". Which pairs are drawn follows `prolong.sample_pairs`: the released
    draw depends on a document's place.

    Returns:
        (n,) scores.
    """
    scores = []
    for document in docs:
        try:
            parts = document_segments(document, segment_length, window_segments, seed)
            alone = _perplexities(model, parts, segment_length - 1, SINGLES_AT_ONCE, count)
            chosen = sample_pairs(len(parts), pairs, seed)
            if len(chosen) < pairs:
                scores.append(0.0)
                continue
            joined = [parts[j] + parts[i] for i, j in chosen]
            after = _perplexities(model, joined, segment_length - 1, PAIRS_AT_ONCE, count)
            scores.append(np.nan_to_num(_dependency(alone, after, chosen, window_segments)))
        except Exception:  # noqa: BLE001  the released code's own rule
            scores.append(0.0)
    return np.array(scores, dtype=float)


def _dependency(alone: np.ndarray, after: np.ndarray, chosen: np.ndarray, n_max: int) -> float:
    """LDS from perplexities (prolong/run.py, compute_lds)."""
    total = 0.0
    for i in np.unique(chosen[:, 0]):
        row = chosen[:, 0] == i
        help_in_ppl = alone[i] - after[row]
        shares = np.exp(help_in_ppl - help_in_ppl.max())
        most = np.log(len(shares))
        specificity = 1.0 if len(shares) == 1 else float(np.clip((most - entropy(shares)) / most, 0, 1))
        strength = help_in_ppl / alone[i]
        distance = np.clip((i - chosen[row, 1]) / (n_max - 1), 0, 1)
        total += float(((strength + distance) * specificity)[strength > THRESHOLD].sum())
    return total
