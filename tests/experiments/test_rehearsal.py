"""Rehearsals: every stage of the large profiles for real,
on fabricated models and data in a hub's cache, offline."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from servers.chat_server import serve
from study_command import python

from gateau_lib.evaluation import longbench
from gateau_lib.experiments import findings, replication_rows
from gateau_lib.study.profiles import resolve


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make paper REHEARSE=1` with a judge that always rates 7: two processes train each model."""
    results = tmp_path_factory.mktemp("results")
    with serve(lambda body: "Clear and right. Rating: [[7]]") as judge:
        done = python(
            results, "gateau_lib.run", "rehearse-paper", "--set", f"judge={judge.spec}", seconds=900
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return results / "rehearse-paper"


def test_every_notebook_of_the_paper_profile_ran(paper):
    content = json.loads((paper / "manifest.json").read_text())
    assert [name[:2] for name in content["notebooks"]] == [f"{n:02d}" for n in range(1, 12)]
    pins = json.loads((paper / "revisions.json").read_text())
    profile = resolve("paper")
    assert {
        f"models/{profile.short_model}",
        f"models/{profile.long_model}",
        "datasets/THUDM/LongAlign-10k",
    } <= set(pins)


def test_two_processes_trained_each_model_of_the_published_part(paper):
    runs = [
        run for run in replication_rows.runs(resolve("rehearse-paper")) if run.row != replication_rows.UNTUNED
    ]
    for run in runs:
        (folder,) = (paper / "cache").glob(f"{run.name}-????????????")
        log = json.loads((folder / "log.json").read_text())
        assert log["steps"] == len(log["losses"]) > 0 and log["epochs"] == 2
    assert resolve("rehearse-paper").processes == 2


def test_tables_fill_and_what_was_not_run_says_why(paper):
    measured = pd.read_csv(paper / "tables" / "11_measured.csv")
    runs = replication_rows.runs(resolve("rehearse-paper"))
    judged = measured[measured["table"].isin(["LongBench-Chat", "MT-Bench"])]
    assert set(judged["measured"]) == {70.0} and len(judged) == 2 * len(runs)
    shown = {"Needle", "RULER", *(f"LongBench {group}" for group in longbench.GROUPS)}
    assert shown <= set(measured["table"]) and measured["measured"].between(0, 100).all()
    both = pd.read_csv(paper / "tables" / "11_tables.csv")
    reported = both.dropna(subset=["reported"])
    assert len(reported) == len(findings.reported()) and both["measured"].notna().sum() == len(measured)
    why = pd.read_csv(paper / "tables" / "11_not_run.csv").set_index("what")["why"]
    assert (
        set(why.index) <= {"row 'CaR'", "row 'non-homologous guide'", "short-tasks"}
        and why.str.len().min() > 20
    )


def test_a_second_rehearsal_does_nothing(paper, monkeypatch):
    with serve(lambda body: "[[7]]") as judge:
        done = python(paper.parent, "gateau_lib.run", "rehearse-paper", "--status", seconds=60)
    assert done.stdout.count(" fresh") == 10 and re.search(
        r"11_published_scale +stale +parameter judge", done.stdout
    ), judge.spec


def test_adapters_and_a_part_of_the_data_on_one_card(tmp_path):
    done = python(tmp_path, "gateau_lib.run", "rehearse-gpu+granite-2b", "--notebook", "11", seconds=600)
    assert done.returncode == 0, done.stderr[-3000:]
    root = tmp_path / "rehearse-gpu+granite-2b"
    assert list((root / "cache").glob("gateau-30-24-*/adapter_model.safetensors"))
    assert set(pd.read_csv(root / "tables" / "11_measured.csv")["table"]) >= {
        "Needle",
        "RULER",
        "LongBench summarisation",
    }
    shutil.rmtree(root)
