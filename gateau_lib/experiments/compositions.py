"""One scored pool in several compositions: how much noise it holds, and whether need and length go together.

Scores are per sample, so another mixture costs no forward pass; what depends on the company (min-max,
softmax, ranks) is taken in each mixture anew by `ranking`.
"""

import numpy as np
import pandas as pd

from gateau_lib.data.kinds import NOISE

NOISY = 0.45  # share of noise in the noisy mixture
COMPOSITIONS = {
    "independent": "the pool as it was drawn",
    "clean": "without noise",
    "noisy": f"{NOISY:.0%} of it noise",
    "confounded": "needy samples are long, the others short",
}


def mixed(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A pool table, see `pool.scored`, with each independent pool once in every composition.

    The composition is the column ``pool``; other pools stay. ``seed``: which honest samples leave a pool to
    make it noisy; as many of each kind.
    """
    frames = []
    for (name, n), part in table.groupby(["pool", "seed"], sort=False):
        kinds = COMPOSITIONS if name == "independent" else [name]
        frames += [composed(part, kind, seed + int(n)).assign(pool=kind) for kind in kinds]
    whole = pd.concat(frames, ignore_index=True)
    whole.attrs = dict(table.attrs)
    return whole


def composed(table: pd.DataFrame, composition: str, seed: int) -> pd.DataFrame:
    """The rows of one pool that a composition holds, in their order."""
    noise = table["kind"].isin(NOISE)
    if composition == "clean":
        return table[~noise]
    if composition == "noisy":
        kept = (1 - NOISY) / NOISY * noise.sum() / max(1, (~noise).sum())  # share of the honest samples
        honest = table[~noise].groupby("kind").sample(frac=min(1.0, kept), random_state=seed)
        return table[noise | table.index.isin(honest.index)]
    if composition == "confounded":
        long = table["n_tokens"] > np.median(table["n_tokens"])
        return table[long == table["needs_far"]]
    return table
