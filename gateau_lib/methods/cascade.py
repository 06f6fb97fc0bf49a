"""GATEAU's selection with CAM read only where it can matter: who can still enter, and how CAM's ranks follow.

The score by ranks is α · h + (1 − α) · c, with h the rank of HMP and c that of CAM in (0, 1]. A sample whose
CAM is not known lies between α · h and α · h + (1 − α). So once HMP is known of all, CAM is read of the best
by HMP, and then of every sample that could still pass the last one selected, until there is none. Some of the
others are drawn by chance and read as well: they tell how CAM is distributed where it is not read, and with
it the ranks of those that were.

Source: this study; the bound is that of the threshold algorithm (Fagin, Lotem, Naor, PODS 2001).

Open points: given right ranks, the selection is that of the exact run (`can_enter`). The ranks are estimated,
and that is all that is lost: what it costs is measured in docs/cluster.md.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from gateau_lib.methods.base import ranks_of
from gateau_lib.methods.hmg import homologous_models_perplexity

ALPHA = 0.8  # the least weight of HMP that a cascade serves: GATEAU's
DRAWN = 256  # samples drawn from an endless pool; of a smaller one as many as say as much
# The column cam_mode of a table made by a cascade: why CAM was read, or that it was not.
CANDIDATE, DRAWN_ROW, UNREAD = "candidate", "drawn", "not read"
MODES = (CANDIDATE, DRAWN_ROW, UNREAD)
ROUNDING = 1e-12  # of a sum of two ranks
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def partly_read(pool: pd.DataFrame) -> bool:
    """Whether a cascade made this pool's CAM."""
    return "cam_mode" in pool and bool(pool["cam_mode"].isin(MODES).any())


def hmp_ranks(nll_short: npt.ArrayLike, nll_long: npt.ArrayLike) -> Floats:
    """Ranks of HMP over the pool, (n,) in (0, 1], ties shared, as `gateau.combine` takes them."""
    hmp = homologous_models_perplexity(nll_short, nll_long)
    return np.asarray(ranks_of(hmp) / hmp.size)


def cam_ranks(cam: Floats, candidate: Bools) -> Floats:
    """Estimated ranks of CAM over the pool, (n,), NaN where it was not read; exact where all was.

    ``cam``: (n,), NaN where not read. ``candidate``: (n,); each stands for itself. What was read beside was
    drawn from the others, and each stands for as many of them as were not.
    """
    read, n = ~np.isnan(cam), len(cam)
    drawn, own = read & ~candidate, read & candidate
    weight = np.where(own, 1.0, 0.0)
    if drawn.any():
        weight[drawn] = (n - own.sum()) / drawn.sum()
    elif own.any():  # nothing is known of the others, so they are taken to be alike
        weight[own] = n / own.sum()
    values, place = np.unique(cam[read], return_inverse=True)
    held = np.bincount(place, weights=weight[read], minlength=len(values))
    ranks = np.full(n, np.nan)
    ranks[read] = ((np.cumsum(held) - held + (held + 1) / 2) / n)[place]
    return np.asarray(np.minimum(ranks, 1.0))


def scores(hmp: Floats, cam_rank: Floats, alpha: float) -> Floats:
    """GATEAU's score by ranks, (n,); of a sample without CAM the least that it can be."""
    return alpha * hmp + (1 - alpha) * np.nan_to_num(cam_rank, nan=0.0)


def can_enter(hmp: Floats, cam_rank: Floats, count: int, alpha: float) -> Bools:
    """Who may be among the best ``count``, (n,), whatever the CAM of those whose rank is NaN turns out to be.

    ``hmp, cam_rank``: (n,) ranks in (0, 1].
    """
    last = np.sort(scores(hmp, cam_rank, alpha))[-count]
    most = alpha * hmp + (1 - alpha)
    return np.asarray(most >= last - ROUNDING)


def first(
    ids: Sequence[str], hmp: Floats, count: int, seed: int = 0, draws: int = DRAWN
) -> tuple[Bools, Bools]:
    """Whose CAM is read first: candidates and drawn samples, (n,) each; ``hmp``: (n,) ranks.

    Candidates are as many as can be expected to have a chance: fewer give a bound that lets in too many. Who
    is drawn follows from ids and seed, not from the order of the data.
    """
    n = len(hmp)
    many = max(count, min(n, round(n * expected_share(count / n))))
    candidate = hmp >= np.sort(hmp)[-many]
    return candidate, draw(ids, candidate, seed, draws)


def draw(ids: Sequence[str], candidate: Bools, seed: int = 0, draws: int = DRAWN) -> Bools:
    """Samples drawn by chance from those that are no candidates, (n,), see `drawn_of`."""
    others = sorted(np.flatnonzero(~candidate).tolist(), key=lambda i: _ticket(ids[i], seed))
    drawn = np.zeros(len(ids), dtype=bool)
    drawn[others[: drawn_of(len(others), draws)]] = True
    return drawn


def drawn_of(n: int, draws: int = DRAWN) -> int:
    """How many of ``n`` say as much about all of them as ``draws`` say about an endless pool."""
    return round(n * draws / (n + draws)) if n else 0


def _ticket(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).hexdigest()


def grown(hmp: Floats, cam: Floats, candidate: Bools, count: int, alpha: float = ALPHA) -> Bools:
    """The candidates after what was read since, (n,): those there were, and all that can still enter.

    When CAM of every candidate is read and none is added, no other sample can enter.
    """
    return candidate | can_enter(hmp, cam_ranks(cam, candidate), count, alpha)


def expected_share(fraction: float, alpha: float = ALPHA, steps: int = 400) -> float:
    """Share of a pool that can enter its best ``fraction``, if HMP and CAM are independent."""
    ranks = (np.arange(steps) + 0.5) / steps
    both = np.sort((alpha * ranks[:, None] + (1 - alpha) * ranks[None, :]).ravel())
    last = both[-max(1, round(fraction * both.size))]
    return float((alpha * ranks + (1 - alpha) >= last).mean())


def expected_reads(n: int, fraction: float) -> float:
    """Share of ``n`` samples whose CAM is read for the best ``fraction``, those drawn among them."""
    share = max(expected_share(fraction), fraction)
    others = round(n * (1 - share))
    return min(1.0, share + drawn_of(others) / n) if n else 0.0


def ranking(pool: pd.DataFrame, alpha: float) -> Floats:
    """GATEAU's score by ranks, (n,), of a pool that a cascade scored.

    ``pool``: with columns ``nll_short, nll_long, cam, cam_mode``.
    """
    ranks = cam_ranks(pool["cam"].to_numpy(dtype=float), (pool["cam_mode"] == CANDIDATE).to_numpy())
    return scores(hmp_ranks(pool["nll_short"], pool["nll_long"]), ranks, alpha)


def uncertain(ranked: pd.DataFrame, alpha: float) -> int:
    """How many samples without CAM could have entered a selection; columns ``score, cam_mode, chosen``."""
    unread = ranked["cam_mode"] == UNREAD
    last = ranked.loc[ranked["chosen"], "score"].min()
    could = unread & ((ranked["score"] + (1 - alpha) >= last - ROUNDING) | ranked["chosen"])
    return int(could.sum())


def told(modes: Mapping[str, int]) -> str:
    """Of how many samples CAM was read, in words; ``modes``: each of `MODES` with its number."""
    could, drawn, unread = (f"{modes[mode]:,}" for mode in MODES)
    read = f"CAM read of {could} samples that could be selected and {drawn} drawn by chance"
    return f"{read}, not of {unread}; its ranks over the pool are estimated"
