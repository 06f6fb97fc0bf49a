"""The claims ledger: every sentence of the findings is a claim in ``claims.yml`` and gets its verdict here.

A verdict compares metrics rows, one value a pair of models, through a 95 % t-interval of the mean difference
over three pairs or more; where several claims ask one question (a ``family``), Holm's procedure decides which
of them stand. ``above`` (``below``: its mirror) holds if the interval lies above 0 and the mean reaches the
margin, and fails if the interval lies below the margin; ``not_below`` and ``within`` have a tolerance, less
than half of a fixed effect. Only the ledger and the metrics enter a verdict. All comparisons are made in
fractions, because a float difference can miss a margin that it equals.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import nan
from statistics import mean
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd

from gateau_lib.experiments import verdict_words
from gateau_lib.experiments.ledger import LEDGER, Claim, LedgerError, Relation, Selector, load_claims
from gateau_lib.study.intervals import SEEDS, Interval, exact, holm

Outcome = Literal["holds", "fails", "inconclusive", "not testable here"]

VERDICTS: tuple[Outcome, ...] = get_args(Outcome)
DECISIVE: tuple[Outcome, ...] = ("holds", "fails")
OPEN: Outcome = "inconclusive"
UNTESTED: Outcome = "not testable here"
# What a value belongs to, by its column: evidence has pairs, one study only the pools of its one pair.
UNITS = {"pair": "pairs", "seed": "pools of one pair"}


class Verdict(NamedTuple):
    """A claim's outcome; ``difference`` = value - against, mean over pairs with its own 95 % interval.

    ``p``: adjusted by Holm within the family; a claim is decided only if it is below 0.025.
    """

    id: str
    paper: str
    family: str
    statement: str
    verdict: Outcome
    value: float = nan
    against: float = nan
    difference: float = nan
    low: float = nan
    high: float = nan
    pairs: int = 0
    margin: float = nan
    p: float = nan
    reason: str = ""
    evidence: str = ""


class Agreement(NamedTuple):
    """Two tables of verdicts side by side: ``id, first, second, same``, and which share is the same."""

    table: pd.DataFrame
    of_all: float
    of_decisive: float  # of those that hold or fail in at least one of the two


def unit(metrics: pd.DataFrame) -> str:
    """The column of `UNITS` that tells the values apart."""
    return next((name for name in UNITS if name in metrics), "pair")


def by_pair(metrics: pd.DataFrame, which: Selector) -> pd.Series:
    """The selector's values by pair, none if it has no rows; of one study by pool.

    Raises LedgerError: two values for one pair.
    """
    rows = metrics[(metrics["metric"] == which.metric) & (metrics["method"] == which.method)]
    conditions, one = rows["condition"].astype(str), unit(metrics)
    if which.condition in ("longest", "shortest"):
        lengths = sorted(conditions[conditions.str.isdigit()], key=int)
        if not lengths:
            return pd.Series(dtype=float)
        which = which._replace(condition=lengths[-1 if which.condition == "longest" else 0])
    rows = rows[conditions == which.condition].drop_duplicates([one, "value"])
    if rows[one].duplicated().any():
        number = rows.loc[rows[one].duplicated(), one].iloc[0]
        twice = f"{'/'.join(which)} has two values for {one} {number}"
        raise LedgerError(f"metrics: {twice}; write each row once")
    return rows.set_index(one)["value"].astype(float).sort_index()


def decide(relation: Relation, margin: Fraction, gap: Interval) -> Outcome:
    """What a relation makes of a difference, by itself."""
    if relation == "within":
        holds = gap.above(-margin) and gap.below(margin)
        fails = gap.below(-margin) or gap.above(margin)
    elif relation == "not_below":
        holds, fails = gap.above(-margin), gap.below(-margin)
    else:
        gain = gap if relation == "above" else -gap
        holds, fails = gain.above(0) and gain.mean >= margin, gain.below(margin)
    return "holds" if holds else "fails" if fails else "inconclusive"


def p_value(relation: Relation, margin: Fraction, gap: Interval) -> float:
    """The smaller one-sided p-value of "holds" and "fails"; a mean short of the margin never holds."""
    if relation == "within":
        holds = max(gap.p_above(-margin), gap.p_below(margin))
        fails = min(gap.p_below(-margin), gap.p_above(margin))
    elif relation == "not_below":
        holds, fails = gap.p_above(-margin), gap.p_below(-margin)
    else:
        gain = gap if relation == "above" else -gap
        holds, fails = gain.p_above(0) if gain.mean >= margin else 1.0, gain.p_below(margin)
    return min(holds, fails)


class _Measured(NamedTuple):
    """A claim whose rows are there: both sides, means over pairs, and their difference."""

    claim: Claim
    value: Fraction
    against: Fraction
    gap: Interval

    @property
    def p(self) -> float:
        """See `p_value`."""
        return p_value(self.claim.relation, exact(self.claim.margin), self.gap)

    def decided(self, among: int = 1) -> Outcome:
        """The outcome as one of ``among`` claims."""
        return decide(self.claim.relation, exact(self.claim.margin), self.gap.among(among))

    def shown(self) -> dict[str, Any]:
        """The numbers of its verdict."""
        difference = dict(zip(("difference", "low", "high"), self.gap.floats(), strict=True))
        return {"value": float(self.value), "against": float(self.against), **difference, "pairs": self.gap.n}


def _measured(claim: Claim, metrics: pd.DataFrame, profile: str) -> tuple[_Measured | None, str]:
    """The claim with its numbers, if its rows are there, and why it cannot be tested, if it cannot."""
    if why := claim.untestable_on(profile):
        return None, why
    sides = [side for side in (claim.value, claim.against) if isinstance(side, Selector)]
    value, *others = (by_pair(metrics, side) for side in sides)
    against = others[0] if others else claim.against
    table = pd.DataFrame({"value": value, "against": against}, index=value.index).dropna()
    pairs = [tuple(map(exact, row)) for row in table.itertuples(index=False)]
    if len(pairs) < SEEDS:
        found = zip(map("/".join, sides), map(len, (value, *others)), strict=True)
        return None, verdict_words.too_few(list(found), len(pairs), UNITS[unit(metrics)])
    first, second = (mean(side) for side in zip(*pairs, strict=True))
    there = _Measured(claim, first, second, Interval.of([a - b for a, b in pairs]))
    near = verdict_words.ceiling(claim.value.metric, claim.relation, second, exact(claim.margin))
    return there, near if others else ""


def _family(
    claims: Sequence[Claim], metrics: pd.DataFrame, profile: str, note: str = ""
) -> dict[str, Verdict]:
    """Verdicts of the claims of one family by id: Holm's procedure over those that can be tested."""
    found = {claim.id: _measured(claim, metrics, profile) for claim in claims}
    tested = [there for there, why in found.values() if there and not why]
    adjusted = dict(zip((t.claim.id for t in tested), holm([t.p for t in tested]), strict=True))
    outcome: dict[str, tuple[Outcome, int]] = {}  # and among how many it was decided
    left, stopped = len(tested), False
    for each in sorted(tested, key=lambda t: t.p):
        stopped = stopped or each.decided(left) == OPEN
        outcome[each.claim.id] = OPEN if stopped else each.decided(left), left
        left -= not stopped
    units, done = UNITS[unit(metrics)], {}
    for claim in claims:
        there, why = found[claim.id]
        verdict, among = outcome.get(claim.id, (UNTESTED, 0))
        about: dict[str, Any] = {
            name: getattr(claim, name) for name in ("id", "paper", "family", "statement")
        }
        about |= {"margin": claim.margin, "evidence": claim.evidence, "verdict": verdict}
        if there:
            about |= there.shown()
        if there and among:
            about["p"] = adjusted[claim.id]
            numbers = verdict_words.numbers(there.value, there.against, there.gap, units, claim.margin)
            why = "; ".join(filter(None, [numbers, _words(there, verdict, among)]))
        done[claim.id] = Verdict(**about, reason=f"{why}{note}")
    return done


def _words(there: _Measured, verdict: Outcome, among: int) -> str:
    claim, gap = there.claim, there.gap
    if verdict == OPEN:
        alone = there.decided() != OPEN
        margin = exact(claim.margin)
        return verdict_words.open_still(claim.relation, margin, gap, claim.family, among, alone)
    return verdict_words.failing(claim.relation, gap) if verdict == "fails" else ""


def verdict(claim: Claim, metrics: pd.DataFrame, profile: str) -> Verdict:
    """The verdict of one claim by itself, as if it were all of its family; see `verdicts`."""
    return _family([claim], metrics, profile)[claim.id]


def verdicts(
    metrics: pd.DataFrame, profile: str, evidence: str | None = None, note: str = ""
) -> pd.DataFrame:
    """`Verdict` of each claim, in the ledger's order, on rows ``metric, method, condition, pair, value``.

    ``holds``, ``fails``, ``inconclusive``, or ``not testable here``: the ledger excludes the profile, or
    pairs are too few, or the reference is so near to its end that nothing passes it by the margin. Rows of
    one study have ``seed``, the pools of its one pair, in place of ``pair``; the reasons say so.
    ``note``: what every reason ends with. Raises LedgerError: ``evidence``, a notebook, has no claim.
    """
    ledger = load_claims()
    if not (chosen := [c for c in ledger if evidence in (None, c.evidence)]):
        known = sorted({c.evidence for c in ledger})
        raise LedgerError(f"{LEDGER.name}: no claim has evidence {evidence!r}; it names {known}")
    done: dict[str, Verdict] = {}
    for family in dict.fromkeys(claim.family for claim in chosen):
        done |= _family([claim for claim in chosen if claim.family == family], metrics, profile, note)
    return pd.DataFrame([done[claim.id] for claim in chosen])


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> Agreement:
    """How two tables of `verdicts` agree, claim by claim; a claim that one of them lacks differs."""
    one, two = (dict(zip(table["id"], table["verdict"], strict=True)) for table in (first, second))
    rows = [(name, one.get(name, ""), two.get(name, "")) for name in {**one, **two}]
    table = pd.DataFrame(rows, columns=["id", "first", "second"])
    table = table.assign(same=table["first"] == table["second"])
    decisive = table[["first", "second"]].isin(DECISIVE).any(axis=1)
    shares = (float(rows.mean()) if len(rows) else nan for rows in (table["same"], table["same"][decisive]))
    return Agreement(table, *shares)
