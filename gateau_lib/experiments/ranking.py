"""From scores of a pool to rankings, selections and the rows that claims are judged by (notebooks 03 to 06).

A *pool table* is what `pool.scored` returns for one pool; a *method* is a column, high for what it would
select.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from gateau_lib.methods import METHODS, baselines, gateau, name_in_figures
from gateau_lib.methods.base import READINGS, RankOptions
from gateau_lib.methods.hmg import homologous_models_perplexity, pool_gap
from gateau_lib.methods.selection import numbers, size
from gateau_lib.study import labels

Rows = list[dict[str, Any]]  # of metrics: `evidence.write_metrics`
FRACTIONS = (0.1, 0.3, 0.5)  # GATEAU selects 10, 30 and 50 %
GUIDANCE = {
    "hmg_minmax_ntk": "HMG as published",
    "hmg_minmax_truncate": "HMG, truncated reader",
    "hmg_minmax_raw": "HMG, raw reader",
    "hmg_minmax_ntk_each": "HMG, NTK factor a sample",
    "hmg_log_ntk": "HMG, log gap, extended reader",
    "hmg_log_truncate": "HMG, log gap, truncated reader",
    "hmg_log_raw": "HMG, log gap, raw reader",
    "hmg_log_ntk_each": "HMG, log gap, NTK factor a sample",
    "contrast_log": METHODS["contrast"].title,
    "perplexity_guidance": METHODS["perplexity"].title,
}
COMBINATIONS = {
    "gateau_rank": "GATEAU (ranks)",
    "gateau_softmax_both": "GATEAU (both softmax)",
    "gateau_as_released": "GATEAU (as released)",
}
NAMES = {  # of other columns
    "cam_default": METHODS["cam"].title,
    "cam_softmax_attention": "CAM, softmax attention",
    "cam_aligned": "CAM, opposite sign",
    "cam_ppl": "CAM, importance from PPL",
    "cam_uniform_attention": "CAM, attention made uniform",
    "cam_shuffled_attention": "CAM, attention shuffled",
    "top_segment_match": "most attended = most important",
    "importance_range": "importance range, no attention",
    "hmp": "HMP",
    "prolong_no_specificity": "ProLong without specificity",
}
name_in_figures()
labels.LABELS.update(GUIDANCE | COMBINATIONS | NAMES)

# The registered methods that pool tables hold, some by columns of other names: name -> column.
COLUMN_OF = {name: name for name in ("prolong", "ifd", "longest", "random")} | {
    "gateau": "gateau_rank",
    "hmg": "hmg_minmax_ntk",
    "cam": "cam_default",
    "contrast": "contrast_log",
    "perplexity": "perplexity_guidance",
}
OTHERS = tuple(name for name in METHODS if name not in COLUMN_OF)  # of `pool.others`, under their own names
DERIVED = ("segment_contrast",)  # of these, what is made of columns that pool tables hold


def guidance(table: pd.DataFrame) -> pd.DataFrame:
    """A pool table with the methods of `GUIDANCE`, from its NLLs.

    ``hmg_minmax_...``: the min-max perplexity gap d_k (GATEAU; the softmax after it changes no rank),
    ``hmg_log_``: in nats; ``contrast_log``: the gap of the long model to itself cut to the short window.
    """
    long = table["nll_long"]
    gaps = {f"hmg_minmax_{r}": pool_gap(table[f"nll_short_{r}"], long) for r in READINGS}
    gaps |= {f"hmg_log_{r}": pool_gap(table[f"nll_short_{r}"], long, scale="log") for r in READINGS}
    return table.assign(**gaps, contrast_log=table["nll_long_truncate"] - long, perplexity_guidance=long)


def combined(table: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """A pool table with HMP (as published), GATEAU's combinations, IFD (by difficulty), length in tokens.

    ``alpha``: weight of HMP against CAM.
    """
    hmp = homologous_models_perplexity(table["nll_short_ntk"], table["nll_long"])
    mixed = {f"gateau_{v}": gateau.combine(hmp, table["cam_default"], v, alpha) for v in gateau.VARIANTS}
    ifd = baselines.difficulty_ranking(score_columns(table)["ifd"])
    return table.assign(hmp=hmp, **mixed, ifd=ifd, longest=table["n_tokens"].astype(float))


def score_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A pool table with the column names of a score table, which registered methods rank by."""
    names = {"nll_short_ntk": "nll_short", "cam_default": "cam", "n_tokens": "tokens"}
    found = table.rename(columns=names)
    if "segment_nll" in table:
        best = table["segment_nll"].map(np.min).astype(float)
        found = found.assign(segment_contrast=best - table["nll_long"])
    return found.assign(
        ifd=baselines.instruction_following_difficulty(table["nll_long"], table["nll_alone"]),
        hmg=table["nll_short_ntk"] - table["nll_long"],
        contrast=table["nll_long_truncate"] - table["nll_long"],
    )


def others(table: pd.DataFrame, alpha: float, names: Sequence[str] = OTHERS) -> pd.DataFrame:
    """A pool table with a column for each of ``names``, of `OTHERS`; who may not be chosen is last.

    It needs all of `pool.PARTS`, for `DERIVED` only what they are made of.
    """
    scores, columns = score_columns(table), {}
    for name in names:
        fit = [METHODS[name].unfit(row) is None for row in scores.to_dict("records")]
        columns[name] = np.where(fit, METHODS[name].rank(scores, RankOptions(alpha=alpha)), -np.inf)
    return table.assign(**columns)


def by_pool(table: pd.DataFrame, function: Any, *arguments: Any) -> pd.DataFrame:
    """``function`` (such as `guidance`) on each pool and seed by itself, the rows in their order."""
    whole = pd.concat([function(part, *arguments) for _, part in table.groupby(["pool", "seed"], sort=False)])
    whole.attrs["count"] = table.attrs.get("count")
    return whole


def auc_rows(table: pd.DataFrame, methods: Sequence[str], label: str = "needs_far") -> list[dict[str, Any]]:
    """Metrics rows ``auc`` of each method, pool (the condition) and seed."""
    return _rows(table, methods, "auc", lambda part, m: auc(part[label], part[m]))


def precision_rows(table: pd.DataFrame, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Metrics rows ``precision_at_10`` and so on: the share of wanted samples in a method's top fraction."""
    rows = []
    for f in FRACTIONS:
        name = f"precision_at_{round(100 * f)}"
        rows += _rows(table, methods, name, lambda part, m, f=f: precision_at(part["needs_far"], part[m], f))
    return rows


def correlation_rows(
    table: pd.DataFrame, methods: Sequence[str], other: str, condition: str
) -> list[dict[str, Any]]:
    """Metrics rows ``rank_correlation`` of each method with the column ``other``, of each pool and seed."""
    rows = _rows(table, methods, "rank_correlation", lambda part, m: rank_correlation(part[m], part[other]))
    return [row | {"condition": condition} for row in rows]


def _rows(table: pd.DataFrame, methods: Sequence[str], metric: str, measure: Any) -> list[dict[str, Any]]:
    parts = table.groupby(["pool", "seed"], sort=False)
    about = [({"condition": pool, "seed": seed, "n": len(part)}, part) for (pool, seed), part in parts]
    named = [(*each, m) for each in about for m in methods]
    return [{"metric": metric, "method": m, **each, "value": measure(part, m)} for each, part, m in named]


def like_length_rows(table: pd.DataFrame, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Metrics rows ``auc_like_lengths``, see `within_lengths`."""
    return _rows(table, methods, "auc_like_lengths", within_lengths)


def mean_table(rows: Sequence[dict[str, Any]], columns: str = "condition") -> pd.DataFrame:
    """Metrics rows as a table of means over seeds: methods by ``columns``, in their order of appearance."""
    means = pd.DataFrame(rows).groupby(["method", columns], sort=False)["value"].mean()
    return means.unstack(columns, sort=False)


def within_lengths(table: pd.DataFrame, method: str) -> float:
    """AUC among samples of like length: mean over thirds of the pool by ``n_tokens``, weighted by pairs."""
    found, weights = [], []
    for _, rows in table.groupby(pd.qcut(table["n_tokens"].rank(method="first"), 3, labels=False)):
        wanted = int(rows["needs_far"].sum())
        if 0 < wanted < len(rows):  # else there is nothing to tell apart
            found.append(auc(rows["needs_far"], rows[method]))
            weights.append(wanted * (len(rows) - wanted))
    return float(np.average(found, weights=weights)) if found else float("nan")


def mean_correlation(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Spearman correlations among columns, (columns, columns), the mean over pools and seeds."""
    parts = [part[list(columns)].corr("spearman") for _, part in table.groupby(["pool", "seed"], sort=False)]
    return sum(parts[1:], parts[0]) / len(parts)


def overlap(a: Sequence[str], b: Sequence[str]) -> float:
    """Jaccard index of two selections, in [0, 1]; two empty ones are equal, 1."""
    union = set(a) | set(b)
    return len(set(a) & set(b)) / len(union) if union else 1.0


def overlaps(chosen: dict[str, Sequence[str]]) -> pd.DataFrame:
    """`overlap` of every two selections, (selections, selections)."""
    return pd.DataFrame({a: {b: overlap(chosen[a], chosen[b]) for b in chosen} for a in chosen})


def twins(ids: Sequence[str]) -> int:
    """Planted near duplicates that were selected together with the sample they copy."""
    copies = [each for each in ids if "-near_duplicate-" in each]
    # Every other one copies a paraphrase, see `corpus.candidate_pool`.
    copied = [f"-{('far', 'paraphrase')[int(each[-3:]) % 2]}-" for each in copies]
    wanted = (each.replace("-near_duplicate-", kind) for each, kind in zip(copies, copied, strict=True))
    return len(set(wanted) & set(ids))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's correlation of two scores over a pool; ValueError: NaN, or a constant score (no ranks)."""
    x, y = numbers(a, "first score"), numbers(b, "second score")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError("a constant score has no rank correlation; check that the pool was scored")
    return float(spearmanr(x, y).statistic)


def auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Area under the ROC curve: chance that a labelled sample scores above an unlabelled one, ties half."""
    truth, values = np.asarray(labels, dtype=bool), numbers(scores, "scores")
    if truth.all() or not truth.any():
        raise ValueError("AUC needs samples with and without the label; check the pool's kinds")
    return float(roc_auc_score(truth, rankdata(values)))  # ranks, because the library refuses infinite scores


def precision_at(labels: Sequence[bool], scores: Sequence[float], fraction: float) -> float:
    """Share of labelled samples in the top ``fraction``; those tied at its edge count by expected share."""
    truth, values = np.asarray(labels, dtype=bool), numbers(scores, "scores")
    k = size(values.size, fraction)
    edge = np.sort(values)[-k]
    above, tied = values > edge, values == edge
    return float((truth[above].sum() + (k - above.sum()) * truth[tied].mean()) / k)
