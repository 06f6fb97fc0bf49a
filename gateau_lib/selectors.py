"""From scores to selections: GATEAU's combinations, baselines, and how well a score finds labelled samples.

Every function here works on the whole pool, refuses NaN by name, and does not depend on the order of the pool.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import softmax
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

VARIANTS = ("rank", "softmax_both", "as_released")


def _numbers(values: Sequence[float], name: str, ids: Sequence[str] | None = None) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0 or (ids is not None and array.size != len(ids)):
        raise ValueError(f"{name} has shape {array.shape}; expected one number for each of at least one sample")
    bad = np.flatnonzero(np.isnan(array))
    if bad.size:
        where = f"sample {ids[bad[0]]!r}" if ids is not None else f"row {bad[0]}"
        raise ValueError(f"{name}: {where} is NaN; leave samples that could not be scored out of the pool")
    return array


def _unique(ids: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    for each in ids:
        if each in seen:
            raise ValueError(f"id {each!r} occurs twice; ids must be unique")
        seen.add(each)
    return list(ids)


def size(n: int, fraction: float) -> int:
    """Samples in the top ``fraction`` of n, rounded up."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    return math.ceil(round(fraction * n, 9))  # 0.07 * 100 is 7.000000000000001


def combine(hmp: Sequence[float], cam: Sequence[float], variant: str = "rank", alpha: float = 0.8) -> np.ndarray:
    """GATEAU's final score, alpha x HMP + (1 - alpha) x CAM, (n,); high = select (GATEAU, select/rank.py).

    Args:
        hmp: HMP over the pool, from `hmg.homologous_models_perplexity` (sums to one).
        cam: contextual awareness scores that grow with misalignment, from `cam.contextual_awareness`.
        variant: ``as_released``: the two as they are, where HMP is of the size 1/n and so weighs next to nothing;
            ``softmax_both``: CAM softmaxed over the pool as HMP is; ``rank``: both turned into pool ranks in (0, 1], ties shared.
        alpha: weight of HMP; GATEAU 0.8 with 100k short samples, 0.7 with 10k.

    Raises:
        ValueError: NaN, unequal lengths, unknown variant, alpha outside [0, 1], or an HMP that is no softmax where that matters.
    """
    h, c = _numbers(hmp, "hmp"), _numbers(cam, "cam")
    if h.shape != c.shape:
        raise ValueError(f"hmp has {h.size} samples and cam {c.size}; score the same pool with both")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if variant == "rank":
        h, c = rankdata(h) / h.size, rankdata(c) / c.size
    elif variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    elif not (np.isclose(h.sum(), 1) and (h >= 0).all()):
        raise ValueError(f"hmp sums to {h.sum():.6g}, not 1; give hmg.homologous_models_perplexity of the whole pool")
    elif variant == "softmax_both":
        c = softmax(c)
    return alpha * h + (1 - alpha) * c


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's correlation of two scores over a pool: the audit of how much a part decides the combined ranking.

    Raises:
        ValueError: NaN, or a constant score (its ranks are undefined).
    """
    x, y = _numbers(a, "first score"), _numbers(b, "second score")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError("a constant score has no rank correlation; check that the pool was scored")
    return float(spearmanr(x, y).statistic)


def top_fraction(ids: Sequence[str], scores: Sequence[float], fraction: float) -> list[str]:
    """Ids of the highest scores, best first, ties broken by id; the number of samples is rounded up."""
    names, values = _unique(ids), _numbers(scores, "scores", ids)
    ranked = sorted(range(len(names)), key=lambda i: (-values[i], names[i]))
    return [names[i] for i in ranked[: size(len(names), fraction)]]


def within_quotas(ranking: Sequence[str], sources: Mapping[str, str], quotas: Mapping[str, int], k: int) -> list[str]:
    """The first ``k`` ids of a ranking, passing over those whose source has given its quota; fewer if the quotas leave fewer.

    Args:
        sources: id -> source.
        quotas: source -> samples at most; a source that is not named has no limit.
    """
    taken: list[str] = []
    given: Counter[str] = Counter()
    for name in _unique(ranking):
        source = sources[name]
        if len(taken) < k and given[source] < quotas.get(source, math.inf):
            given[source] += 1
            taken.append(name)
    return taken


def random_subset(ids: Sequence[str], k: int, seed: int) -> list[str]:
    """``k`` ids drawn without replacement; the draw depends on the set of ids, not on their order."""
    names = sorted(_unique(ids))
    if not 0 <= k <= len(names):
        raise ValueError(f"cannot draw {k} samples from a pool of {len(names)}")
    return [names[i] for i in np.random.default_rng(seed).choice(len(names), k, replace=False)]


def length_matched_random(ids: Sequence[str], lengths: Sequence[float], chosen: Sequence[str], seed: int) -> list[str]:
    """A random subset of the whole pool with as many samples from each tenth of the pool's lengths as ``chosen`` has.

    The control for "it only picked long samples". Drawn from all samples, the chosen ones included.
    """
    sizes = _numbers(lengths, "lengths", ids)
    tenths = np.searchsorted(np.unique(np.quantile(sizes, np.arange(1, 10) / 10)), sizes)  # equal lengths share a bin
    of = dict(zip(_unique(ids), tenths, strict=True))
    unknown = [each for each in chosen if each not in of]
    if unknown:
        raise ValueError(f"chosen id {unknown[0]!r} is not in the pool")
    _unique(chosen)
    drawn: list[str] = []
    for tenth in sorted(set(tenths)):
        members = [each for each in ids if of[each] == tenth]
        drawn += random_subset(members, sum(of[each] == tenth for each in chosen), 10 * seed + int(tenth))
    return drawn


def longest(ids: Sequence[str], lengths: Sequence[float], k: int) -> list[str]:
    """The ``k`` longest samples, longest first, ties broken by id."""
    names, sizes = _unique(ids), _numbers(lengths, "lengths", ids)
    if not 0 <= k <= len(names):
        raise ValueError(f"cannot take {k} samples from a pool of {len(names)}")
    return [names[i] for i in sorted(range(len(names)), key=lambda i: (-sizes[i], names[i]))[:k]]


def overlap(a: Sequence[str], b: Sequence[str]) -> float:
    """Jaccard index of two selections, in [0, 1]; two empty ones are equal, 1."""
    union = set(a) | set(b)
    return len(set(a) & set(b)) / len(union) if union else 1.0


def _labelled(labels: Sequence[bool], scores: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    values, truth = _numbers(scores, "scores"), np.asarray(labels, dtype=bool)
    if truth.shape != values.shape:
        raise ValueError(f"{truth.size} labels for {values.size} scores")
    return truth, values


def auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Chance that a labelled sample scores above an unlabelled one, ties half: the area under the ROC curve."""
    truth, values = _labelled(labels, scores)
    if truth.all() or not truth.any():
        raise ValueError("AUC needs samples with and without the label; check the pool's kinds")
    return float(roc_auc_score(truth, rankdata(values)))  # ranks, because the library refuses infinite scores


def precision_at(labels: Sequence[bool], scores: Sequence[float], fraction: float) -> float:
    """Share of labelled samples in the top ``fraction``; samples tied at the edge count by their expected share."""
    truth, values = _labelled(labels, scores)
    k = size(values.size, fraction)
    edge = np.sort(values)[-k]
    above, tied = values > edge, values == edge
    return float((truth[above].sum() + (k - above.sum()) * truth[tied].mean()) / k)


def instruction_following_difficulty(nll_given: Sequence[float], nll_alone: Sequence[float]) -> np.ndarray:
    """IFD, the response's loss given its prompt over its loss alone, (n,); Cherry drops samples above 1 and takes the largest."""
    given, alone = _numbers(nll_given, "nll_given"), _numbers(nll_alone, "nll_alone")
    if given.shape != alone.shape:
        raise ValueError(f"nll_given has {given.size} samples and nll_alone {alone.size}; score the same pool with both")
    zero = np.flatnonzero(alone <= 0)
    if zero.size:
        raise ValueError(f"nll_alone of row {zero[0]} is {alone[zero[0]]}; a loss must be above 0")
    return given / alone
