"""ProLong: long-dependency scores from the perplexity of a segment after another segment (Chen et al.).

A document is cut into segments of 128 tokens, counted from its end; for sampled pairs i > j the score asks
how much segment c_j helps to predict segment c_i (strength), how far apart the two are (distance), and
whether c_j helps more than other segments do (specificity):

    DST_ij = (PPL(c_i) − PPL(c_i | c_j)) / PPL(c_i)
    DDI_ij = (i − j) / (N_max − 1)                            N_max: segments that the window holds
    DSP_i  = 1 − H(softmax_j(PPL(c_i) − PPL(c_i | c_j))) / log m        over the m sampled j of row i
    LDS    = Σ over pairs with DST_ij > 1/10 of (DST_ij + DDI_ij) · DSP_i         high = select

Source: ProLong, arXiv 2405.17915; released code ``prolong/run.py``. A segment's first token is not scored, as
there.

Open points: the released code counts segments from the beginning and drops a last one that is not whole; in
an instruction sample the response stands there. Here a first one that is not whole is dropped. The paper
samples 5,000 pairs a document, the released scripts 500; a document with fewer pairs uses all it has here,
and gets zero there. The sum grows with the number of pairs, and so with length.

A segment is encoded once: that pass gives its loss alone, and its keys and values are what every later
segment of its pairs reads as prefix. T pairs of N segments of L tokens so cost (N + T) L tokens, where
reading each pair from its first token costs (N + 2 T) L (`pair_passes`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import entr, softmax

from gateau_lib.data.samples import segments
from gateau_lib.methods.base import Columns, Method, by

THRESHOLD = 0.1  # pairs of less strength do not count (ProLong, prolong/run.py)


def document_segments(
    token_ids: Sequence[int],
    segment_length: int,
    window_segments: int,
    seed: int = 0,
    *,
    from_end: bool = True,
) -> list[list[int]]:
    """Whole segments of a document up to its last token; of more than the window holds, some in order.

    What is left over stands before them, or after them without ``from_end`` (as released).
    """
    if segment_length < 2 or window_segments < 2:
        raise ValueError(
            f"segment_length {segment_length} and window_segments {window_segments} must both be at least 2"
        )
    spare = len(token_ids) % segment_length
    used = token_ids[spare:] if from_end else token_ids[: len(token_ids) - spare]
    whole = segments(used, segment_length)
    if len(whole) <= window_segments:
        return whole
    kept = np.random.default_rng(seed).choice(len(whole), window_segments, replace=False)
    return [whole[i] for i in sorted(kept)]


def sample_pairs(n_segments: int, pairs: int, seed: int) -> np.ndarray:
    """Pairs i > j of segments, (T, 2), sorted, drawn without replacement; all of them if ``pairs`` suffice.

    The draw depends on the number of segments and the seed only, not on a document's place in a shard.
    """
    if pairs < 1:
        raise ValueError(f"pairs must be at least 1, got {pairs}")
    every = np.column_stack(np.tril_indices(n_segments, -1))  # (n (n - 1) / 2, 2)
    if pairs >= len(every):
        return every
    return every[np.sort(np.random.default_rng(seed).choice(len(every), pairs, replace=False))]


def dependency_terms(
    alone: Mapping[int, float], given: npt.ArrayLike, pairs: np.ndarray, n_max: int
) -> pd.DataFrame:
    """Strength, distance and specificity of every pair (ProLong's DST, DDI and DSP).

    ``alone``, ``given``: mean NLL in nats per token, from `pair_passes.pair_nll`.
    ``n_max``: segments of the scorer's window; a pair that far apart has distance 1.
    Returns columns ``i, j``; ``strength``, at most 1, negative if c_j harms; ``distance`` and ``specificity``
        in [0, 1], the latter 1 where only one j was sampled. Rows in the order of ``pairs``.
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
    entropy = entr(softmax(help_in_ppl.to_numpy())).sum()
    return 1.0 if m == 1 else float(np.clip(1 - entropy / np.log(m), 0, 1))


def long_dependency_score(
    terms: pd.DataFrame, threshold: float = THRESHOLD, *, specificity: bool = True
) -> float:
    """LDS: sum of (strength + distance) x specificity of pairs over the threshold; grows with the text."""
    strong = terms[terms["strength"] > threshold]
    weight = strong["specificity"] if specificity else 1.0
    return float(((strong["strength"] + strong["distance"]) * weight).sum())


def _fill(reader: Any) -> Columns:
    """LDS of context, instruction and response as one document; fewer than two segments have none."""
    scored = reader.dependencies
    return {"prolong": [lds if n else None for lds, n in zip(scored["lds"], scored["pairs"], strict=True)]}


PROLONG = Method(
    name="prolong",
    title="ProLong",
    source="ProLong (arXiv 2405.17915); prolong/run.py",
    rank=by("prolong"),
    needs=("prolong",),
    fill=_fill,
    passes=("dependencies",),
    documents=True,
    columns=("prolong",),
    look=("#E69F00", "^"),
)
