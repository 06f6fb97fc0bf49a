"""The ledger of claims, ``claims.yml``: read and checked; `claims` gives the verdicts.

A claim compares one selector of metrics rows with a number or with another selector, by a relation and a
margin that was fixed on a date. Only the ledger and the metrics enter a verdict.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml

from gateau_lib.study.errors import UserError
from gateau_lib.study.intervals import exact
from gateau_lib.study.profiles import PROFILES, named

Relation = Literal["above", "below", "not_below", "within"]

LEDGER = Path(__file__).with_name("claims.yml")
RELATIONS: tuple[Relation, ...] = get_args(Relation)
TOLERANCES = ("not_below", "within")  # relations whose margin is a tolerance
REHEARSALS = "rehearsals"  # of every profile, where the ledger names profiles


class LedgerError(UserError):
    """A claim that cannot be read, or metrics that contradict each other; the message names claim and fix."""


class Selector(NamedTuple):
    """Which metrics rows: one value a pair."""

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
    family: str  # claims that answer one question together
    fixed: date  # when the margin was
    value: Selector
    relation: Relation
    against: Selector | float
    margin: float
    effect: float | None
    not_testable: Mapping[str, str]  # profile, or `REHEARSALS`, -> why

    def untestable_on(self, profile: str) -> str:
        """Why the claim cannot be tested on a profile; empty where it can."""
        scale = named(profile)
        return self.not_testable.get(REHEARSALS if scale.rehearsed else scale.base, "")


def _other(base: Selector, given: Any) -> Selector | float:
    """``against`` as written: a number, or the fields in which it differs from ``base``."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    if not isinstance(given, dict) or not given or set(given) - set(Selector._fields):
        raise LedgerError(f"against must be a number or some of metric, method, condition; got {given!r}")
    return base._replace(**given)


def parse_claim(entry: dict[str, Any], not_testable: Mapping[str, str] | None = None) -> Claim:
    """One entry of the ledger, checked; to its own profiles ``not_testable`` come those of every claim.

    Raises LedgerError: a missing or unknown field, relation, date or profile; a tolerance without an effect,
        or not below half of it.
    """
    try:
        base, effect = Selector(**entry["value"]), entry.get("effect")
        parsed: dict[str, Any] = {
            "value": base,
            "against": _other(base, entry["against"]),
            "margin": float(entry["margin"]),
        }
        parsed["effect"] = None if effect is None else float(effect)
        parsed["fixed"] = date.fromisoformat(str(entry["fixed"]))
        excluded = {**(not_testable or {}), **entry.get("not_testable", {})}
        claim = Claim(**{**entry, **parsed, "not_testable": excluded})
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
    if claim.effect is not None and 2 * exact(claim.margin) >= exact(claim.effect):
        raise LedgerError(f"tolerance {claim.margin:g} must be below half the effect {claim.effect:g}")
    known = (*PROFILES, REHEARSALS)
    for profile, why in claim.not_testable.items():
        if profile not in known or not why:
            raise LedgerError(f"not_testable, {profile!r}: name one of {', '.join(known)}, and say why")


def load_claims() -> list[Claim]:
    """Every claim of the ledger in its order.

    Raises LedgerError: see `parse_claim`; an id twice; a family whose claims have different evidence (a
        notebook that shows a part of a family could not give its verdicts).
    """
    ledger = yaml.safe_load(LEDGER.read_text(encoding="utf-8"))
    claims = [parse_claim(entry, ledger["not_testable"]) for entry in ledger["claims"]]
    for name, count in Counter(claim.id for claim in claims).items():
        if count > 1:
            raise LedgerError(f"{LEDGER}: claim id {name!r} stands twice; ids must be unique")
    home: dict[str, str] = {}
    for claim in claims:
        if home.setdefault(claim.family, claim.evidence) != claim.evidence:
            places = f"{home[claim.family]} and {claim.evidence}"
            raise LedgerError(f"{LEDGER}: family {claim.family!r} stands in {places}; name one for each")
    return claims
