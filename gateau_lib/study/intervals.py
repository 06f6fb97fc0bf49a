"""Means and their intervals: the t-interval over seeds, and the mean over a benchmark's tasks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
import pandas as pd
from scipy import stats

SEEDS = 3  # least seeds of an interval
CONFIDENCE = 0.95

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
    reach: Fraction  # half the interval, squared, so that no root is rounded

    @classmethod
    def of(cls, values: Sequence[Fraction]) -> Self:
        """The interval of at least two values, as `t_interval` has it."""
        n, mean = len(values), sum(values, Fraction(0)) / len(values)
        variance = sum(((v - mean) ** 2 for v in values), Fraction(0)) / (n - 1)
        return cls(mean, Fraction(_student(n)) ** 2 * variance / n)

    def __neg__(self) -> "Interval":
        return Interval(-self.mean, self.reach)

    def above(self, bound: Fraction | int) -> bool:
        """Whether all of the interval lies above the bound."""
        gap = self.mean - bound
        return gap > 0 and gap**2 > self.reach

    def below(self, bound: Fraction | int) -> bool:
        """Whether all of the interval lies below the bound."""
        return (-self).above(-bound)

    def floats(self) -> tuple[float, float, float]:
        """``(mean, low, high)``, to be shown."""
        mean, half = float(self.mean), math.sqrt(self.reach)
        return mean, mean - half, mean + half


def _student(n: int) -> float:
    """How many standard errors the interval of ``n`` values reaches to each side."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))


def mean_of_tasks(parts: Sequence[pd.Series]) -> tuple[float, float, float]:
    """Mean of the parts' means and its t-interval, with the smallest part's degrees of freedom."""
    means = np.mean([part.mean() for part in parts])
    error = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) / len(parts)
    half = _student(min(map(len, parts))) * error  # of one item: no interval
    return float(means), float(means - half), float(means + half)
