"""The rules of the ledger decide as written and say why; what claims say is in test_ledger."""

import itertools
import math
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from gateau_lib.experiments import claims, ledger, verdict_words
from gateau_lib.study import intervals, profiles

LEDGER = yaml.safe_load(ledger.LEDGER.read_text(encoding="utf-8"))


def rows(method, values, metric="auc", condition="independent", pairs=None, unit="pair"):
    pairs = range(len(values)) if pairs is None else pairs
    return [
        {"metric": metric, "method": method, "condition": condition, unit: p, "value": v, "n": 10}
        for p, v in zip(pairs, values, strict=True)
    ]


def claim(relation="above", against=0.5, margin=0.1, **more):
    entry = {
        "id": "c",
        "statement": "s",
        "paper": "ours",
        "source": "test",
        "evidence": "03_hmg_scoring",
        "family": "f",
        "fixed": "2026-11-26",
        "value": {"metric": "auc", "method": "a", "condition": "independent"},
        "relation": relation,
        "against": against,
        "margin": margin,
    }
    return ledger.parse_claim(entry | more)


def decide(c, *groups, profile="cpu"):
    return claims.verdict(c, pd.DataFrame(list(itertools.chain(*groups))), profile)


def test_interval_is_students():
    values = [0.61, 0.72, 0.66, 0.70]
    mean, low, high = intervals.t_interval(values)
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
    assert (
        decide(
            claim(against={"method": "b"}), rows("a", [0.1, 0.11, 0.12]), rows("b", [0.9 - margin] * 3)
        ).verdict
        == "fails"
    )


def test_values_are_paired_by_pair_not_by_order():
    # Paired, the difference is constant; unpaired, the spread between pairs would hide it.
    a, b = rows("a", [0.9, 0.5, 0.7], pairs=[3, 1, 2]), rows("b", [0.3, 0.5, 0.7], pairs=[1, 2, 3])
    out = decide(claim(against={"method": "b"}), a, b)
    assert out.verdict == "holds" and out.difference == pytest.approx(0.2) and out.pairs == 3


def test_too_few_common_pairs_is_not_testable():
    b = rows("b", [0.1, 0.2, 0.3], pairs=[7, 8, 9])
    assert (
        decide(claim(against={"method": "b"}), rows("a", [1.0, 1.0, 1.0]), b).verdict == "not testable here"
    )
    assert decide(claim(), rows("a", [0.9, 0.9])).reason == "auc/a/independent: 2 pairs, 3 are needed"


def test_a_claim_is_testable_wherever_the_ledger_does_not_say_why_not(monkeypatch):
    seen = [rows("a", [0.9, 0.91, 0.92])]
    why = {"smoke": "few samples", "gpu": "the models are of one size", ledger.REHEARSALS: "fabricated"}
    c = claim(not_testable=why)
    for name, reason in [("smoke", why["smoke"]), ("gpu", why["gpu"]), ("gpu+granite-2b", why["gpu"])]:
        out = decide(c, *seen, profile=name)
        assert (out.verdict, out.reason) == ("not testable here", reason) and math.isnan(out.difference)
    for name in ("rehearse-gpu", "rehearse-gpu+granite-2b", "rehearse-paper"):
        assert decide(c, *seen, profile=name).reason == "fabricated"
    monkeypatch.setitem(profiles.PROFILES, "new", replace(profiles.PROFILES["cpu"], base="new"))
    for name in ("cpu", "paper", "new"):
        assert decide(c, *seen, profile=name).verdict == "holds"
    assert ledger.parse_claim(LEDGER["claims"][0], why).not_testable == why


def test_the_ledger_s_reasons_are_for_every_claim():
    for c in ledger.load_claims():
        assert LEDGER["not_testable"].items() <= c.not_testable.items()
        said = [bool(c.untestable_on(name)) for name in ("smoke", "rehearse-paper", "cpu", "paper")]
        assert said == [True, True, False, False]


def test_conflicting_rows_are_refused_and_equal_ones_merged():
    twice = rows("a", [0.9, 0.8], pairs=[0, 0])
    with pytest.raises(ledger.LedgerError, match="two values for pair 0"):
        decide(claim(), twice)
    assert decide(claim(), rows("a", [0.9, 0.8, 0.85]), rows("a", [0.9, 0.8, 0.85])).pairs == 3


def test_longest_condition_is_numeric():
    metrics = pd.DataFrame(rows("a", [0.1] * 3, condition="512") + rows("a", [0.9] * 3, condition="2048"))
    assert claims.by_pair(metrics, ledger.Selector("auc", "a", "longest")).tolist() == [0.9] * 3
    assert claims.by_pair(metrics, ledger.Selector("auc", "a", "shortest")).tolist() == [0.1] * 3


def test_a_tolerance_is_below_half_of_a_fixed_effect():
    with pytest.raises(ledger.LedgerError, match="need an effect"):
        claim("not_below")
    with pytest.raises(ledger.LedgerError, match=r"tolerance 0.15 must be below half the effect 0.3"):
        claim("within", margin=0.15, effect=0.3)
    keeps = claim("not_below", against={"method": "b"}, margin=0.05, effect=0.3)
    for values in ([0.9, 0.91, 0.92], [0.52, 0.53, 0.54]):  # whatever the effect here
        assert decide(keeps, rows("a", values), rows("b", values)).verdict == "holds"
    out = decide(keeps, rows("a", [0.7, 0.71, 0.72]), rows("b", [0.9, 0.91, 0.92]))
    assert out.verdict == "fails" and "worse by more than the tolerance" in out.reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relation": "over"}, "unknown relation"),
        ({"margin": 0}, "margin must be positive"),
        ({"colour": "red"}, "unknown field"),
        ({"against": "b"}, "claim 'c': against must be a number"),
        ({"effect": 0.3}, "need an effect, and only they take one"),
        ({"fixed": "soon"}, "claim 'c': missing, mistyped"),
        ({"family": None, "fixed": None}, "claim 'c': missing, mistyped"),
        ({"not_testable": {"spu": "slow"}}, "not_testable, 'spu': name one of smoke, cpu"),
        ({"not_testable": {"cpu": None}}, "not_testable, 'cpu': .*say why"),
        ({"profiles": ["cpu"]}, "unknown field"),
    ],
)
def test_bad_entries_are_named(change, message):
    with pytest.raises(ledger.LedgerError, match=message):
        claim(**change)


def test_verdict_table_has_every_claim_of_a_notebook():
    seen = pd.DataFrame(rows("hmg_minmax_ntk", [0.7, 0.71, 0.72], condition="clean"))
    frame = claims.verdicts(seen, "cpu", "03_hmg_scoring")
    assert set(frame["verdict"]) <= set(claims.VERDICTS) and frame.loc[0, "verdict"] == "holds"
    with pytest.raises(ledger.LedgerError, match="no claim has evidence"):
        claims.verdicts(pd.DataFrame(rows("a", [1.0])), "cpu", "99_none")


@given(st.lists(st.floats(0, 1), min_size=3, max_size=6), st.floats(0.01, 0.3))
def test_verdicts_are_consistent(values, margin):
    above = decide(claim(margin=margin), rows("a", values)).verdict
    below = decide(claim("below", margin=margin), rows("a", values)).verdict
    assert above in claims.VERDICTS and not (above == "holds" and below == "holds")
    if above == "holds":
        assert below == "fails" and np.mean(values) >= 0.5 + margin


def test_what_nothing_can_fall_below_by_the_margin_is_not_testable():
    low = rows("b", [0.05] * 3)
    out = decide(claim("below", against={"method": "b"}), rows("a", [0.04, 0.05, 0.06]), low)
    assert out.verdict == "not testable here" and out.reason.startswith("floor: the other side is at 0.050")
    for metric in ("rank_correlation", "document_nll"):  # their ends are elsewhere
        b, a = (
            rows(name, values, metric) for name, values in (("b", [0.05] * 3), ("a", [-0.4, -0.41, -0.42]))
        )
        about = {"value": {"metric": metric, "method": "a", "condition": "independent"}}
        assert decide(claim("below", against={"method": "b"}, **about), a, b).verdict == "holds"
    assert "floor" not in verdict_words.ceiling("document_nll", "above", Fraction(3), Fraction(1))


# Reasons ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.8, 0.81, 0.82], "0.810 against 0.500 over 3 pairs: +0.310 [+0.285, +0.335], margin 0.1"),
        ([0.3, 0.31, 0.32], "; the other way round"),
        ([0.51, 0.52, 0.53], "; smaller than the margin"),
        ([0.53, 0.54, 0.55], "; a difference, but smaller than the margin"),
        (
            [0.55, 0.58, 0.61],
            "; the mean is short of the margin, but the interval reaches it; about 12 pairs",
        ),
        ([0.5, 0.7, 0.9], "; the mean passes the margin, but the interval reaches beyond 0; about 7 pairs"),
        ([0.5, 0.6, 0.7], "about 7 pairs would settle it"),
        ([], "no rows auc/a/independent"),
        ([0.9, 0.91], "auc/a/independent: 2 pairs, 3 are needed"),
    ],
)
def test_every_verdict_says_why(values, reason):
    out = decide(claim(), rows("a", values) or rows("b", [1.0]))
    assert reason in out.reason


def test_one_study_has_pools_of_one_pair():
    assert "over 3 pools of one pair" in decide(claim(), rows("a", [0.8, 0.81, 0.82], unit="seed")).reason


def test_as_many_pairs_as_the_reason_says_settle_it():
    values = np.array([0.55, 0.58, 0.61])
    gap = intervals.Interval.of([intervals.exact(v - 0.5) for v in values])
    n = gap.needed(Fraction(2, 100))
    for count, settled in ((n, True), (n - 1, False)):
        more = intervals.Interval(gap.mean, gap.error * 3 / count, count)
        assert more.below(Fraction(1, 10)) == settled
    assert gap.needed(Fraction(0)) is None and gap.needed(Fraction(1, 10**6)) is None


# Families ---------------------------------------------------------------------------------------------------


def family(*given, relation="above"):
    """Verdicts of claims of one family, each on its own method's values."""
    about = [{"metric": "auc", "method": f"m{i}", "condition": "independent"} for i in range(len(given))]
    these = [claim(relation, id=f"c{i}", value=each) for i, each in enumerate(about)]
    metrics = pd.DataFrame([row for i, values in enumerate(given) for row in rows(f"m{i}", values)])
    return list(claims._family(these, metrics, "cpu").values())


def test_holm_adjusts_as_published():
    p = [0.01, 0.04, 0.03, 0.005]
    assert intervals.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.6, 0.9]) == [1.0, 1.0] and intervals.holm([]) == []


def test_a_claim_that_is_decisive_by_itself_may_not_be_among_others():
    weak = [0.64, 0.7, 0.8]  # p 0.022
    (alone,) = family(weak)
    assert alone.verdict == "holds" and 0.0125 < alone.p < 0.025
    first, second = family(weak, [0.4, 0.55, 0.72])
    assert (first.verdict, second.verdict) == ("inconclusive", "inconclusive")
    assert first.p == pytest.approx(2 * alone.p) and (first.low, first.high) == (alone.low, alone.high)
    assert "decisive by itself, not as one of 2 claims of family f (Holm)" in first.reason
    # A claim that is decided first leaves room for it; one that cannot be tested takes none.
    clear, then = family([0.9, 0.91, 0.92], weak)
    assert (clear.verdict, then.verdict) == ("holds", "holds") and then.p == pytest.approx(alone.p)
    assert family(weak, [0.9])[0].verdict == "holds"


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=5), min_size=1, max_size=4),
    st.sampled_from(["above", "below"]),
)
def test_decided_are_those_whose_adjusted_p_is_small(counts, relation):
    for out in family(*([c / 40 for c in each] for each in counts), relation=relation):
        assert 0 <= out.p <= 1
        if abs(out.p - 0.025) > 1e-9:
            assert (out.verdict in claims.DECISIVE) == (out.p < 0.025), out


def test_a_family_has_one_notebook(monkeypatch, tmp_path):
    entries = [dict(LEDGER["claims"][0]), LEDGER["claims"][-1] | {"family": LEDGER["claims"][0]["family"]}]
    made = tmp_path / "claims.yml"
    made.write_text(yaml.safe_dump({"not_testable": {}, "claims": entries}))
    monkeypatch.setattr(ledger, "LEDGER", made)
    with pytest.raises(ledger.LedgerError, match=r"family 'world' stands in 01_\w+ and 08_\w+; name one"):
        ledger.load_claims()


def test_columns_of_a_verdict():
    assert ", ".join(claims.Verdict._fields) == (
        "id, paper, family, statement, verdict, value, against, difference, low, high, pairs, margin, p, "
        "reason, evidence"
    )


def test_agreement_counts_all_and_those_that_are_decisive():
    def table(*verdicts):
        return pd.DataFrame({"id": list("abcd")[: len(verdicts)], "verdict": verdicts})

    unsure, untested = "inconclusive", "not testable here"
    found = claims.agreement(
        table("holds", "fails", unsure, untested), table("holds", "holds", unsure, untested)
    )
    assert found.table["same"].tolist() == [True, False, True, True]
    assert (found.of_all, found.of_decisive) == (0.75, 0.5)
    assert claims.agreement(table("holds", "fails"), table("holds")).of_all == 0.5
    assert math.isnan(claims.agreement(table(unsure), table(unsure)).of_decisive)


# Margins are met exactly ------------------------------------------------------------------------------------


def test_a_mean_that_equals_its_margin_reaches_it():
    """Differences of 4/80, 3/80 and 5/80 have the mean 1/20; in floats it is 0.04999999999999999."""
    normal, skipping = [27 / 80, 27 / 80, 26 / 80], [31 / 80, 30 / 80, 31 / 80]
    assert np.mean(np.subtract(skipping, normal)) < 0.05
    for relation, value, against in (("above", skipping, normal), ("below", normal, skipping)):
        out = decide(claim(relation, {"method": "b"}, 0.05), rows("a", value), rows("b", against))
        assert out.verdict == "holds" and abs(out.difference) == 0.05
    assert (
        decide(claim("above", {"method": "b"}, 0.050001), rows("a", skipping), rows("b", normal)).verdict
        == "inconclusive"
    )


def test_a_reference_that_leaves_room_for_the_margin_is_testable():
    """32/60, 56/60 and 56/60 leave exactly 0.2; the mean of their floats leaves less."""
    high, low = [32 / 60, 56 / 60, 56 / 60], [31 / 60, 55 / 60, 55 / 60]
    assert np.mean(high) + 0.2 > 1
    assert (
        decide(claim(against={"method": "b"}, margin=0.2), rows("a", low), rows("b", high)).verdict == "fails"
    )


def test_a_difference_without_spread_is_judged_by_the_rule_alone():
    """Equal differences have an interval of one point; their floats differ and would give it a width."""
    a, b = rows("a", [0.3, 0.4, 0.9]), rows("b", [0.2, 0.3, 0.8])
    assert len({x - y for x, y in zip([0.3, 0.4, 0.9], [0.2, 0.3, 0.8], strict=True)}) > 1
    out = decide(claim(against={"method": "b"}, margin=0.1), a, b)
    assert (out.verdict, out.difference, out.low, out.high) == ("holds", 0.1, 0.1, 0.1)
    assert out.p == 0


STEPS = intervals.ROUNDING - 1  # a ratio's own float may miss it by half a step
RATIOS = st.integers(1, 2000).flatmap(lambda bottom: st.tuples(st.integers(0, bottom), st.just(bottom)))


@example((1, 1), -5)  # the floats below a power of two lie twice as close as those above
@given(RATIOS, st.integers(-STEPS, STEPS))
def test_a_ratio_is_read_from_its_float_and_from_its_neighbours(ratio, off):
    value = ratio[0] / ratio[1]
    assert intervals.exact(value + off * math.ulp(value)) == Fraction(*ratio)


@given(st.floats(-10, 10))
def test_what_is_no_ratio_is_read_as_it_is_written(value):
    assert abs(intervals.exact(value) - Fraction(value)) <= intervals.ROUNDING * Fraction(math.ulp(value))
    assert intervals.exact(-value) == -intervals.exact(value)


def by_the_rule(relation, margin, differences):
    """The rules at the head of the ledger, in decimals of sixty digits."""
    with localcontext() as context:
        context.prec = 60
        n, margin = len(differences), Decimal(margin)
        values = [Decimal(d.numerator) / Decimal(d.denominator) for d in differences]
        mean = Decimal(sum(differences).numerator) / Decimal(sum(differences).denominator) / n
        variance = sum((v - mean) ** 2 for v in values) / (n - 1) if len(set(differences)) > 1 else Decimal(0)
        half = Decimal(float(stats.t.ppf(0.975, n - 1))) * (variance / n).sqrt()
        if relation == "below":
            mean = -mean
        low, high, mean = (x.quantize(Decimal("1e-40")) for x in (mean - half, mean + half, mean))
        holds, fails = {
            "above": (low > 0 and mean >= margin, high < margin),
            "below": (low > 0 and mean >= margin, high < margin),
            "not_below": (low > -margin, high < -margin),
            "within": (-margin < low and high < margin, high < -margin or low > margin),
        }[relation]
    return "holds" if holds else "fails" if fails else "inconclusive"


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(-8, 8)), min_size=3, max_size=5),
    st.sampled_from(["0.0125", "0.02", "0.025", "0.03", "0.05", "0.1"]),
    st.sampled_from(ledger.RELATIONS),
    st.sampled_from([80, 60, 48, 7]),
    st.lists(st.integers(-2, 2), min_size=5, max_size=5),
)
def test_verdicts_are_those_of_exact_arithmetic(counts, margin, relation, items, off):
    """Ratios of counts, each as far from its nearest float as a sum of floats may be,
    on and around the margin."""
    against = [a / items for a, _ in counts]
    value = [(a + d) / items for a, d in counts]
    value = [v + k * math.ulp(v) for v, k in zip(value, off, strict=False)]
    effect = {"effect": 100.0} if relation in ledger.TOLERANCES else {}
    out = decide(
        claim(relation, {"method": "b"}, float(margin), **effect), rows("a", value), rows("b", against)
    )
    differences = [Fraction(d, items) for _, d in counts]
    reference = sum(Fraction(a, items) for a, _ in counts) / len(counts)
    room = {"above": reference + Fraction(margin) <= 1, "below": reference >= Fraction(margin)}
    expected = by_the_rule(relation, margin, differences) if room.get(relation, True) else "not testable here"
    assert out.verdict == expected
    assert out.difference == float(sum(differences) / len(differences))
