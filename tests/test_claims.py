"""The ledger parses, its rules decide as written, and every claim refers to rows the notebooks write."""

import itertools

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gateau_lib import claims

LEDGER = yaml.safe_load(claims.LEDGER.read_text(encoding="utf-8"))


def rows(method, values, metric="auc", condition="independent", seeds=None):
    seeds = range(len(values)) if seeds is None else seeds
    return [
        {"metric": metric, "method": method, "condition": condition, "seed": s, "value": v, "n": 10}
        for s, v in zip(seeds, values, strict=True)
    ]


def claim(relation="above", against=0.5, margin=0.1, **more):
    entry = {
        "id": "c",
        "statement": "s",
        "paper": "ours",
        "source": "test",
        "evidence": "03_hmg_scoring",
        "profiles": ["cpu"],
        "value": {"metric": "auc", "method": "a", "condition": "independent"},
        "relation": relation,
        "against": against,
        "margin": margin,
    }
    return claims.parse_claim(entry | more)


def decide(c, *groups, profile="cpu"):
    return claims.verdict(c, pd.DataFrame(list(itertools.chain(*groups))), profile)


def test_ledger_parses_and_refers_to_declared_rows():
    declared = [
        (metric, method, block["conditions"])
        for block in LEDGER["rows"]
        for metric, method in itertools.product(block["metrics"], block["methods"])
    ]

    def known(s):
        return any(
            (s.metric, s.method) == (metric, method)
            and (s.condition in ("longest", "shortest") if conditions == "lengths" else s.condition in conditions)
            for metric, method, conditions in declared
        )

    for c in claims.load_claims():
        effect = c.effect if isinstance(c.effect, tuple) else ()
        for part in (c.value, c.against, *effect):
            assert isinstance(part, float) or known(part), (c.id, part)
        assert c.evidence in {block["notebook"] for block in LEDGER["rows"]}, c.id


def test_interval_is_students():
    values = [0.61, 0.72, 0.66, 0.70]
    mean, low, high = claims.t_interval(values)
    want = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((np.mean(values), want.low, want.high))


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([0.8, 0.81, 0.82], "holds"),
        ([0.3, 0.31, 0.32], "fails"),
        ([0.51, 0.52, 0.53], "fails"),  # above chance, but by less than the margin
        ([0.2, 0.9, 0.9], "inconclusive"),
    ],
)
def test_above_a_number(values, outcome):
    assert decide(claim(), rows("a", values)).verdict == outcome


def test_below_mirrors_above():
    assert decide(claim("below"), rows("a", [0.2, 0.21, 0.22])).verdict == "holds"
    assert decide(claim("below"), rows("a", [0.8, 0.81, 0.82])).verdict == "fails"


def test_what_nothing_can_beat_by_the_margin_is_not_testable():
    margin = claim().margin
    full = rows("b", [1 - margin / 2] * 3)
    out = decide(claim(against={"method": "b"}), rows("a", [0.9, 0.91, 0.92]), full)
    assert out.verdict == "not testable here" and "ceiling" in out.reason and out.difference < 0
    assert decide(claim(against={"method": "b"}), rows("a", [0.1, 0.11, 0.12]), rows("b", [0.9 - margin] * 3)).verdict == "fails"


def test_pairs_by_seed_not_by_order():
    # Paired, the difference is constant; unpaired, the spread between seeds would hide it.
    a, b = rows("a", [0.9, 0.5, 0.7], seeds=[3, 1, 2]), rows("b", [0.3, 0.5, 0.7], seeds=[1, 2, 3])
    out = decide(claim(against={"method": "b"}), a, b)
    assert out.verdict == "holds" and out.difference == pytest.approx(0.2) and out.seeds == 3


def test_too_few_common_seeds_or_other_profile_is_not_testable():
    b = rows("b", [0.1, 0.2, 0.3], seeds=[7, 8, 9])
    assert decide(claim(against={"method": "b"}), rows("a", [1.0, 1.0, 1.0]), b).verdict == "not testable here"
    assert decide(claim(), rows("a", [0.9, 0.9])).reason == "auc/a/independent: 2 of 3 seeds"
    assert decide(claim(), rows("a", [0.9] * 3), profile="smoke").verdict == "not testable here"


def test_conflicting_rows_are_refused_and_equal_ones_merged():
    twice = rows("a", [0.9, 0.8], seeds=[0, 0])
    with pytest.raises(claims.LedgerError, match="two values for seed 0"):
        decide(claim(), twice)
    assert decide(claim(), rows("a", [0.9, 0.8, 0.85]), rows("a", [0.9, 0.8, 0.85])).seeds == 3


def test_longest_condition_is_numeric():
    metrics = pd.DataFrame(rows("a", [0.1] * 3, condition="512") + rows("a", [0.9] * 3, condition="2048"))
    assert claims.by_seed(metrics, claims.Selector("auc", "a", "longest")).tolist() == [0.9] * 3
    assert claims.by_seed(metrics, claims.Selector("auc", "a", "shortest")).tolist() == [0.1] * 3


def test_tolerance_must_be_below_half_the_effect():
    with pytest.raises(claims.LedgerError, match="not below half the effect"):
        claim("within", margin=0.1, effect=0.15)
    with pytest.raises(claims.LedgerError, match="need an effect"):
        claim("not_below")
    keeps = claim("not_below", against={"method": "b"}, margin=0.05, effect={"method": "a", "against": 0.5})
    same = [rows("a", [0.9, 0.91, 0.92]), rows("b", [0.9, 0.91, 0.92])]
    assert decide(keeps, *same).verdict == "holds"
    flat = [rows("a", [0.52, 0.53, 0.54]), rows("b", [0.52, 0.53, 0.54])]
    assert decide(keeps, *flat).verdict == "inconclusive"
    assert decide(keeps, rows("a", [0.7, 0.71, 0.72]), rows("b", [0.9, 0.91, 0.92])).verdict == "fails"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relation": "over"}, "unknown relation"),
        ({"margin": 0}, "margin must be positive"),
        ({"colour": "red"}, "unknown field"),
        ({"against": "b"}, "against must be a number"),
    ],
)
def test_bad_entries_are_named(change, message):
    with pytest.raises(claims.LedgerError, match=message):
        claim(**change)


def test_verdict_table_has_every_claim_of_a_notebook():
    frame = claims.verdicts(pd.DataFrame(rows("hmg_minmax_ntk", [0.7, 0.71, 0.72])), "cpu", "03_hmg_scoring")
    assert set(frame["verdict"]) <= set(claims.VERDICTS) and frame.loc[0, "verdict"] == "holds"
    with pytest.raises(claims.LedgerError, match="no claim has evidence"):
        claims.verdicts(pd.DataFrame(rows("a", [1.0])), "cpu", "99_none")


@given(st.lists(st.floats(0, 1), min_size=3, max_size=6), st.floats(0.01, 0.3))
def test_verdicts_are_consistent(values, margin):
    above = decide(claim(margin=margin), rows("a", values)).verdict
    below = decide(claim("below", margin=margin), rows("a", values)).verdict
    assert above in claims.VERDICTS and not (above == "holds" and below == "holds")
    if above == "holds":
        assert below == "fails" and np.mean(values) >= 0.5 + margin
