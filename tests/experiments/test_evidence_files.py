"""Evidence counts as far as its manifest vouches for it: what is missing or changed makes no claim hold."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from evidence_folder import fabricate

from gateau_lib import run
from gateau_lib.experiments import claims, evidence_files
from gateau_lib.study.store import results_root

COMMITTED = Path(__file__).parents[2] / "results" / "evidence"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    fabricate(evidence_files.place(), range(4))
    return evidence_files.place()


def far(folder: Path) -> tuple[str, str]:
    row = evidence_files.read_evidence(folder).verdicts().set_index("id").loc["hmg-ranks-far-clean"]
    return row["verdict"], row["reason"]


def test_untouched_evidence_is_whole(folder):
    assert evidence_files.verify(folder) == [] and far(folder)[0] == "holds"
    assert "left out" not in far(folder)[1]


@pytest.mark.parametrize("name", ["scores/pair-01.csv", "scores/pair-01-chosen.json"])
def test_a_pair_without_its_scores_is_left_out_and_that_is_said(folder, name):
    (folder / name).unlink()
    verdict, reason = far(folder)
    assert verdict == "holds" and "over 3 pairs" in reason
    assert reason.endswith(f"; left out: pair 1 ({name} is missing)")
    (folder / "scores" / "pair-03.csv").write_text("id,hmg_minmax_ntk\na,9\n")
    verdict, reason = far(folder)
    assert verdict == "not testable here" and "2 pairs, 3 are needed" in reason
    assert "pair 3 (scores/pair-03.csv is not the manifest's)" in reason
    assert evidence_files.verify(folder) == [
        f"evidence/{name} is missing", "evidence/scores/pair-03.csv is not the manifest's"
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["unlink", "write"])
@pytest.mark.parametrize("name", ["metrics.csv", "manifest.json"])
def test_without_true_metrics_nothing_can_be_tested(folder, name, change):
    if change == "unlink":
        (folder / name).unlink()
    else:
        text = (folder / name).read_text()
        (folder / name).write_text(
            text.replace("0.8", "0.9").replace('"metrics.csv": "', '"metrics.csv": "0')
        )
    verdicts = evidence_files.read_evidence(folder).verdicts()
    assert set(verdicts["verdict"]) == {"not testable here"}
    assert verdicts["reason"].str.contains("left out: all pairs").all()
    assert evidence_files.verify(folder)
    with pytest.raises(evidence_files.EvidenceError):
        evidence_files.judge(folder)


def test_verdicts_must_follow_from_the_metrics(folder):
    path = folder / "verdicts.csv"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"holds", b"fails"))
    assert evidence_files.verify(folder) == ["evidence/verdicts.csv is not the manifest's"]
    # Listed or not, they must follow.
    about = json.loads((folder / "manifest.json").read_text())
    about["files"]["verdicts.csv"] = evidence_files.path_hash(path)
    (folder / "manifest.json").write_text(json.dumps(about))
    assert evidence_files.verify(folder) == [
        "evidence/verdicts.csv: not what metrics.csv and the ledger give; "
        "python -m gateau_lib.evidence --judge"
    ]
    evidence_files.judge(folder)
    assert path.read_bytes() == before and evidence_files.verify(folder) == []
    assert set(json.loads((folder / "manifest.json").read_text())["judged"]) == {"commit", "dirty", "date"}


def test_a_file_that_nobody_listed_is_found(folder):
    (folder / "scores" / "pair-07.csv").write_text("id\n")
    assert evidence_files.verify(folder) == ["evidence/scores/pair-07.csv is not the manifest's"]


def test_two_runs_are_compared_and_the_table_can_be_made_again(folder):
    other = evidence_files.place(seed=50)
    with pytest.raises(evidence_files.EvidenceError, match="evidence-seed50"):
        evidence_files.compare(folder, other)
    fabricate(other, range(50, 53), value=0.5)
    found = evidence_files.compare(folder, other)
    changed = found.table.query("not same")
    assert changed[["id", "first", "second"]].to_numpy().tolist() == [
        ["hmg-ranks-far-clean", "holds", "fails"]
    ]
    assert found.of_all == 1 - 1 / len(found.table) and found.of_decisive == 0
    table = evidence_files.read_csv(folder / "agreement.csv")
    assert list(table.columns) == ["id", "evidence", "evidence-seed50", "same", "together"]
    # 0.9 three times and 0.5 three times, held against 0.5 with a margin of 0.05.
    pooled = table.set_index("id").loc["hmg-ranks-far-clean", "together"]
    first, second = (evidence_files.read_evidence(each).metrics for each in (folder, other))
    assert pooled == claims.verdicts(pd.concat([first, second]), "cpu").set_index("id").loc[
        "hmg-ranks-far-clean", "verdict"
    ]  # fmt: skip
    assert evidence_files.verify(folder) == [] and evidence_files.folders() == [folder, other]
    (folder / "agreement.csv").write_text(evidence_files.text(table.assign(same=True)))
    assert evidence_files.verify(folder) == [
        "evidence/agreement.csv: not what the two tables of verdicts give"
    ]
    (other / "verdicts.csv").unlink()
    assert "evidence-seed50/verdicts.csv, which it is about, is missing" in evidence_files.verify(folder)[0]


def test_verify_covers_the_evidence(folder, capsys):
    (results_root() / "cpu").mkdir()
    assert run.main(["cpu", "--verify"]) == 1  # no study here
    assert "\nevidence: every file is the one the manifest lists\n" in capsys.readouterr().out
    (folder / "metrics.csv").unlink()
    assert run.main(["cpu", "--verify"]) == 1
    assert "\nevidence/metrics.csv is missing\n" in capsys.readouterr().out


@pytest.mark.skipif(not (COMMITTED / "manifest.json").exists(), reason="no results/evidence: make evidence")
def test_the_committed_evidence_is_that_of_its_manifest():
    assert evidence_files.verify(COMMITTED) == []


# Between pairs ----------------------------------------------------------------------------------------------


def test_choices_from_the_common_pool_are_compared_with_those_of_every_other_pair():
    """Jaccard by hand: |common| over |together|."""
    chosen = {
        3: {"common-cam": ["a", "b"], "common-hmg": ["a", "b"], "scarce_30-cam": ["x"]},
        4: {"common-cam": ["b", "a"], "common-hmg": ["b", "c"], "scarce_30-cam": ["y"]},
        7: {"common-cam": ["a", "b"], "common-hmg": ["c", "d"], "scarce_30-cam": ["z"]},
    }
    found = evidence_files.between_pairs(chosen)
    assert list(found.columns) == list(evidence_files.COLUMNS)
    assert set(found["metric"]) == {"jaccard"} and set(found["condition"]) == {"common"}
    values = {(row.method, row.pair): (row.value, row.n) for row in found.itertuples()}
    assert values == {
        ("cam", 3): (1.0, 2), ("cam", 4): (1.0, 2), ("cam", 7): (1.0, 2),
        ("hmg", 3): (pytest.approx((1 / 3 + 0) / 2), 2),
        ("hmg", 4): (pytest.approx((1 / 3 + 1 / 3) / 2), 2),
        ("hmg", 7): (pytest.approx((0 + 1 / 3) / 2), 2),
    }  # fmt: skip


def test_one_pair_is_compared_with_none():
    found = evidence_files.between_pairs({0: {"common-cam": ["a"]}})
    assert found.empty and list(found.columns) == list(evidence_files.COLUMNS)
