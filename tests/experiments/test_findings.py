"""Findings say what the verdicts say: in words, as a figure,
beside reported numbers and reviewers' questions."""

from __future__ import annotations

from fractions import Fraction
from html import escape

import numpy as np
import pandas as pd
import pytest

from gateau_lib.experiments import claims, findings, ledger
from gateau_lib.study import intervals, labels
from gateau_lib.study.style import svg

LEDGER = ledger.load_claims()


def metrics(values: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    """Rows ``long_probability`` of the main condition of each method, one value a pair."""
    rows = [(m, n, value) for m, each in values.items() for n, value in enumerate(each)]
    table = pd.DataFrame(rows, columns=["method", "pair", "value"])
    return table.assign(metric="long_probability", condition="scarce_30", n=9)


BETTER = claims.verdicts(
    metrics({"gateau": (0.9, 0.91, 0.92), "full": (0.5, 0.52, 0.51), "hmg": (0.95, 0.97, 0.96)}), "cpu"
)
NOTHING = claims.verdicts(metrics({"gateau": (0.9,)}), "cpu")


def test_likely_and_right_are_told_apart_where_both_were_measured():
    rows = [("long_probability", "short_only", 0.75), ("long_exact", "short_only", 0.5)]
    rows += [("long_probability", "oracle", 0.25), ("long_exact", "oracle", 0.6)]
    metrics = pd.DataFrame(rows, columns=["metric", "method", "value"]).assign(condition="scarce_30")
    assert findings.likelier_and_right(metrics, "scarce_30") == (
        "Likely and right are two measures. Over pairs, after *short samples only* p(answer) 0.75, every "
        "token the first choice in 50%; after *by the labels* p(answer) 0.25, every token the first choice "
        "in 60% of the answers."
    )
    assert findings.likelier_and_right(metrics[:3], "scarce_30") == ""
    assert findings.likelier_and_right(metrics, "plenty_30") == ""


def test_reported_numbers_are_complete_and_plausible():
    table = findings.reported()
    assert (
        table["value"].between(0, 100).all()
        and not table.duplicated(["table", "setting", "row", "share"]).any()
    )
    wide = findings.reported_table("LongBench-Chat")
    assert wide.loc["Full", ("limited", "")] == 50.8 and wide.loc["GATEAU", ("real-world", "30 %")] == 57.8
    assert set(findings.SETTINGS) == set(table["setting"]) and findings.SHARE in set(table["share"])
    # Every row stands in both settings with the same shares.
    places = table.fillna({"share": 0}).groupby(["table", "row", "share"]).size()
    assert (places == len(findings.SETTINGS)).all()


def test_comparisons_and_questions_name_claims_of_the_ledger():
    names, content = {claim.id for claim in LEDGER}, findings.read_reported()
    assert {place["claim"] for place in content["comparisons"]} <= names
    assert {name for question in content["reviewers"] for name in question["claims"]} <= names
    assert {question["answered"] for question in content["reviewers"]} <= {"yes", "partly", "no"}


def test_signs_beside_reported_differences():
    table = findings.beside(BETTER).set_index(["claim", "table"])
    chat = table.loc[("gateau-beats-full", "LongBench-Chat")]
    assert chat["real-world"] == pytest.approx(56.8 - 48.8) and chat["limited"] == pytest.approx(59.0 - 50.8)
    assert chat["sign"] == "same" and chat["verdict"] == "holds"
    assert table.loc[("gateau-beats-hmg-in-training", "LongBench-Chat"), "sign"] == "opposite"
    assert set(findings.beside(NOTHING)["sign"]) == {"open"}
    # sqrt(2) standard errors of a mean times the normal quantile
    assert "more than 11.6 points: 1 of 10" in findings.noise(table.reset_index())


def test_sentences_carry_the_numbers_of_the_verdicts():
    row = next(r for r in BETTER.itertuples() if r.id == "gateau-beats-full")
    text = findings.sentence(row)
    assert (
        text.startswith("**holds**")
        and f"over 3 pairs: {row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" in text
    )
    assert "0.910 against 0.510" in text and "`gateau-beats-full`" in text
    assert findings.sentences(BETTER, ["holds"]).count("\n") == (BETTER["verdict"] == "holds").sum() - 1
    assert findings.sentences(BETTER).count("`") == 2 * len(LEDGER)
    assert findings.sentences(
        NOTHING, ["fails"]
    ) == "None." and "no rows auc/hmg_minmax_ntk/clean" in findings.sentences(NOTHING)


def test_summary_counts_every_claim():
    count = BETTER["verdict"].value_counts()
    assert findings.summary(BETTER).startswith(
        f"Of {len(LEDGER)} claims {count['holds']} hold, {count['fails']} fail, 0 stay"
    )
    table = findings.by_paper(BETTER)
    assert table.to_numpy().sum() == len(LEDGER) and list(table.columns) == list(claims.VERDICTS)
    assert list(table.index) == ["GATEAU", "ProLong", "SkipAlign", "field", "ours"]
    assert list(findings.reviewers(BETTER).columns) == ["asked", "answered", "how", "verdicts"]


@pytest.mark.parametrize(
    "verdicts", [BETTER, NOTHING, BETTER[BETTER["paper"] == "ProLong"]], ids=["some", "none", "one paper"]
)
def test_forest_shows_every_claim_and_is_byte_stable(verdicts):
    text = svg(findings.forest(verdicts))
    assert text == svg(findings.forest(verdicts))
    for statement in verdicts["statement"]:
        assert escape(statement[:40].rsplit(" ", 1)[0], quote=False) in text
    assert all(name in text for name in set(verdicts["verdict"]))


@pytest.mark.parametrize("claim", LEDGER, ids=lambda c: c.id)
def test_margins_are_where_the_verdict_turns(claim):
    """A difference without spread holds on the good side of every margin and not on the other side."""
    step, sign = 1e-6, -1 if claim.relation == "below" else 1
    for at in findings.margins(claim):
        good = sign if claim.relation in ("above", "not_below", "below") else -np.sign(at)
        for side, holds in ((good, True), (-good, False)):
            point = intervals.Interval(intervals.exact(at + side * step), Fraction(0), 3)
            assert (claims.decide(claim.relation, intervals.exact(claim.margin), point) == "holds") == holds


def test_families():
    table = findings.by_family(BETTER)
    assert table[list(claims.VERDICTS)].to_numpy().sum() == len(LEDGER)
    assert set(labels.FAMILIES) == {claim.family for claim in LEDGER} and set(table.index) == {
        *labels.FAMILIES.values()
    }
    decided = table["decided"][[labels.FAMILIES[name] for name in ("selection", "hmg")]]
    assert list(decided) == pytest.approx([2 / 12, 0])


def test_costs_stand_beside_scores_and_arms():
    costs = pd.DataFrame(
        {"metric": "forwarded", "method": ["hmg_minmax_ntk", "zlib_contrast"], "value": [2.0, 0.0]}
    )
    values = pd.DataFrame({"method": ["hmg", "zlib_contrast", "oracle"], "value": [0.5, 0.4, 0.9]})
    assert list(findings.with_cost(values, costs)["cost"]) == [2.0, 0.0]
    assert findings.with_cost(values, costs.iloc[:0]).empty
