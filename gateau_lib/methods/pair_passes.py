"""What ProLong asks of a model: losses of segments alone and after another segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from gateau_lib.methods.prolong import (
    THRESHOLD,
    dependency_terms,
    document_segments,
    long_dependency_score,
    sample_pairs,
)
from gateau_lib.models import prefixes
from gateau_lib.models.nll import BATCH_TOKENS, NonFiniteLoss, continuation_nll, run_batches

PREFIX_TOKENS = 4096  # tokens whose keys and values are held at once: 2 GiB for Llama-2-7B in bfloat16
CPU_TOKENS = 2048  # the most of a pass on a processor, where prefixes take room in its caches beside the rows


def pair_nll(
    model: PreTrainedModel,
    token_ids: Sequence[int],
    segment_length: int,
    pairs: np.ndarray,
    *,
    window_segments: int,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    count: Counter[str] | None = None,
) -> tuple[dict[int, float], np.ndarray]:
    """Mean NLL of each segment's tokens but the first, alone and after another segment.

    There is no start token, as in the released code.

    Args:
        token_ids: the document, cut by `document_segments` with this ``window_segments`` and ``seed``.
        pairs: (T, 2), from `sample_pairs`.

    Returns:
        ``alone``: segment index -> nats per token, each segment of the pairs read once; ``given``: (T,) nats
        per token.

    Raises:
        ValueError: a pair beyond the document's segments, or not i > j.
        NonFiniteLoss, OutOfMemory: a segment's loss is NaN or infinite, or it does not fit into memory.
    """
    parts = document_segments(token_ids, segment_length, window_segments, seed)
    pairs = np.asarray(pairs, dtype=int).reshape(-1, 2)
    if not _fit(pairs, len(parts)):
        raise ValueError(f"pairs must be i > j within the document's {len(parts)} whole segments")
    if not prefixes.reusable(model, segment_length):
        return _whole_pairs(model, parts, pairs, batch_tokens, count)
    if model.device.type == "cpu":
        batch_tokens = min(batch_tokens, CPU_TOKENS)
    needed, given = np.unique(pairs), np.empty(len(pairs))

    def run(group: list[int]) -> list[float]:
        """Loss alone of some segments; pairs that begin with them are read while their keys are there."""
        these = needed[group]
        alone, cache = prefixes.read(model, [parts[i] for i in these], count)
        order = np.flatnonzero(np.isin(pairs[:, 1], these))
        order = order[np.argsort(pairs[order, 1], kind="stable")]
        rows = np.searchsorted(these, pairs[order, 1])

        def follow(batch: list[int]) -> list[float]:
            after = [parts[i] for i in pairs[order[batch], 0]]
            return prefixes.read_after(model, cache, rows[batch], after, count)

        given[order] = run_batches([segment_length] * len(order), batch_tokens, follow)
        return alone

    losses = run_batches([segment_length] * len(needed), min(batch_tokens, PREFIX_TOKENS), run)
    targets = set(pairs[:, 0].tolist())
    alone = {int(i): loss for i, loss in zip(needed, losses, strict=True) if int(i) in targets}
    bad = [i for i, loss in alone.items() if not np.isfinite(loss)]
    bad += pairs[~np.isfinite(given), 0].tolist()
    if bad:
        raise NonFiniteLoss(bad[0], segment=bad[0])
    return alone, given


def _fit(pairs: np.ndarray, n: int) -> bool:
    """Whether all pairs (i, j) are of ``n`` segments, the first after the second."""
    after, before = pairs.T
    return bool((after < n).all() and (before >= 0).all() and (after > before).all())


def _whole_pairs(
    model: PreTrainedModel,
    parts: Sequence[list[int]],
    pairs: np.ndarray,
    batch_tokens: int,
    count: Counter[str] | None,
) -> tuple[dict[int, float], np.ndarray]:
    """As `pair_nll`, each pair read from its first token."""
    targets = np.unique(pairs[:, 0]).tolist()
    before = [parts[i][:1] for i in targets] + [[*parts[j], parts[i][0]] for i, j in pairs]
    read = [parts[i][1:] for i in [*targets, *pairs[:, 0]]]
    losses = continuation_nll(model, before, read, batch_tokens=batch_tokens, count=count)
    means = np.array([loss.mean() for loss in losses])
    return dict(zip(targets, means[: len(targets)].tolist(), strict=True)), means[len(targets) :]


def score_documents(
    model: PreTrainedModel,
    docs: Sequence[Sequence[int]],
    *,
    segment_length: int,
    pairs: int,
    window_segments: int = 256,
    seed: int = 0,
    threshold: float = THRESHOLD,
    batch_tokens: int = BATCH_TOKENS,
    count: Counter[str] | None = None,
) -> pd.DataFrame:
    """Long-dependency scores of documents given as token ids.

    Args:
        pairs: T, sampled pairs a document; a document that has fewer uses all of them.
        window_segments: N_max (ProLong: 32,768 tokens in segments of 128).

    Returns:
        One row a document in the given order: ``lds``, ``lds_no_specificity`` (every specificity 1),
            ``pairs`` and
        ``segments`` (scored). A document of fewer than two whole segments has no pair, and ``lds`` is NaN
        there.
    """
    rows = []
    for document in docs:
        n = len(document_segments(document, segment_length, window_segments, seed))
        chosen = sample_pairs(n, pairs, seed)
        if not len(chosen):
            lds = without = float("nan")
        else:
            alone, given = pair_nll(
                model,
                document,
                segment_length,
                chosen,
                window_segments=window_segments,
                seed=seed,
                batch_tokens=batch_tokens,
                count=count,
            )
            terms = dependency_terms(alone, given, chosen, window_segments)
            lds = long_dependency_score(terms, threshold)
            without = long_dependency_score(terms, threshold, specificity=False)
        rows.append({"lds": lds, "lds_no_specificity": without, "pairs": len(chosen), "segments": n})
    return pd.DataFrame(rows, columns=["lds", "lds_no_specificity", "pairs", "segments"])
