"""The claims ledger: every sentence of the findings is a claim in ``claims.yml`` and gets its verdict here.

A verdict compares metrics rows, paired by seed, through a 95 % t-interval of the mean difference over three
seeds or more. The rules stand at the head of the ledger; only the ledger and the metrics enter a verdict. All
comparisons are made in fractions, because a float difference can miss a margin that it equals.
"""

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from math import nan
from pathlib import Path
from statistics import mean
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
import yaml

from gateau_lib.study.errors import UserError
from gateau_lib.study.intervals import SEEDS, Interval, exact
from gateau_lib.study.profiles import PROFILES, named

Relation = Literal["above", "below", "not_below", "within"]
Outcome = Literal["holds", "fails", "inconclusive", "not testable here"]

LEDGER = Path(__file__).with_name("claims.yml")
RELATIONS: tuple[Relation, ...] = get_args(Relation)
TOLERANCES = ("not_below", "within")  # relations whose margin is a tolerance
VERDICTS: tuple[Outcome, ...] = get_args(Outcome)
UNTESTED: Outcome = "not testable here"
REHEARSALS = "rehearsals"  # of every profile, where the ledger names profiles
CEILING = 1  # no measure of the ledger exceeds it: shares right, areas, precisions, correlations


class LedgerError(UserError):
    """A claim that cannot be read, or metrics that contradict each other; the message names claim and fix."""


class Selector(NamedTuple):
    """Which metrics rows: one value a seed."""

    metric: str
    method: str
    condition: str


class Claim(NamedTuple):
    """One testable sentence; `claims.yml` explains relation, margin and effect."""

    id: str
    statement: str
    paper: str
    source: str
    evidence: str
    value: Selector
    relation: Relation
    against: Selector | float
    margin: float
    effect: tuple[Selector, Selector | float] | None
    not_testable: Mapping[str, str]  # profile, or `REHEARSALS`, -> why

    def untestable_on(self, profile: str) -> str:
        """Why the claim cannot be tested on a profile; empty where it can."""
        scale = named(profile)
        return self.not_testable.get(REHEARSALS if scale.rehearsed else scale.base, "")


class Verdict(NamedTuple):
    """A claim's outcome; ``difference`` = value - against, mean over seeds with its 95 % interval."""

    id: str
    paper: str
    statement: str
    verdict: Outcome
    value: float = nan
    against: float = nan
    difference: float = nan
    low: float = nan
    high: float = nan
    seeds: int = 0
    reason: str = ""
    evidence: str = ""


def _other(base: Selector, given: Any) -> Selector | float:
    """``against`` as written: a number, or the fields in which it differs from ``base``."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    if not isinstance(given, dict) or not given or set(given) - set(Selector._fields):
        raise LedgerError(f"against must be a number or some of metric, method, condition; got {given!r}")
    return base._replace(**given)


def parse_claim(entry: dict[str, Any], not_testable: Mapping[str, str] | None = None) -> Claim:
    """One entry of the ledger, checked; to its own profiles ``not_testable`` come those of every claim.

    Raises LedgerError: a missing or unknown field, relation or profile; a tolerance without an effect.
    """
    try:
        base, effect = Selector(**entry["value"]), entry.get("effect")
        parsed = {"value": base, "against": _other(base, entry["against"]), "margin": float(entry["margin"])}
        if effect is not None:
            if not isinstance(effect, dict) or "against" not in effect:
                raise LedgerError(f"effect must be a selector with 'against'; got {effect!r}")
            first = base._replace(**{k: v for k, v in effect.items() if k != "against"})
            effect = first, _other(first, effect["against"])
        excluded = {**(not_testable or {}), **entry.get("not_testable", {})}
        claim = Claim(**{**entry, **parsed, "effect": effect, "not_testable": excluded})
        _check(claim)
    except (KeyError, TypeError, ValueError, LedgerError) as error:
        what = error if isinstance(error, LedgerError) else f"missing, mistyped or unknown field ({error})"
        raise LedgerError(f"claim {str(entry.get('id', '?'))!r}: {what}") from None
    return claim


def _check(claim: Claim) -> None:
    """Raise LedgerError for a claim that contradicts itself."""
    if claim.relation not in RELATIONS:
        raise LedgerError(f"unknown relation {claim.relation!r}; choose one of {', '.join(RELATIONS)}")
    if not claim.margin > 0:
        raise LedgerError(f"margin must be positive, got {claim.margin}")
    if (claim.relation in TOLERANCES) != (claim.effect is not None):
        raise LedgerError(f"relations {', '.join(TOLERANCES)} need an effect, and only they take one")
    known = (*PROFILES, REHEARSALS)
    for profile, why in claim.not_testable.items():
        if profile not in known or not why:
            raise LedgerError(f"not_testable, {profile!r}: name one of {', '.join(known)}, and say why")


def load_claims() -> list[Claim]:
    """Every claim of the ledger in its order. Raises LedgerError: see `parse_claim`; an id twice."""
    ledger = yaml.safe_load(LEDGER.read_text(encoding="utf-8"))
    claims = [parse_claim(entry, ledger["not_testable"]) for entry in ledger["claims"]]
    for name, count in Counter(claim.id for claim in claims).items():
        if count > 1:
            raise LedgerError(f"{LEDGER}: claim id {name!r} stands twice; ids must be unique")
    return claims


def by_seed(metrics: pd.DataFrame, which: Selector) -> pd.Series:
    """The selector's values by seed, none if it has no rows. Raises LedgerError: two values for one seed."""
    rows = metrics[(metrics["metric"] == which.metric) & (metrics["method"] == which.method)]
    conditions = rows["condition"].astype(str)
    if which.condition in ("longest", "shortest"):
        lengths = sorted(conditions[conditions.str.isdigit()], key=int)
        if not lengths:
            return pd.Series(dtype=float)
        which = which._replace(condition=lengths[-1 if which.condition == "longest" else 0])
    rows = rows[conditions == which.condition].drop_duplicates(["seed", "value"])
    if rows["seed"].duplicated().any():
        seed = rows.loc[rows["seed"].duplicated(), "seed"].iloc[0]
        raise LedgerError(f"metrics: {'/'.join(which)} has two values for seed {seed}; write each row once")
    return rows.set_index("seed")["value"].astype(float).sort_index()


def _paired(metrics: pd.DataFrame, first: Selector, second: Selector | float) -> list[tuple[Fraction, ...]]:
    """Pairs ``(value, against)`` of the seeds that both have."""
    value = by_seed(metrics, first)
    against = second if isinstance(second, float) else by_seed(metrics, second)
    pairs = pd.DataFrame({"value": value, "against": against}, index=value.index).dropna()
    return [tuple(map(exact, pair)) for pair in pairs.itertuples(index=False)]


def _decide(relation: Relation, margin: Fraction, difference: Interval) -> Outcome:
    if relation == "within":
        holds = difference.above(-margin) and difference.below(margin)
        fails = difference.below(-margin) or difference.above(margin)
    elif relation == "not_below":
        holds, fails = difference.above(-margin), difference.below(-margin)
    else:
        gain = difference if relation == "above" else -difference
        holds, fails = gain.above(0) and gain.mean >= margin, gain.below(margin)
    return "holds" if holds else "fails" if fails else "inconclusive"


def verdict(claim: Claim, metrics: pd.DataFrame, profile: str) -> Verdict:
    """The verdict of one claim on metrics rows ``metric, method, condition, seed, value`` of one profile.

    ``holds``, ``fails``, ``inconclusive``, or ``not testable here``: the ledger excludes the profile, or
    seeds are too few, or the reference is so near to 1 that nothing passes it by the margin.
    """
    about: dict[str, Any] = {name: getattr(claim, name) for name in ("id", "paper", "statement", "evidence")}
    if why := claim.untestable_on(profile):
        return Verdict(**about, verdict=UNTESTED, reason=why)
    pairs = _paired(metrics, claim.value, claim.against)
    about["seeds"] = len(pairs)
    if len(pairs) < SEEDS:
        few = f"{'/'.join(claim.value)}: {len(pairs)} of {SEEDS} seeds"
        return Verdict(**about, verdict=UNTESTED, reason=few)
    difference = Interval.of([value - against for value, against in pairs])
    value, against = (mean(side) for side in zip(*pairs, strict=True))
    about["verdict"], about["reason"] = _outcome(claim, metrics, difference, against)
    about |= zip(("difference", "low", "high"), difference.floats(), strict=True)
    return Verdict(**about, value=float(value), against=float(against))


def _outcome(
    claim: Claim, metrics: pd.DataFrame, difference: Interval, against: Fraction
) -> tuple[Outcome, str]:
    """The verdict of a claim whose seeds are there, and why it is none where that is so."""
    margin = exact(claim.margin)
    if claim.relation == "above" and isinstance(claim.against, Selector) and against + margin > CEILING:
        ceiling = f"ceiling: the other side is at {float(against):.3f}"
        return UNTESTED, f"{ceiling}, nearer to 1 than the margin of {claim.margin:g}"
    if claim.effect:
        effect = abs(mean([v - a for v, a in _paired(metrics, *claim.effect)] or [Fraction(0)]))
        if margin >= effect / 2:
            tolerance = f"tolerance {claim.margin:g} is not below half the effect"
            return "inconclusive", f"{tolerance} {float(effect):.3f}"
    return _decide(claim.relation, margin, difference), ""


def verdicts(metrics: pd.DataFrame, profile: str, evidence: str | None = None) -> pd.DataFrame:
    """`Verdict` of each claim, in the ledger's order; LedgerError if ``evidence``, a notebook, has none."""
    ledger = load_claims()
    if not (chosen := [c for c in ledger if evidence in (None, c.evidence)]):
        known = sorted({c.evidence for c in ledger})
        raise LedgerError(f"no claim has evidence {evidence!r}; the ledger names {known}")
    return pd.DataFrame([verdict(claim, metrics, profile) for claim in chosen])
