"""The rows of GATEAU's tables: the runs of a profile, and which long samples each trains on (notebook 11)."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import softmax

from gateau_lib.experiments.findings import SETTINGS
from gateau_lib.methods import baselines, gateau, hmg, selection
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import Profile

# Rows of the paper's tables: three without a choice, and what chooses.
UNTUNED, WITHOUT_LONG, FULL = "without SFT", "without long SFT", "Full"
PERPLEXITY, CHERRY, GATEAU, RANDOM, CAR = "Perplexity Guidance", "Cherry", "GATEAU", "Random", "CaR"
NOT_REBUILT = {
    CAR: "selects by a quality model of its authors, which this study does not rebuild",
    "non-homologous guide": "which second model guided is not in the text that we read",
}
CHOOSERS = (PERPLEXITY, CHERRY, GATEAU, RANDOM)  # rows at every share; the papers have no random choice
LINES = (GATEAU, CHERRY, CAR, PERPLEXITY, RANDOM)  # the same and the paper's other one, as figures order them
# Rows at the largest share; "by ranks" is ours.
ABLATIONS = ("HMG only", "CAM only", "without extended window", "without Norm", "GATEAU by ranks")


@dataclass(frozen=True)
class Run:
    """One row of the tables in one setting: long samples chosen in one way, beside a number of short ones."""

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
    # A setting that is not the paper's must not stand under the paper's name.
    own = [f"{short:,} short, {profile.long_samples:,} long" for short in profile.short_samples]
    names = SETTINGS if profile.name == "paper" else own
    settings = list(zip(names, profile.short_samples, profile.alphas, strict=True))
    rows: list[tuple[str, float | None]] = [(row, None) for row in (UNTUNED, WITHOUT_LONG, FULL)]
    rows += [(row, share) for share in profile.shares for row in CHOOSERS]
    rows += [(row, max(profile.shares, default=None)) for row in ABLATIONS]
    return [Run(name, row, share, short, alpha) for name, short, alpha in settings for row, share in rows]


def guidance(pool: pd.DataFrame, alpha: float) -> dict[str, np.ndarray]:
    """What the rows with a choice choose by, high = select, from `replication.scored`; *Random* has nothing.

    GATEAU takes the sum as released, alpha x HMP + (1 - alpha) x CAM, with our sign and normalisation of CAM.
    "without Norm" is read (assumed) as the softmax of plain perplexity differences, without min-max.
    """
    names = ("nll_long", "nll_short", "nll_short_raw", "cam", "ifd")
    long, short, raw, cam, ifd = (pool[name].to_numpy(dtype=float) for name in names)
    hmp = hmg.homologous_models_perplexity(short, long)
    unextended = hmg.homologous_models_perplexity(raw, long)
    return {
        PERPLEXITY: long,
        CHERRY: baselines.difficulty_ranking(ifd),
        GATEAU: gateau.combine(hmp, cam, "as_released", alpha),
        "HMG only": hmp,
        "CAM only": cam,
        "without extended window": gateau.combine(unextended, cam, "as_released", alpha),
        "without Norm": gateau.combine(softmax(np.exp(short) - np.exp(long)), cam, "as_released", alpha),
        "GATEAU by ranks": gateau.combine(hmp, cam, "rank", alpha),
    }


def selected(run: Run, table: pd.DataFrame, seed: int) -> list[str]:
    """Ids that a run trains on, best first, of `replication.scored`; DataError: no sample could be scored."""
    pool = table[table["error"].isna()]
    if pool.empty:
        why = f"the first says: {table['error'].iloc[0]}"
        raise DataError(f"none of the {len(table)} long samples could be scored; {why}")
    ids = pool["id"].tolist()
    if run.share is None:
        return sorted(ids) if run.row == FULL else []
    if run.row == RANDOM:
        return baselines.random_subset(ids, selection.size(len(ids), run.share), seed)
    chosen = selection.top_fraction(ids, guidance(pool, run.alpha)[run.row], run.share)
    if run.row == CHERRY:  # fewer than the share, where so many are
        never = set(pool["id"][baselines.mismatched(pool["ifd"])])
        chosen = [name for name in chosen if name not in never]
    return chosen
