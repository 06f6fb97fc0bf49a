"""ProLong: long-dependency scores from the perplexity of a segment after another segment (Chen et al., prolong/run.py).

A document is cut into segments; for sampled pairs i > j the score asks how much segment j helps to predict segment i
(strength), how far apart the two are (distance), and whether j helps more than other segments do (specificity).

A segment is encoded once: that pass gives its loss alone, and its keys and values are what every later segment of its pairs
reads as prefix. T pairs of N segments of L tokens so cost (N + T) L tokens, where reading each pair from its first token costs
(N + 2 T) L.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from gateau_lib.nll import BATCH_TOKENS, NonFiniteLoss, head_on
from gateau_lib.samples import segments

THRESHOLD = 0.1  # pairs of less strength do not count (ProLong, prolong/run.py)
PREFIX_TOKENS = 4096  # tokens whose keys and values are held at the same time: 2 GiB for Llama-2-7B in bfloat16


def document_segments(token_ids: Sequence[int], segment_length: int, window_segments: int, seed: int = 0) -> list[list[int]]:
    """Whole segments of a document; a short last one is dropped, and more than the window holds are subsampled in order."""
    if segment_length < 2 or window_segments < 2:
        raise ValueError(f"segment_length {segment_length} and window_segments {window_segments} must both be at least 2")
    whole = [s for s in segments(token_ids, segment_length) if len(s) == segment_length]
    if len(whole) <= window_segments:
        return whole
    kept = np.random.default_rng(seed).choice(len(whole), window_segments, replace=False)
    return [whole[i] for i in sorted(kept)]


def sample_pairs(n_segments: int, pairs: int, seed: int) -> np.ndarray:
    """Ordered pairs i > j of segments, (T, 2), drawn without replacement; all of them when there are no more than ``pairs``.

    Sorted by i, then j. The draw depends on the number of segments and the seed only, so a document's score does not depend on
    its place in a shard.
    """
    if pairs < 1:
        raise ValueError(f"pairs must be at least 1, got {pairs}")
    every = np.column_stack(np.tril_indices(n_segments, -1))  # (n (n - 1) / 2, 2)
    if pairs >= len(every):
        return every
    return every[np.sort(np.random.default_rng(seed).choice(len(every), pairs, replace=False))]


def pair_nll(
    model: PreTrainedModel,
    token_ids: Sequence[int],
    segment_length: int,
    pairs: np.ndarray,
    *,
    window_segments: int,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    count: Counter | None = None,
) -> tuple[dict[int, float], np.ndarray]:
    """Mean NLL of each segment's tokens but the first, alone and after another segment; no start token, as in the released code.

    Args:
        token_ids: the document, cut by `document_segments` with this ``window_segments`` and ``seed``.
        pairs: (T, 2), from `sample_pairs`.

    Returns:
        ``alone``: segment index -> nats per token, each segment of the pairs read once; ``given``: (T,) nats per token.

    Raises:
        ValueError: a pair beyond the document's segments, or not i > j.
    """
    parts = document_segments(token_ids, segment_length, window_segments, seed)
    pairs = np.asarray(pairs, dtype=int).reshape(-1, 2)
    if len(pairs) and not (pairs[:, 0].max() < len(parts) and pairs.min() >= 0 and (pairs[:, 0] > pairs[:, 1]).all()):
        raise ValueError(f"pairs must be i > j within the document's {len(parts)} whole segments")
    alone: dict[int, float] = {}
    given = np.empty(len(pairs))
    targets, needed = set(pairs[:, 0].tolist()), np.unique(pairs)
    at_once, batch = max(1, PREFIX_TOKENS // segment_length), max(1, batch_tokens // segment_length)
    for first in range(0, len(needed), at_once):
        prefixes = needed[first : first + at_once]
        cache = DynamicCache()  # without the config: a sliding layer keeps all keys, and its mask hides those out of reach
        losses = _read(model, [parts[i] for i in prefixes], cache, count)
        alone |= {int(i): float(loss) for i, loss in zip(prefixes, losses, strict=True) if i in targets}
        order = np.flatnonzero(np.isin(pairs[:, 1], prefixes))
        order = order[np.argsort(pairs[order, 1], kind="stable")]  # rows of one prefix together
        for chosen in np.split(order, range(batch, len(order), batch)):
            rows = torch.as_tensor(np.searchsorted(prefixes, pairs[chosen, 1]), device=model.device)
            given[chosen] = _read(model, [parts[i] for i in pairs[chosen, 0]], _after(cache, rows), count)
    bad = np.flatnonzero(~np.isfinite(given))
    if bad.size or not np.isfinite(list(alone.values())).all():
        raise NonFiniteLoss(int(bad[0]) if bad.size else 0)
    return alone, given


class _Prefixes(DynamicLayer):
    """One layer's keys and values of many prefixes, (P, Hkv, L, D); row b of a batch reads those of prefix ``rows[b]``."""

    def __init__(self, of: DynamicLayer, rows: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.rows = of.keys, of.values, rows
        self.dtype, self.device, self.is_initialized = of.keys.dtype, of.keys.device, True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What the batch attends to; nothing is stored, so one layer's copy exists at a time."""
        return (
            torch.cat([self.keys[self.rows], key_states], dim=-2),
            torch.cat([self.values[self.rows], value_states], dim=-2),
        )


def _after(prefixes: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """A cache for a batch whose rows follow the given prefixes."""
    cache = DynamicCache()
    cache.layers = [_Prefixes(layer, rows) for layer in prefixes.layers]
    return cache


@torch.inference_mode()
def _read(model: PreTrainedModel, parts: Sequence[Sequence[int]], cache: DynamicCache, count: Counter | None) -> np.ndarray:
    """Mean NLL of the tokens of each part but the first, after what the cache holds: (B,), nats per token."""
    ids = torch.tensor(parts, device=model.device)  # (B, L)
    size, past = ids.shape[1], cache.get_seq_length()
    head = torch.arange(ids.numel(), device=ids.device).view(ids.shape)[:, :-1].flatten()  # a row predicts the next token
    with head_on(model, head):
        logits = model(
            input_ids=ids,
            attention_mask=ids.new_ones(len(ids), past + size),
            position_ids=torch.arange(past, past + size, device=ids.device).expand(len(ids), -1),
            past_key_values=cache,
            use_cache=True,
        ).logits[0]  # (B * (L - 1), vocabulary)
    if count is not None:
        count.update(tokens=ids.numel(), padded=ids.numel(), forwards=1)
    chunks = zip(logits.split(1024), ids[:, 1:].flatten().split(1024), strict=True)
    losses = torch.cat([functional.cross_entropy(part.float(), target, reduction="none") for part, target in chunks])
    return losses.double().view(len(ids), -1).mean(1).cpu().numpy()


def dependency_terms(alone: Mapping[int, float], given: Sequence[float], pairs: np.ndarray, n_max: int) -> pd.DataFrame:
    """Strength, distance and specificity of every pair (ProLong's DST, DDI and DSP).

    Args:
        alone, given: mean NLL in nats per token, from `pair_nll`; perplexities are their exponentials.
        n_max: segments of the scorer's window; a pair that far apart has distance 1.

    Returns:
        Columns ``i, j``; ``strength`` = (PPL(c_i) - PPL(c_i|c_j)) / PPL(c_i), at most 1, negative if c_j harms; ``distance`` in
        [0, 1]; ``specificity`` in [0, 1], one minus the normalised entropy of the help over the sampled j of row i, 1 where
        only one j was sampled. Rows in the order of ``pairs``.
    """
    if n_max < 2:
        raise ValueError(f"n_max must be at least 2 segments, got {n_max}")
    table = pd.DataFrame(np.asarray(pairs, dtype=int).reshape(-1, 2), columns=["i", "j"])
    nll_alone = np.array([alone[i] for i in table["i"]], dtype=float)
    nll_given = np.asarray(given, dtype=float)
    table["strength"] = -np.expm1(nll_given - nll_alone)
    table["distance"] = ((table["i"] - table["j"]) / (n_max - 1)).clip(0, 1)
    help_in_ppl = pd.Series(np.exp(nll_alone) - np.exp(nll_given))
    table["specificity"] = help_in_ppl.groupby(table["i"]).transform(_peakedness).astype(float)
    return table


def _peakedness(help_in_ppl: pd.Series) -> float:
    """(log m - H(softmax(help))) / log m for the m pairs of one row."""
    m = len(help_in_ppl)
    return 1.0 if m == 1 else float(np.clip(1 - entropy(softmax(help_in_ppl.to_numpy())) / np.log(m), 0, 1))


def long_dependency_score(terms: pd.DataFrame, threshold: float = THRESHOLD, *, specificity: bool = True) -> float:
    """LDS: the sum of (strength + distance) x specificity over pairs of more strength than the threshold.

    It grows with the number of pairs, so compare documents of like length, or report length-matched results beside it.
    """
    strong = terms[terms["strength"] > threshold]
    weight = strong["specificity"] if specificity else 1.0
    return float(((strong["strength"] + strong["distance"]) * weight).sum())


def score_documents(
    model: PreTrainedModel,
    docs: Sequence[Sequence[int]],
    *,
    segment_length: int,
    pairs: int,
    window_segments: int = 256,
    seed: int = 0,
    threshold: float = THRESHOLD,
    as_released: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    count: Counter | None = None,
) -> pd.DataFrame:
    """Long-dependency scores of documents given as token ids.

    Args:
        pairs: T, sampled pairs a document; a document that has fewer uses all of them.
        window_segments: N_max (ProLong: 32,768 tokens in segments of 128).
        as_released: 0 for every document of fewer than T pairs, as the released code does.

    Returns:
        One row a document in the given order: ``lds``, ``lds_no_specificity`` (every specificity
        1), ``pairs`` and ``segments`` (scored). A document of fewer than two whole
        segments has no pair, and ``lds`` is NaN there (0 as released).
    """
    rows = []
    for document in docs:
        n = len(document_segments(document, segment_length, window_segments, seed))
        chosen = sample_pairs(n, pairs, seed)
        if as_released and len(chosen) < pairs:
            lds = without = 0.0
        elif not len(chosen):
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
