"""A run that is written to a file, trained apart and taken back is the study's own."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from gateau_lib import jobs
from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import Sample
from gateau_lib.study.store import open_study
from gateau_lib.training import fine_tuning, recipe, sft


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    return open_study("smoke")


@pytest.fixture
def job(study, saved_pair):
    samples = [
        Sample(f"s{n}", "Alice lives in Rome. " * n, "Where does she live?", "In Rome.") for n in range(1, 5)
    ]
    path = study.cache / "few.jsonl"
    write_samples(samples, path)
    return recipe.FineTune(
        "skip-normal-0", saved_pair[1], (path,), 256, 1e-3, seed=0, length=recipe.ByEpochs(1, 2)
    )


def test_a_run_trained_apart_is_taken_for_the_study_s_own(study, job, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "find_run", lambda *_: job)
    assert jobs.main(["smoke", job.name, "--write", str(tmp_path / "job.json")]) == 0
    again = recipe.from_json((tmp_path / "job.json").read_text(encoding="utf-8"))
    out = tmp_path / "apart"
    out.mkdir()
    log = sft.fine_tune(again, out)
    assert jobs.main(["smoke", job.name, "--trained", str(out)]) == 0
    (folder,) = fine_tuning.fine_tune_all(study, [job])
    assert str(folder) == capsys.readouterr().out.split()[-1]
    assert sft.training_log(folder)["losses"] == log["losses"]


def test_another_run_is_refused_and_both_are_named(study, job, tmp_path, monkeypatch, capsys):
    """However it was computed and called, a run is what it trains, and on what."""
    (tmp_path / "apart").mkdir()
    sft.fine_tune(dataclasses.replace(job, name="other", micro_tokens=64), tmp_path / "apart")
    other = dataclasses.replace(job, learning_rate=1e-4)
    monkeypatch.setattr(jobs, "find_run", lambda *_: other)
    assert jobs.main(["smoke", job.name, "--trained", str(tmp_path / "apart")]) == 2
    said = capsys.readouterr().err
    assert (
        re.search(r"apart: holds run other-[0-9a-f]{12}, not skip-normal-0-[0-9a-f]{12}", said)
        and said.count("\n") == 1
    )
    log = json.loads((tmp_path / "apart" / sft.LOG).read_text())
    (tmp_path / "apart" / sft.LOG).write_text(
        json.dumps({"losses": log["losses"]})
    )  # of a version that did not say
    monkeypatch.setattr(jobs, "find_run", lambda *_: job)
    assert jobs.main(["smoke", job.name, "--trained", str(tmp_path / "apart")]) == 2
    (tmp_path / "apart" / sft.LOG).write_text(json.dumps(log))
    assert jobs.main(["smoke", job.name, "--trained", str(tmp_path / "apart")]) == 0
    write_samples([Sample("s1", "Bob lives in Oslo.", "Where?", "In Oslo.")], job.samples[0])
    with pytest.raises(ValueError, match="holds run other"):
        jobs.adopt(study, job, tmp_path / "apart")


def test_a_run_that_has_not_ended_is_refused_in_one_line(study, job, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "find_run", lambda *_: job)
    assert jobs.main(["smoke", job.name, "--trained", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "holds no log.json" in said and said.count("\n") == 1


def test_jobs_are_plain_json(job):
    assert json.loads(recipe.to_json(job))["name"] == job.name


def test_runs_are_found_by_name_and_others_named(study, saved_pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gateau_lib.experiments.study_corpus.prepared", lambda study: tmp_path)
    monkeypatch.setattr("gateau_lib.training.pretrain.pair", lambda study, data: saved_pair[0].parent)
    assert jobs.find_run(study, "skip-pose-0").strategy == "pose"
    assert jobs.main(["smoke", "pose", "--write", str(tmp_path / "job.json")]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: no run 'pose' in profile smoke: choose one of skip-normal-0")
        and said.count("\n") == 1
    )
