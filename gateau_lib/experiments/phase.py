"""Where a score turns: its AUC over the share of noise, by two long models of unlike competence (09)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.experiments import explanations, pool, ranking
from gateau_lib.experiments.compositions import with_noise
from gateau_lib.experiments.ranking import Rows
from gateau_lib.study.store import Study

METRIC = "auc_at_noise"
SHARES = (0.0, 0.15, 0.3, 0.45, 0.6)
DRAWS = 4  # mixtures of each share; a pair's number is their mean
EARLY = {"nll_long": "early", "nll_long_truncate": "early_cut"}  # what an early long model reads otherwise
FINISHED = (
    "hmg_minmax_ntk", "hmg_log_truncate", "contrast_log", "perplexity_guidance", "ifd", "cam_default",
    "segment_contrast", "gateau_rank", "prolong", "zlib_contrast",
)  # fmt: skip
HALF_WAY = ("hmg_minmax_ntk", "hmg_log_truncate", "contrast_log", "perplexity_guidance")
SUFFIX = "_early"


def rows(study: Study, data: Path, pair: Path) -> Rows:
    """AUC of `FINISHED` by the finished long model, and of `HALF_WAY` by the one half-way through training.

    Methods of the second have `SUFFIX`; conditions are `SHARES`, seeds the mixtures.
    """
    drawn = pool.scored(study, pair, data, ("independent",), list(pool.PARTS))
    drawn = drawn[drawn["seed"] == 0]
    mixtures = at_shares(drawn, study.seed)
    scored = ranking.by_pool(mixtures, ranking.guidance)
    scored = ranking.by_pool(scored, ranking.combined, study.profile.alpha)
    scored = ranking.by_pool(
        scored, ranking.others, study.profile.alpha, ["segment_contrast", "zlib_contrast"]
    )
    found = ranking.auc_rows(scored, FINISHED)
    read = explanations.table(study, data, pair, "readings")
    if "early" in read:
        swapped = mixtures.drop(columns=list(EARLY)).merge(read[["id", *EARLY.values()]], on="id")
        swapped = swapped.rename(columns={column: name for name, column in EARLY.items()})
        early = ranking.auc_rows(ranking.by_pool(swapped, ranking.guidance), HALF_WAY)
        found += [row | {"method": f"{row['method']}{SUFFIX}"} for row in early]
    return [row | {"metric": METRIC} for row in found]


def at_shares(drawn: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One pool in `DRAWS` mixtures of each of `SHARES`: the columns ``pool`` and ``seed`` name them.

    A mixture that holds nothing to find, as of a very small pool, is left out.
    """
    mixtures = [
        with_noise(drawn, share, DRAWS * seed + draw).assign(pool=f"{share:g}", seed=draw)
        for share in SHARES
        for draw in range(DRAWS)
    ]
    return pd.concat([each for each in mixtures if each["needs_far"].any()], ignore_index=True)


def panels(metrics: pd.DataFrame | Sequence[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Mean AUC by method and share of noise, a table for each long model; none without rows of `rows`.

    Methods are in the order of what they find without noise; NaN: not read by that model.
    """
    table = pd.DataFrame(metrics)
    table = table[table["metric"] == METRIC] if len(table) else table
    if table.empty:
        return {}
    table = table.assign(early=table["method"].str.endswith(SUFFIX))
    table = table.assign(
        method=table["method"].str.removesuffix(SUFFIX), share=table["condition"].astype(float)
    )
    means = table.groupby(["early", "method", "share"])["value"].mean().unstack()
    order = means.loc[False].iloc[:, 0].sort_values(ascending=False, kind="stable").index
    names = {False: "finished long model", True: "half-way through its training"}
    return {
        names[early]: means.loc[early].reindex(order).rename(columns=lambda share: f"{share:.0%}")
        for early in sorted(table["early"].unique())
    }
