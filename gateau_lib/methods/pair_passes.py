"""What ProLong asks of a model: losses of segments alone and after another segment."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from gateau_lib.methods import prolong
from gateau_lib.models import prefixes
from gateau_lib.models.nll import (
    Count,
    NonFiniteLoss,
    SequenceError,
    continuation_nll,
    most_tokens,
    run_batches,
)

NO_PAIRS = np.empty((0, 2), dtype=int)
PREFIX_TOKENS = 4096  # tokens whose keys and values are held at once: 2 GiB for Llama-2-7B in bfloat16


def pair_nll(
    model: PreTrainedModel,
    token_ids: Sequence[int],
    segment_length: int,
    pairs: np.ndarray,
    *,
    window_segments: int,
    seed: int = 0,
    count: Count = None,
) -> tuple[dict[int, float], np.ndarray]:
    """Mean NLL of each segment's tokens but the first, alone and after another; no start token, as released.

    ``token_ids``: a document, cut by `prolong.document_segments` with this ``window_segments`` and ``seed``.
    ``pairs``: (T, 2), from `prolong.sample_pairs`.
    Returns ``alone``: segment -> nats per token, each segment read once; ``given``: (T,) nats per token.
    Raises ValueError: a pair beyond the document's segments, or not i > j; NonFiniteLoss, OutOfMemory.
    """
    parts = prolong.document_segments(token_ids, segment_length, window_segments, seed)
    pairs = np.asarray(pairs, dtype=int).reshape(-1, 2)
    if not ((pairs[:, 0] < len(parts)) & (pairs[:, 1] >= 0) & (pairs[:, 0] > pairs[:, 1])).all():
        raise ValueError(f"pairs must be i > j within the document's {len(parts)} whole segments")
    return _losses(model, parts, segment_length, pairs, count)


def _losses(
    model: PreTrainedModel, parts: Sequence[list[int]], segment_length: int, pairs: np.ndarray, count: Count
) -> tuple[dict[int, float], np.ndarray]:
    """As `pair_nll`, of ``pairs`` of ``parts``: segments of one length, also of several documents."""
    later, earlier = pairs.T
    if not prefixes.reusable(model, segment_length):
        return _whole_pairs(model, parts, pairs, count)
    batch_tokens = most_tokens(model)
    needed, given = np.unique(pairs), np.empty(len(pairs))

    def run(group: list[int]) -> list[float]:
        """Loss alone of some segments; pairs that begin with them are read while their keys are there."""
        these = needed[group]
        alone, cache = prefixes.read(model, [parts[i] for i in these], count)
        order = np.flatnonzero(np.isin(earlier, these))
        order = order[np.argsort(earlier[order], kind="stable")]
        rows = np.searchsorted(these, earlier[order])

        def follow(batch: list[int]) -> list[float]:
            after = [parts[i] for i in later[order[batch]]]
            return prefixes.read_after(model, cache, rows[batch], after, count)

        given[order] = run_batches([segment_length] * len(order), batch_tokens, follow)
        return alone

    try:
        losses = run_batches([segment_length] * len(needed), min(batch_tokens, PREFIX_TOKENS), run)
    except prefixes.NotKept:
        return _whole_pairs(model, parts, pairs, count)
    targets = set(later.tolist())
    alone = {int(i): loss for i, loss in zip(needed, losses, strict=True) if int(i) in targets}
    bad = [i for i, loss in alone.items() if not np.isfinite(loss)]
    bad += later[~np.isfinite(given)].tolist()
    if bad:
        raise NonFiniteLoss(bad[0], segment=bad[0])
    return alone, given


def _whole_pairs(
    model: PreTrainedModel, parts: Sequence[list[int]], pairs: np.ndarray, count: Count
) -> tuple[dict[int, float], np.ndarray]:
    """As `pair_nll`, each pair read from its first token."""
    targets = np.unique(pairs[:, 0]).tolist()
    before = [parts[i][:1] for i in targets] + [[*parts[j], parts[i][0]] for i, j in pairs]
    read = [parts[i][1:] for i in [*targets, *pairs[:, 0]]]
    means = np.array([loss.mean() for loss in continuation_nll(model, before, read, count=count)])
    return dict(zip(targets, means[: len(targets)].tolist(), strict=True)), means[len(targets) :]


def score_documents(
    model: PreTrainedModel,
    docs: Sequence[Sequence[int]],
    *,
    segment_length: int,
    pairs: int,
    window_segments: int = 256,
    seed: int = 0,
    count: Count = None,
) -> pd.DataFrame:
    """Long-dependency scores of documents given as token ids.

    ``pairs``: T, sampled pairs a document; a document that has fewer uses all of them.
    ``window_segments``: N_max (ProLong: 32,768 tokens in segments of 128).
    Raises NonFiniteLoss, OutOfMemory: with the document's place as ``index``, and its segment where known.
    Returns a row a document: ``lds``, ``lds_no_specificity`` (every specificity 1), ``pairs``, ``segments``.
        A document of fewer than two whole segments has no pair, and both scores are NaN there.
    """
    # All documents in one call: pairs of short ones fill batches together.
    parts = [prolong.document_segments(document, segment_length, window_segments, seed) for document in docs]
    chosen = [prolong.sample_pairs(len(own), pairs, seed) for own in parts]
    first = np.cumsum([0, *map(len, parts)])
    every = np.concatenate([NO_PAIRS, *(own + begin for own, begin in zip(chosen, first, strict=False))])
    try:
        joined = [segment for own in parts for segment in own]
        alone, given = _losses(model, joined, segment_length, every, count)
    except SequenceError as error:
        if error.segment is None:
            raise
        place = int(np.searchsorted(first, error.segment, side="right")) - 1
        raise type(error)(place, segment=int(error.segment - first[place])) from None
    rows, after = [], np.split(given, np.cumsum([len(own) for own in chosen]))
    for place, own in enumerate(chosen):
        lds = without = float("nan")
        if len(own):
            before = {int(i): alone[int(first[place] + i)] for i in own[:, 0]}
            terms = prolong.dependency_terms(before, after[place], own, window_segments)
            lds = prolong.long_dependency_score(terms)
            without = prolong.long_dependency_score(terms, specificity=False)
        n = len(parts[place])
        rows.append({"lds": lds, "lds_no_specificity": without, "pairs": len(own), "segments": n})
    return pd.DataFrame(rows, columns=["lds", "lds_no_specificity", "pairs", "segments"])
