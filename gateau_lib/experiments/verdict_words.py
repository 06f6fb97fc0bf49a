"""Why a claim has its verdict, in words: numbers, what the interval reaches, what it would take."""

from collections.abc import Sequence
from fractions import Fraction

from gateau_lib.study.intervals import MANY, SEEDS, Interval

Bounds = tuple[int, int]
# What a measure cannot pass, by a part of its name; shares, areas and precisions lie between 0 and 1.
BOUNDS: dict[str, Bounds | None] = {"nll": None, "effect": None, "perplexity": None, "correlation": (-1, 1)}
SHARE = (0, 1)


def numbers(value: Fraction, against: Fraction, gap: Interval, units: str, margin: float) -> str:
    """Both sides, the difference with its 95 % interval, the margin."""
    difference, low, high = (f"{round(x, 3) + 0.0:+.3f}" for x in gap.floats())  # no minus zero
    sides = f"{float(value):.3f} against {float(against):.3f} over {gap.n} {units}"
    return f"{sides}: {difference} [{low}, {high}], margin {margin:g}"


def ceiling(metric: str, relation: str, against: Fraction, margin: Fraction) -> str:
    """Why nothing can pass another selector by the margin, as that is too near to the end; "" if it can."""
    bounds = next((ends for part, ends in BOUNDS.items() if part in metric), SHARE)
    if bounds is None:
        return ""
    side = f"the other side is at {float(against):.3f}, nearer to"
    if relation == "above" and against + margin > bounds[1]:
        return f"ceiling: {side} {bounds[1]} than the margin of {float(margin):g}"
    if relation == "below" and against - margin < bounds[0]:
        return f"floor: {side} {bounds[0]} than the margin of {float(margin):g}"
    return ""


def too_few(found: Sequence[tuple[str, int]], both: int, units: str) -> str:
    """Which rows are missing, of selectors with the number of their rows; else how few pairs both have."""
    missing = [f"no rows {name}" for name, count in found if not count]
    return "; ".join(missing) or f"{found[0][0]}: {both} {units}, {SEEDS} are needed"


def failing(relation: str, gap: Interval) -> str:
    """In which way a claim fails."""
    if relation == "not_below":
        return "worse by more than the tolerance"
    if relation == "within":
        return "different by more than the tolerance"
    gain = gap if relation == "above" else -gap
    if gain.below(0):
        return "the other way round"
    return "a difference, but smaller than the margin" if gain.above(0) else "smaller than the margin"


def open_still(relation: str, margin: Fraction, gap: Interval, family: str, among: int, alone: bool) -> str:
    """Why a claim is inconclusive, and about how many pairs would settle it.

    ``among``: claims of the family that the interval had to allow for; ``alone``: decisive but for these.
    """
    if relation in ("above", "below"):
        gain = gap if relation == "above" else -gap
        passed = gain.mean >= margin
        distance = gain.mean if passed else margin - gain.mean
        short = "the mean passes the margin, but the interval reaches beyond 0"
        why = short if passed else "the mean is short of the margin, but the interval reaches it"
    else:
        off = abs(gap.mean) if relation == "within" else -gap.mean
        distance, why = abs(margin - off), "the interval reaches across the tolerance"
    if alone:
        why = f"decisive by itself, not as one of {among} claims of family {family} (Holm)"
    count = gap.among(among).needed(distance)
    about = f"about {count:,} pairs" if count else f"more than {MANY:,} pairs" if distance else "no number"
    return f"{why}; {about} would settle it"
