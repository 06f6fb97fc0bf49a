"""The claims ledger: every sentence of the findings is a claim in ``claims.yml``, and its verdict is computed here.

A verdict compares metrics rows, paired by seed, through a 95 % t-interval of the mean difference over at least three seeds.
The rules stand at the head of the ledger; nothing but the ledger and the metrics enters a verdict. Every comparison is made in
fractions, because a float difference can miss a margin that it equals.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gateau_lib.study.errors import UserError
from gateau_lib.study.intervals import SEEDS, Interval, _mean, exact
from gateau_lib.study.profiles import named

LEDGER = Path(__file__).with_name("claims.yml")
RELATIONS = ("above", "below", "not_below", "within")
TOLERANCES = ("not_below", "within")  # relations whose margin is a tolerance
VERDICTS = ("holds", "fails", "inconclusive", "not testable here")
CEILING = 1  # no measure of the ledger exceeds it: shares right, areas, precisions, correlations


class LedgerError(UserError):
    """A claim that cannot be read, or metrics that contradict each other; the message names the claim and the fix."""


@dataclass(frozen=True)
class Selector:
    """Which metrics rows: one value a seed."""

    metric: str
    method: str
    condition: str


@dataclass(frozen=True)
class Claim:
    """One testable sentence; `claims.yml` explains relation, margin and effect."""

    id: str
    statement: str
    paper: str
    source: str
    evidence: str
    profiles: tuple[str, ...]
    value: Selector
    relation: str
    against: Selector | float
    margin: float
    effect: tuple[Selector, Selector | float] | float | None = None


@dataclass(frozen=True)
class Verdict:
    """A claim's outcome; ``difference`` = value - against, mean over seeds, with its 95 % interval, in the metric's unit."""

    id: str
    paper: str
    statement: str
    verdict: str
    value: float = float("nan")
    against: float = float("nan")
    difference: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    seeds: int = 0
    reason: str = ""
    evidence: str = ""


def _other(base: Selector, given: Any, claim_id: str) -> Selector | float:
    """``against`` as written: a number, or the fields in which it differs from ``base``."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    if not isinstance(given, dict) or not given or set(given) - {"metric", "method", "condition"}:
        raise LedgerError(f"claim {claim_id!r}: against must be a number or some of metric, method, condition; got {given!r}")
    return Selector(**{**asdict(base), **given})


def _effect(base: Selector, given: Any, claim_id: str) -> tuple[Selector, Selector | float] | float | None:
    if given is None or isinstance(given, int | float):
        return given
    if not isinstance(given, dict) or "against" not in given:
        raise LedgerError(f"claim {claim_id!r}: effect must be a number or a selector with 'against'; got {given!r}")
    fields = {k: v for k, v in given.items() if k != "against"}
    first = Selector(**{**asdict(base), **fields})
    return first, _other(first, given["against"], claim_id)


def parse_claim(entry: dict[str, Any]) -> Claim:
    """One entry of the ledger, checked.

    Raises:
        LedgerError: a missing or unknown field, relation or profile list, or a tolerance without an effect above twice its size.
    """
    name = str(entry.get("id", "?"))
    try:
        base = Selector(**entry["value"])
        against, effect = _other(base, entry["against"], name), _effect(base, entry.get("effect"), name)
        rest = {k: v for k, v in entry.items() if k not in ("value", "against", "effect", "profiles", "margin")}
        profiles, margin = tuple(entry["profiles"]), float(entry["margin"])
        claim = Claim(**rest, profiles=profiles, value=base, against=against, margin=margin, effect=effect)
    except (KeyError, TypeError) as error:
        raise LedgerError(f"claim {name!r}: missing, mistyped or unknown field ({error})") from None
    if claim.relation not in RELATIONS:
        raise LedgerError(f"claim {name!r}: unknown relation {claim.relation!r}; choose one of {', '.join(RELATIONS)}")
    if not claim.margin > 0:
        raise LedgerError(f"claim {name!r}: margin must be positive, got {claim.margin}")
    if (claim.relation in TOLERANCES) != (claim.effect is not None):
        raise LedgerError(f"claim {name!r}: relations {', '.join(TOLERANCES)} need an effect, and only they take one")
    if isinstance(claim.effect, int | float) and claim.margin >= abs(claim.effect) / 2:
        raise LedgerError(f"claim {name!r}: tolerance {claim.margin} is not below half the effect {claim.effect}")
    return claim


def load_claims(path: str | Path = LEDGER) -> list[Claim]:
    """Every claim of the ledger in its order; ids are unique.

    Raises:
        LedgerError: see `parse_claim`; a duplicate id.
    """
    claims = [parse_claim(entry) for entry in yaml.safe_load(Path(path).read_text(encoding="utf-8"))["claims"]]
    names = [c.id for c in claims]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise LedgerError(f"{path}: claim id {twice[0]!r} stands twice; ids must be unique")
    return claims




def by_seed(metrics: pd.DataFrame, which: Selector) -> pd.Series:
    """The selector's values indexed by seed; empty if there are none.

    Raises:
        LedgerError: two different values for one seed.
    """
    rows = metrics[(metrics["metric"] == which.metric) & (metrics["method"] == which.method)]
    condition = which.condition
    if condition in ("longest", "shortest"):
        lengths = sorted({int(c) for c in rows["condition"].astype(str) if c.isdigit()})
        if not lengths:
            return pd.Series(dtype=float)
        condition = str(lengths[-1] if condition == "longest" else lengths[0])
    rows = rows[rows["condition"].astype(str) == condition].drop_duplicates(["seed", "value"])
    if rows["seed"].duplicated().any():
        seed = rows.loc[rows["seed"].duplicated(), "seed"].iloc[0]
        where = f"{which.metric}/{which.method}/{condition}"
        raise LedgerError(f"metrics: {where} has two values for seed {seed}; write each row once")
    return rows.set_index("seed")["value"].astype(float).sort_index()








def _paired(metrics: pd.DataFrame, first: Selector, second: Selector | float) -> list[tuple[Fraction, Fraction]]:
    """Pairs ``(value, against)`` of the seeds that both have."""
    value = by_seed(metrics, first)
    other = pd.Series(second, index=value.index) if isinstance(second, float) else by_seed(metrics, second)
    pairs = pd.DataFrame({"value": value, "against": other}).dropna()
    return [(exact(v), exact(a)) for v, a in pairs.itertuples(index=False)]




def _decide(relation: str, margin: Fraction, difference: Interval) -> str:
    if relation == "below":
        relation, difference = "above", -difference
    holds, fails = {
        "above": (difference.above(0) and difference.mean >= margin, difference.below(margin)),
        "not_below": (difference.above(-margin), difference.below(-margin)),
        "within": (difference.above(-margin) and difference.below(margin), difference.below(-margin) or difference.above(margin)),
    }[relation]
    return "holds" if holds else "fails" if fails else "inconclusive"


def verdict(claim: Claim, metrics: pd.DataFrame, profile: str) -> Verdict:
    """The verdict of one claim on metrics rows ``metric, method, condition, seed, value`` of one profile.

    Returns:
        ``holds``, ``fails``, ``inconclusive``, or ``not testable here``: another profile's claim, rows missing, too few
        seeds, or a reference so near to the greatest possible value that nothing can pass it by the margin.
    """
    about = {"id": claim.id, "paper": claim.paper, "statement": claim.statement, "evidence": claim.evidence}
    scale = named(profile)
    if scale.rehearsed or scale.base not in claim.profiles:  # gpu+PAIR is the gpu profile with other models
        return Verdict(**about, verdict="not testable here", reason=f"for profiles {', '.join(claim.profiles)}")
    pairs, margin = _paired(metrics, claim.value, claim.against), exact(claim.margin)
    if len(pairs) < SEEDS:
        what = f"{claim.value.metric}/{claim.value.method}/{claim.value.condition}"
        return Verdict(**about, verdict="not testable here", seeds=len(pairs), reason=f"{what}: {len(pairs)} of {SEEDS} seeds")
    difference = Interval.of([value - against for value, against in pairs])
    outcome, reason = _decide(claim.relation, margin, difference), ""
    if isinstance(claim.effect, tuple):
        effect = abs(_mean([value - against for value, against in _paired(metrics, *claim.effect)] or [Fraction(0)]))
        if margin >= effect / 2:
            outcome, reason = "inconclusive", f"tolerance {claim.margin:g} is not below half the effect {float(effect):.3f}"
    value, against = (_mean(side) for side in zip(*pairs, strict=True))
    if claim.relation == "above" and isinstance(claim.against, Selector) and against + margin > CEILING:
        outcome = "not testable here"
        reason = f"ceiling: the other side is at {float(against):.3f}, nearer to 1 than the margin of {claim.margin:g}"
    mean, low, high = difference.floats()
    numbers = {"value": float(value), "against": float(against), "difference": mean, "low": low, "high": high}
    return Verdict(**about, verdict=outcome, reason=reason, **numbers, seeds=len(pairs))


def verdicts(metrics: pd.DataFrame, profile: str, evidence: str | None = None, path: str | Path = LEDGER) -> pd.DataFrame:
    """One row a claim with the fields of `Verdict`, in the ledger's order; only one notebook's claims if ``evidence`` is given.

    Raises:
        LedgerError: ``evidence`` names no claim.
    """
    ledger = load_claims(path)
    chosen = [c for c in ledger if evidence is None or c.evidence == evidence]
    if not chosen:
        raise LedgerError(f"no claim has evidence {evidence!r}; the ledger names {sorted({c.evidence for c in ledger})}")
    return pd.DataFrame([asdict(verdict(claim, metrics, profile)) for claim in chosen])
