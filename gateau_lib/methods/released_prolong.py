"""ProLong's public procedure as it was released: pair by pair, every logit, in batches of its own sizes.

Source: October2001/ProLong (commit 193a51b), prolong/run_batch_multi_process.py and prolong/run.py.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from gateau_lib.methods import prolong
from gateau_lib.methods.released import every_loss
from gateau_lib.models.nll import Count

PAIRS_AT_ONCE, SINGLES_AT_ONCE = 8, 16  # prolong/run.py


@torch.inference_mode()
def _losses(
    model: PreTrainedModel, rows: Sequence[list[int]], last: int, at_once: int, count: Count
) -> list[float]:
    """Mean loss of the last tokens of sequences of one length."""
    found = []
    for begin in range(0, len(rows), at_once):
        ids = torch.tensor(rows[begin : begin + at_once], device=model.device)
        found += every_loss(model, ids, torch.ones_like(ids), count)[:, -last:].mean(1).tolist()
    return found


def released_prolong(
    model: PreTrainedModel,
    docs: Sequence[Sequence[int]],
    *,
    segment_length: int,
    pairs: int,
    window_segments: int = 256,
    count: Count = None,
) -> np.ndarray:
    """ProLong's score of each document, (n,), as the released code reads it.

    0 for a document of fewer than ``pairs`` pairs, for NaN, and for any error; it cannot be told from "no
    dependency". Pairs are drawn by `prolong.sample_pairs`: the released draw depends on a document's place.
    """
    scores = []
    for document in docs:
        try:
            parts = prolong.document_segments(document, segment_length, window_segments, from_end=False)
            chosen = prolong.sample_pairs(len(parts), pairs, seed=0)
            alone = _losses(model, parts, segment_length - 1, SINGLES_AT_ONCE, count)
            if len(chosen) < pairs:
                scores.append(0.0)
                continue
            joined = [parts[j] + parts[i] for i, j in chosen]
            after = _losses(model, joined, segment_length - 1, PAIRS_AT_ONCE, count)
            terms = prolong.dependency_terms(dict(enumerate(alone)), after, chosen, window_segments)
            scores.append(np.nan_to_num(prolong.long_dependency_score(terms)))
        except Exception:  # noqa: BLE001  the released code's own rule
            scores.append(0.0)
    return np.array(scores, dtype=float)
