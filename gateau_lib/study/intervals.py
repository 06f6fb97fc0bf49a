"""Means and their intervals: the t-interval over pairs, p-values, and the mean over a benchmark's tasks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

import numpy as np
import pandas as pd
from scipy import stats

SEEDS = 3  # least values of an interval
CONFIDENCE = 0.95
SIDE = (1 - CONFIDENCE) / 2  # chance of an error to one side
MANY = 1000  # values that nobody will collect

COUNTS = 10**6  # greatest denominator that a recorded ratio of counts may have
ROUNDING = 8  # units in the last place by which a sum of floats may miss its ratio; recorded: 3 at most


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and two-sided Student t-interval ``(mean, low, high)`` of at least two values."""
    data = np.asarray(values, dtype=float)
    if data.size < 2:
        raise ValueError(f"an interval needs two values or more, got {data.size}")
    half = _student(data.size) * stats.sem(data)
    return float(data.mean()), float(data.mean() - half), float(data.mean() + half)


def exact(value: float) -> Fraction:
    """The number that a float records: the ratio or the decimal near it, else its shortest text."""
    ratio = Fraction(value).limit_denominator(COUNTS)
    # Below a power of two a float's own unit is half.
    unit = Fraction(math.ulp(max(abs(value), abs(float(ratio)))))
    return ratio if abs(ratio - Fraction(value)) <= ROUNDING * unit else Fraction(repr(float(value)))


@dataclass(frozen=True)
class Interval:
    """A mean and its t-interval, compared exactly; only Student's t itself is a float."""

    mean: Fraction
    error: Fraction  # standard error, squared, so that no root is rounded
    n: int
    side: float = SIDE  # chance of an error to one side

    @classmethod
    def of(cls, values: Sequence[Fraction]) -> Self:
        """The interval of at least two values, as `t_interval` has it."""
        n, mean = len(values), sum(values, Fraction(0)) / len(values)
        variance = sum(((v - mean) ** 2 for v in values), Fraction(0)) / (n - 1)
        return cls(mean, variance / n, n)

    def __neg__(self) -> "Interval":
        return replace(self, mean=-self.mean)

    def among(self, many: int) -> "Interval":
        """The wider interval of one among ``many``: the chance of an error is divided by their number."""
        return replace(self, side=SIDE / many)

    def above(self, bound: Fraction | int) -> bool:
        """Whether all of the interval lies above the bound."""
        gap = self.mean - bound
        return gap > 0 and gap**2 > self._reach()

    def below(self, bound: Fraction | int) -> bool:
        """Whether all of the interval lies below the bound."""
        return (-self).above(-bound)

    def p_above(self, bound: Fraction | int) -> float:
        """One-sided p of a mean above the bound; without any spread 0 or 1."""
        if not self.error:
            return float(self.mean <= bound)
        return float(stats.t.sf(float(self.mean - bound) / math.sqrt(self.error), self.n - 1))

    def p_below(self, bound: Fraction | int) -> float:
        """One-sided p of a mean below the bound."""
        return (-self).p_above(-bound)

    def needed(self, gap: Fraction) -> int | None:
        """About how many values keep the interval within ``gap`` of this mean; None: more than `MANY`."""
        if not gap:
            return None
        counts = np.arange(SEEDS, MANY + 1)
        reach = stats.t.isf(self.side, counts - 1) ** 2 * float(self.error * self.n) / counts
        enough = reach < float(gap) ** 2
        return int(counts[enough.argmax()]) if enough.any() else None

    def floats(self) -> tuple[float, float, float]:
        """``(mean, low, high)``, to be shown."""
        mean, half = float(self.mean), math.sqrt(self._reach())
        return mean, mean - half, mean + half

    def _reach(self) -> Fraction:
        """Half the interval, squared."""
        return Fraction(_student(self.n, self.side)) ** 2 * self.error


def _student(n: int, side: float = SIDE) -> float:
    """How many standard errors the interval of ``n`` values reaches to each side."""
    return float(stats.t.ppf(1 - side, n - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: the k-th smallest of m times m - k + 1, never below the one before."""
    adjusted, least = list(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        adjusted[place] = least = max(least, min(1.0, (len(p) - rank) * p[place]))
    return adjusted


def mean_of_tasks(parts: Sequence[pd.Series]) -> tuple[float, float, float]:
    """Mean of the parts' means and its t-interval, with the smallest part's degrees of freedom."""
    means = np.mean([part.mean() for part in parts])
    error = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) / len(parts)
    half = _student(min(map(len, parts))) * error  # of one item: no interval
    return float(means), float(means - half), float(means + half)
