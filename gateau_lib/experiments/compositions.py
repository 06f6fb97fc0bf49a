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
    if composition == "clean":
        return with_noise(table, 0, seed)
    if composition == "noisy":
        return with_noise(table, NOISY, seed)
    if composition == "confounded":
        long = table["n_tokens"] > np.median(table["n_tokens"])
        return table[long == table["needs_far"]]
    return table


def with_noise(table: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """The rows of one pool with ``share`` of noise, in [0, 1): of each kind of what is too much, as much.

    A pool without noise stays as it is.
    """
    noise = table["kind"].isin(NOISE)
    honest, wrong = (~noise).sum(), noise.sum()
    if share * honest >= (1 - share) * wrong:  # too few are noise, so honest ones leave
        spared, left = noise, (1 - share) / share * wrong / honest if wrong else 1.0
    else:
        spared, left = ~noise, share / (1 - share) * honest / wrong
    drawn = table[~spared].groupby("kind").sample(frac=min(1.0, left), random_state=seed)
    return table[spared | table.index.isin(drawn.index)]
