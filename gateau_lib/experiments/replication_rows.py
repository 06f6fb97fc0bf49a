"""The rows of GATEAU's tables: the runs of a profile, and which long samples each trains on (notebook 09).

A *run* is one row in one setting: long samples chosen in one way, beside a number of short ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy.special import softmax

from gateau_lib.experiments.findings import SETTINGS
from gateau_lib.methods import baselines, gateau, hmg, selection
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import Profile

# Rows of the paper's tables: three without a choice, and what chooses.
UNTUNED, WITHOUT_LONG, FULL = "without SFT", "without long SFT", "Full"
PERPLEXITY, CHERRY, GATEAU, RANDOM = "Perplexity Guidance", "Cherry", "GATEAU", "Random"
CAR = "CaR"
NOT_REBUILT = {
    CAR: "selects by a quality model of its authors, which this study does not rebuild",
    "non-homologous guide": "which second model guided is not in the text that we read",
}

# Scores of a pool and alpha -> one number a sample, high = select.
Value = Callable[[pd.DataFrame, float], np.ndarray]


def _numbers(pool: pd.DataFrame, column: str) -> np.ndarray:
    return pool[column].to_numpy(dtype=float)


def _hmp(pool: pd.DataFrame, short: str = "nll_short") -> np.ndarray:
    return hmg.homologous_models_perplexity(_numbers(pool, short), _numbers(pool, "nll_long"))


def _hmp_without_norm(pool: pd.DataFrame) -> np.ndarray:
    """Read as the softmax of plain perplexity differences, without min-max over the pool (assumed)."""
    return softmax(np.exp(_numbers(pool, "nll_short")) - np.exp(_numbers(pool, "nll_long")))


def _combined(
    guidance: Callable[[pd.DataFrame], np.ndarray], variant: gateau.Variant = "as_released"
) -> Value:
    """GATEAU's sum of a guidance and CAM."""
    return lambda pool, alpha: gateau.combine(guidance(pool), _numbers(pool, "cam"), variant, alpha)


# Rows with a choice and what they choose by. GATEAU takes the sum as released, alpha x HMP + (1 - alpha) x
# CAM, with our sign and normalisation of CAM; "by ranks" is ours. The papers have no random choice.
CHOOSERS: dict[str, Value | None] = {  # at every share
    PERPLEXITY: lambda pool, alpha: _numbers(pool, "nll_long"),
    CHERRY: lambda pool, alpha: baselines.difficulty_ranking(pool["ifd"]),
    GATEAU: _combined(_hmp),
    RANDOM: None,
}
ABLATIONS: dict[str, Value] = {  # at the largest share
    "HMG only": lambda pool, alpha: _hmp(pool),
    "CAM only": lambda pool, alpha: _numbers(pool, "cam"),
    "without extended window": _combined(partial(_hmp, short="nll_short_raw")),
    "without Norm": _combined(_hmp_without_norm),
    "GATEAU by ranks": _combined(_hmp, "rank"),
}


@dataclass(frozen=True)
class Run:
    """One row of the tables in one setting."""

    setting: str  # one of findings.SETTINGS, or what else a profile takes
    row: str
    share: float | None  # of the long samples; None where the row has no choice
    short: int  # short samples
    alpha: float

    @property
    def name(self) -> str:
        """Name of its model and its selection, for example ``gateau-30-100000``."""
        what = re.sub(r"\W+", "_", self.row.lower())
        return f"{what}-{'' if self.share is None else round(100 * self.share)}-{self.short}"


def runs(profile: Profile) -> list[Run]:
    """Every run of a profile, setting by setting; none without published data."""
    found = []
    # A setting that is not the paper's must not stand under the paper's name.
    own = [f"{short:,} short, {profile.long_samples:,} long" for short in profile.short_samples]
    names = SETTINGS if profile.name == "paper" else own
    for setting, short, alpha in zip(names, profile.short_samples, profile.alphas, strict=True):
        rows: list[tuple[str, float | None]] = [(row, None) for row in (UNTUNED, WITHOUT_LONG, FULL)]
        rows += [(row, share) for share in profile.shares for row in CHOOSERS]
        rows += [(row, max(profile.shares)) for row in ABLATIONS]
        found += [Run(setting, row, share, short, alpha) for row, share in rows]
    return found


def selected(run: Run, table: pd.DataFrame, seed: int) -> list[str]:
    """Ids of the long samples that a run trains on, best first.

    Args:
        table: of `replication.scored`.

    Raises:
        DataError: no sample could be scored.
    """
    pool = table[table["error"].isna()]
    if pool.empty:
        why = f"the first says: {table['error'].iloc[0]}"
        raise DataError(f"none of the {len(table)} long samples could be scored; {why}")
    ids = pool["id"].tolist()
    if run.share is None:
        return sorted(ids) if run.row == FULL else []
    value = {**CHOOSERS, **ABLATIONS}[run.row]
    if value is None:
        return baselines.random_subset(ids, selection.size(len(ids), run.share), seed)
    chosen = selection.top_fraction(ids, value(pool, run.alpha), run.share)
    if run.row == CHERRY:  # fewer than the share, where so many are
        never = set(pool["id"][baselines.mismatched(pool["ifd"])])
        chosen = [name for name in chosen if name not in never]
    return chosen
