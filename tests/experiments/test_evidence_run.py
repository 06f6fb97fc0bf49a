"""Pairs of models: resumed after a failure with the same bytes; every stage on a small pair."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from gateau_lib import evidence
from gateau_lib.experiments import (
    claims,
    compositions,
    evidence_files,
    evidence_run,
    ledger,
    pair_stages,
    recall,
    score_rows,
)
from gateau_lib.study import profiles
from gateau_lib.study.store import Study, artefact, profile_folders
from gateau_lib.study.workers import JobError

SCORES = pd.DataFrame({"id": ["a", "b"], "needs_far": [True, False], "gateau_rank": [0.1, 1 / 3]})
CHOSEN = {0: {"gateau": ["b"], "full": ["a", "b"]}}


class Stages:
    """Two stages in place of the real ones; the second may fail for one pair."""

    def __init__(self) -> None:
        self.built: list[int] = []
        self.fails_for: int | None = None

    def first(self, study: Study, data: Path, pair: Path) -> list[dict]:
        def build(out: Path) -> None:
            self.built.append(study.seed)
            (out / "value.json").write_text(json.dumps(0.8 + study.seed / 300))

        folder = artefact(study, "part", build, code=[recall.rows], seed=study.seed)
        value = json.loads((folder / "value.json").read_text())
        row = {
            "metric": "auc",
            "method": "hmg_minmax_ntk",
            "condition": "clean",
            "value": value,
            "n": 9,
        }
        return [row | {"seed": 0}]

    def second(self, study: Study, data: Path, pair: Path) -> list[dict]:
        if study.seed == self.fails_for:
            raise RuntimeError("out of luck")
        row = {"metric": "long_accuracy", "method": "pose", "condition": 64, "n": 4}
        return [row | {"seed": seed, "value": 0.1 * (seed + 1)} for seed in range(2)]


@pytest.fixture
def stages(monkeypatch, tmp_path):
    made = Stages()
    for name in ("data", "pair"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(evidence_run.study_corpus, "prepared", lambda study: tmp_path / "data")
    monkeypatch.setattr(evidence_run.pretrain, "pair", lambda study, data: tmp_path / "pair")
    monkeypatch.setattr(evidence_run, "STAGES", {"first": made.first, "second": made.second})
    monkeypatch.setattr(score_rows, "whole", lambda *given: SCORES)
    monkeypatch.setattr(score_rows, "chosen", lambda *given: CHOSEN)
    monkeypatch.setattr(score_rows, "common", lambda *given: {"gateau_rank": ["c"]})
    monkeypatch.setattr(pair_stages, "samples_table", lambda *given: SCORES)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, which has times."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.parent.name in (folder.name, "scores"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found if p.suffix in (".csv", ".json")}


def test_a_run_leaves_metrics_verdicts_scores_and_what_they_are_made_of(stages):
    verdicts = evidence_run.run("cpu", 0, 3, 0).set_index("id")
    folder = evidence_files.place()
    files = {f"scores/pair-0{n}{end}" for n in range(3) for end in (".csv", "-chosen.json")}
    assert set(contents(folder)) == files | {"metrics.csv", "verdicts.csv", "manifest.json"}
    far = verdicts.loc["hmg-ranks-far-clean"]
    assert far["verdict"] == "holds" and "over 3 pairs" in far["reason"] and far["pairs"] == 3
    metrics = evidence_files.read_csv(folder / "metrics.csv")
    assert list(metrics.columns) == ["metric", "method", "condition", "pair", "value", "n"]
    assert list(metrics["value"][:3]) == [0.8 + n / 300 for n in range(3)]  # read back exactly
    pose = metrics[metrics["method"] == "pose"].iloc[0]
    assert pose["condition"] == "64" and pose["n"] == 8 and pose["value"] == pytest.approx(0.15)
    assert evidence_files.read_csv(folder / "scores" / "pair-00.csv")["gateau_rank"].tolist() == [0.1, 1 / 3]
    assert json.loads((folder / "scores" / "pair-02-chosen.json").read_text()) == CHOSEN[0] | {
        "common-gateau_rank": ["c"]
    }
    about = json.loads((folder / "manifest.json").read_text())
    assert about["pairs"] == [0, 1, 2] and set(about["seconds"]) == {"0", "1", "2"} and about["profile"]
    assert {"commit", "dirty", "date", "machine", "versions"} <= set(about)
    assert set(about["files"]) == files | {"metrics.csv", "verdicts.csv"}
    assert evidence_files.verify(folder) == [] and profile_folders() == []


def test_a_run_that_failed_goes_on_and_gives_the_same_bytes(stages, monkeypatch, tmp_path):
    folder = evidence_files.place()
    evidence_run.run("cpu", 0, 3, 0)
    whole = contents(folder)
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "again"))
    again, stages.built, stages.fails_for = evidence_files.place(), [], 1
    (again / "scores").mkdir(parents=True)
    (again / "scores" / "pair-09.csv").write_text("of an earlier run")
    with pytest.raises(JobError, match="pair 2 of 3: RuntimeError: out of luck"):
        evidence_run.run("cpu", 0, 3, 0)
    assert stages.built == [0, 1] and contents(again) == {}
    stages.fails_for = None
    evidence_run.run("cpu", 0, 3, 0)
    assert stages.built == [0, 1, 2]  # what the second pair had finished was kept
    assert {k: v for k, v in contents(again).items() if k != "manifest.json"} == {
        k: v for k, v in whole.items() if k != "manifest.json"
    }


def test_a_pair_costs_what_its_parts_cost_whenever_they_were_made(stages):
    evidence_run.run("cpu", 0, 1, 0)
    study = evidence_run.study_of("cpu", 0, 0)
    folder = evidence_run.pair_folder(study, "pair")
    (part,) = study.cache.glob("part-*")
    (part / "built.json").write_text("[100.0, 160.0]")
    begin, end = json.loads((folder / "built.json").read_text())
    assert evidence_run.cost(study, folder) == pytest.approx(60 + end - begin)


def test_other_seeds_and_profiles_have_folders_of_their_own(stages, tmp_path):
    root = tmp_path / "results"
    assert (
        evidence_files.place() == root / "evidence"
        and evidence_files.place(seed=50) == root / "evidence-seed50"
    )
    assert evidence_files.place("smoke", 3) == root / "evidence-smoke-seed3"
    assert evidence_run.study_of("cpu", 50, 52).cache == root / "evidence-seed50" / "cache"
    assert evidence_run.study_of("cpu", 50, 52).seed == 52


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 0.5), (0, 0.6)], "auc/a/independent, seed 0: stands twice"),
        ([(0, 0.5), (1, float("nan"))], "auc/a/independent, seed 1: is nan"),
    ],
)
def test_rows_that_are_no_one_value_are_refused(rows, message):
    about = {"metric": "auc", "method": "a", "condition": "independent", "n": 1}
    with pytest.raises(ValueError, match=message):
        evidence_run.one_value([about | {"seed": seed, "value": value} for seed, value in rows])


def test_the_command_runs_judges_and_compares(stages, capsys, monkeypatch):
    for seed in ("0", "50"):
        assert evidence.main(["--pairs", "3", "--seed", seed, "--processes", "0"]) == 0
    said = capsys.readouterr().out
    assert "holds                hmg-ranks-far-clean: 0.803 against 0.500 over 3 pairs" in said
    assert evidence.main(["--judge"]) == 0 and evidence.main(["--compare"]) == 0
    said = capsys.readouterr().out
    assert "of those that hold or fail in at least one of the two: 100%" in said
    assert evidence.main(["--compare", "7"]) == 2 and "evidence-seed7" in capsys.readouterr().err
    assert evidence.main(["--pairs", "0"]) == 2


def at_this_scale(side: ledger.Selector) -> ledger.Selector:
    """A side of a claim with the lengths of the smoke profile in place of those of cpu."""
    smaller = {"512": "256", "512:2048": "512:1024"}
    return side._replace(condition=smaller.get(side.condition, side.condition))


def test_every_stage_measures_a_small_pair(monkeypatch, tmp_path):
    """The shipped pair on few samples: a row for every side of every claim."""
    less = {"pool_per_kind": 2, "sft_tokens": 1000, "skip_steps": 1, "eval_items": 1, "prolong_pairs": 10}
    monkeypatch.setitem(profiles.PROFILES, "smoke", replace(profiles.PROFILES["smoke"], **less))
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    study = evidence_run.study_of("smoke", 4, 4)
    evidence_run.pair_evidence(study, tmp_path)
    metrics = evidence_files.read_csv(tmp_path / "metrics.csv")
    have = set(zip(metrics["metric"], metrics["method"], metrics["condition"], strict=True))
    assert ("long_probability", "gateau", "scarce_30") in have
    assert {("needle_probability", "skip_all", str(n)) for n in study.profile.eval_lengths} <= have
    assert {("auc", "gateau_rank", each) for each in compositions.COMPOSITIONS} <= have
    sides = {side for claim in ledger.load_claims() for side in (claim.value, claim.against)}
    for side in (each for each in sides if isinstance(each, ledger.Selector)):
        # The shipped pair has no unfinished long model; what pairs have in common is measured between them.
        if not side.method.endswith("_early") and side.metric != "jaccard":
            assert len(claims.by_pair(metrics.assign(pair=4), at_this_scale(side))) == 1, side
    scores = evidence_files.read_csv(tmp_path / "scores.csv")
    assert {"id", "kind", "needs_far", "n_tokens", *score_rows.METHODS} == set(scores.columns)
    chosen = json.loads((tmp_path / "chosen.json").read_text())
    assert set(chosen["scarce_30-full"]) == set(scores["id"]) and "scarce_10-random" in chosen
    used = json.loads((tmp_path / "used.json").read_text())
    assert {"corpus", "pair", "recall"} <= {name.rpartition("-")[0] for name in used}
