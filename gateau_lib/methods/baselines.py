"""Selectors that the papers compare with, and cheap ones they do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gateau_lib.methods.selection import _numbers, _unique


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


def instruction_following_difficulty(nll_given: Sequence[float], nll_alone: Sequence[float]) -> np.ndarray:
    """IFD, the response's loss given its prompt over its loss alone, (n,); Cherry drops samples above 1 and takes the largest."""
    given, alone = _numbers(nll_given, "nll_given"), _numbers(nll_alone, "nll_alone")
    if given.shape != alone.shape:
        raise ValueError(f"nll_given has {given.size} samples and nll_alone {alone.size}; score the same pool with both")
    zero = np.flatnonzero(alone <= 0)
    if zero.size:
        raise ValueError(f"nll_alone of row {zero[0]} is {alone[zero[0]]}; a loss must be above 0")
    return given / alone
