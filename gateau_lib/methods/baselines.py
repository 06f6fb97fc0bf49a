"""Selectors that the papers compare with, and cheap ones they do not.

With the long model B, context c, instruction x, response y:

    IFD        = NLL_B(y | c, x) / NLL_B(y)           above 1: the prompt makes the response less likely
    contrast   = NLL_B(y | the short window's) − NLL_B(y | c, x)    HMG's gap without a second model
    perplexity = NLL_B(y | c, x)                      Perplexity Guidance
    longattn   = strength − N · variance / 2 of far attention, see `longattn`
    longest    = tokens;   random = a seeded order

Sources: IFD: Cherry, arXiv 2308.12032, released code ``cherry_seletion/data_by_IFD.py``. LongAttn: arXiv
2502.16860. Perplexity Guidance: a baseline of GATEAU's tables, arXiv 2410.15633; no code of it is public. The
others are this study's.

Open points: Cherry picks a seed set by clustering and trains a first model on it before IFD is taken; here
the long model at hand is the reader. The length-matched random subset is no method of the registry: it needs
another selection to match.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gateau_lib.methods.base import Columns, Method, RankOptions, by, without_context
from gateau_lib.methods.hmg import pool_gap
from gateau_lib.methods.selection import numbers, unique


def random_subset(ids: Sequence[str], k: int, seed: int) -> list[str]:
    """``k`` ids drawn without replacement; the draw depends on the set of ids, not on their order."""
    names = sorted(unique(ids))
    if not 0 <= k <= len(names):
        raise ValueError(f"cannot draw {k} samples from a pool of {len(names)}")
    return [names[i] for i in np.random.default_rng(seed).choice(len(names), k, replace=False)]


def length_matched_random(
    ids: Sequence[str], lengths: Sequence[float], chosen: Sequence[str], seed: int
) -> list[str]:
    """The control for "it only picked long samples": as many from each tenth of lengths as ``chosen`` has.

    Drawn from all samples, the chosen ones included.
    """
    sizes = numbers(lengths, "lengths", ids)
    borders = np.unique(np.quantile(sizes, np.arange(1, 10) / 10))  # equal lengths share a bin
    tenths = np.searchsorted(borders, sizes)
    of = dict(zip(unique(ids), tenths, strict=True))
    unknown = [each for each in chosen if each not in of]
    if unknown:
        raise ValueError(f"chosen id {unknown[0]!r} is not in the pool")
    unique(chosen)
    drawn: list[str] = []
    for tenth in sorted(set(tenths)):
        members = [each for each in ids if of[each] == tenth]
        drawn += random_subset(members, sum(of[each] == tenth for each in chosen), 10 * seed + int(tenth))
    return drawn


def longest(ids: Sequence[str], lengths: Sequence[float], k: int) -> list[str]:
    """The ``k`` longest samples, longest first, ties broken by id."""
    names, sizes = unique(ids), numbers(lengths, "lengths", ids)
    if not 0 <= k <= len(names):
        raise ValueError(f"cannot take {k} samples from a pool of {len(names)}")
    return [names[i] for i in sorted(range(len(names)), key=lambda i: (-sizes[i], names[i]))[:k]]


def instruction_following_difficulty(nll_given: Sequence[float], nll_alone: Sequence[float]) -> np.ndarray:
    """IFD, the response's loss given its prompt over its loss alone, (n,).

    Raises ValueError: NaN, unequal lengths, a loss alone of 0.
    """
    given, alone = numbers(nll_given, "nll_given"), numbers(nll_alone, "nll_alone")
    if given.shape != alone.shape:
        raise ValueError(
            f"nll_given has {given.size} samples and nll_alone {alone.size}; score the same pool with both"
        )
    zero = np.flatnonzero(alone <= 0)
    if zero.size:
        raise ValueError(f"nll_alone of row {zero[0]} is {alone[zero[0]]}; a loss must be above 0")
    return given / alone


def mismatched(ifd: npt.ArrayLike) -> np.ndarray:
    """Whose prompt makes the response less likely, IFD above 1, (n,) bool: Cherry never selects them."""
    return np.asarray(ifd, dtype=float) > 1


def difficulty_ranking(ifd: npt.ArrayLike) -> np.ndarray:
    """IFD as a ranking of a whole pool, (n,), high = select, `mismatched` samples last."""
    return np.where(mismatched(ifd), 0.0, np.asarray(ifd, dtype=float))


def _ifd(reader: Any) -> Columns:
    ifd = [
        instruction_following_difficulty([given], [alone])[0] if alone > 0 else None
        for given, alone in zip(reader.nll_long, reader.nll_alone, strict=True)
    ]
    return {"ifd": ifd, "nll_long": reader.nll_long}


def _above_one(row: Mapping[str, Any]) -> str | None:
    return "ifd above 1" if mismatched([row["ifd"]])[0] else None


def _contrast(reader: Any) -> Columns:
    return {"contrast": pool_gap(reader.nll_cut, reader.nll_long, scale="log"), "nll_long": reader.nll_long}


def _random_order(pool: pd.DataFrame, options: RankOptions) -> np.ndarray:
    ids = pool["id"].tolist()
    places = {name: place for place, name in enumerate(random_subset(ids, len(ids), options.seed))}
    return np.array([1 - places[name] / len(ids) for name in ids])


IFD = Method(
    name="ifd",
    title="IFD",
    source="Cherry (arXiv 2308.12032); cherry_seletion/data_by_IFD.py",
    rank=lambda pool, options: difficulty_ranking(pool["ifd"]),
    needs=("ifd",),
    fill=_ifd,
    passes=("nll_long", "nll_alone"),
    columns=("ifd", "nll_long"),
    unfit=_above_one,
    look=("#CC79A7", "v"),
)
CONTRAST = Method(
    name="contrast",
    title="one-model contrast",
    source="this study",
    rank=by("contrast"),
    needs=("contrast",),
    fill=_contrast,
    passes=("nll_long", "nll_cut"),
    columns=("contrast", "nll_long"),
    unfit=without_context,
    look=("#56B4E9", "P"),
)
PERPLEXITY = Method(
    name="perplexity",
    title="Perplexity Guidance",
    source="a baseline of GATEAU's tables (arXiv 2410.15633), without public code",
    rank=by("nll_long"),
    needs=("nll_long",),
    fill=lambda reader: {"nll_long": reader.nll_long},
    passes=("nll_long",),
    columns=("nll_long",),
    look=("#000000", "X"),
)
LONGATTN = Method(
    name="longattn",
    title="LongAttn",
    source="LongAttn (arXiv 2502.16860); src/LongAttn.py",
    rank=by("longattn"),
    needs=("longattn",),
    fill=lambda reader: {"longattn": reader.far_attention},
    passes=("far_attention",),
    documents=True,
    columns=("longattn",),
    look=("#117733", "*"),
)
LONGEST = Method("longest", "longest first", source="this study", rank=by("tokens"), look=("#CC6677", "P"))
RANDOM = Method("random", "random", source="this study", rank=_random_order, look=("#8A8A8A", "o"))
