"""One pair's values beside the verdicts of many: each from where it belongs, and nothing made up."""

from __future__ import annotations

import numpy as np
import pytest
from evidence_folder import fabricate

from gateau_lib.experiments import beside_evidence, evidence_files, ledger
from gateau_lib.study.evidence import write_metrics
from gateau_lib.study.store import open_study

NOTEBOOK, CLAIM = "03_hmg_scoring", "hmg-ranks-far-clean"
ROW = {"metric": "auc", "method": "hmg_minmax_ntk", "condition": "clean", "n": 9}


def rows(*values: float) -> list[dict]:
    return [ROW | {"seed": n, "value": value} for n, value in enumerate(values)]


@pytest.fixture
def study(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    return open_study("cpu")


def test_without_evidence_nothing_is_judged(study):
    found = beside_evidence.settled(study)
    assert beside_evidence.NOTHING_YET in found.source and found.metrics.empty
    assert set(found.verdicts["verdict"]) == {"not testable here"}
    text = beside_evidence.table(study, NOTEBOOK, rows(0.7))
    assert text.startswith(beside_evidence.NOTHING_YET) and "0.700 against 0.500" in text
    assert "holds" not in text


def test_verdicts_are_of_the_pairs_and_values_of_this_one(study):
    fabricate(evidence_files.place(), range(4))
    found = beside_evidence.settled(study)
    assert "4 pairs of models (results/evidence)" in found.source
    assert found.verdicts.set_index("id").loc[CLAIM, "verdict"] == "holds"
    line = next(
        each for each in beside_evidence.table(study, NOTEBOOK, rows(0.2)).splitlines() if CLAIM in each
    )
    assert "|0.200 against 0.500|0.802 against 0.500|" in line and "|**holds**|" in line
    other = next(
        each for each in beside_evidence.table(study, NOTEBOOK).splitlines() if "ntk-each-is" in each
    )
    assert "|– against –|" in other and "**not testable here**" in other


def test_a_later_notebook_tells_the_claims_that_waited_for_it_only(study):
    fabricate(evidence_files.place(), range(4))
    waited = {"metric": "effect_far", "method": "repeated", "condition": "independent", "seed": 0, "n": 9}
    world = "01_data_synthesis"
    text = beside_evidence.table(study, world, [waited | {"value": 0.01}], late=True)
    assert "`repeated-evidence-is-not-needed`" in text and text.count("|**") == 1
    assert beside_evidence.table(study, world, late=True) == ""
    # The first notebook writes no rows, and the later one has written its own before it tells the claims.
    write_metrics(study, NOTEBOOK, [waited | {"value": 0.01}])
    assert beside_evidence.table(study, world, [waited | {"value": 0.01}], late=True) == text


def test_a_profile_with_pools_of_its_own_is_judged_by_them(study):
    fabricate(evidence_files.place(), range(4))
    pools = open_study("cpu", pool_seeds=3)
    write_metrics(pools, NOTEBOOK, rows(0.3, 0.31, 0.32))
    found = beside_evidence.settled(pools)
    assert "3 pools of one pair of models (profile cpu)" in found.source
    assert found.verdicts.set_index("id").loc[CLAIM, "verdict"] == "fails"


def test_own_values_are_means_over_pools_of_what_was_measured_so_far(study):
    write_metrics(study, NOTEBOOK, rows(0.6, 0.7))
    found = beside_evidence.own_values(study, NOTEBOOK).set_index("id")
    assert list(found.index) == [each.id for each in ledger.load_claims() if each.evidence == NOTEBOOK]
    assert found.loc[CLAIM, "value"] == pytest.approx(0.65) and found.loc[CLAIM, "against"] == 0.5
    assert np.isnan(found.loc["ntk-each-is-better", ["value", "against"]].astype(float)).all()
    # A row in hand counts beside those that are written.
    more = [ROW | {"method": "perplexity_guidance", "seed": n, "value": 0.4} for n in range(2)]
    found = beside_evidence.own_values(study, NOTEBOOK, more).set_index("id")
    assert found.loc["hmg-beats-perplexity-clean", "against"] == pytest.approx(0.4)


def test_agreement_of_two_runs_is_told_where_it_was_measured(study):
    fabricate(evidence_files.place(), range(4))
    assert beside_evidence.agreement() == ""
    fabricate(evidence_files.place(seed=50), range(50, 54), value=0.5)
    evidence_files.compare(evidence_files.place(), evidence_files.place(seed=50))
    said, count = beside_evidence.agreement(), len(ledger.load_claims())
    assert f"of {count} verdicts are the same in evidence and in evidence-seed50" in said
    assert "of the 1 that hold or fail in at least one, 0%" in said
    assert said.endswith(
        "1 hold in one and fail in the other. Over the pairs of both together 1 hold or fail."
    )
