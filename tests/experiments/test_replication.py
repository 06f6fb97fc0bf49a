"""The published part: which rows there are, what each selects,
and the tables with reported and measured numbers side by side."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scoring_command import write_data

from gateau_lib.evaluation import longbench, suite
from gateau_lib.experiments import findings, replication, replication_rows, replication_tables
from gateau_lib.methods import gateau, hmg
from gateau_lib.models.loading import SHIPPED
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import resolve
from gateau_lib.study.store import Study

RNG = np.random.default_rng(0)
N = 40


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """A table as the scoring engine leaves it; the last sample could not be scored."""
    long = RNG.uniform(0.5, 2, N)
    table = pd.DataFrame(
        {"id": [f"s{i:02d}" for i in range(N)], "nll_long": long, "nll_short": long + RNG.uniform(0, 3, N)}
    )
    table = table.assign(
        nll_short_raw=long + RNG.uniform(0, 5, N), cam=RNG.uniform(0, 1, N), ifd=RNG.uniform(0.5, 1.2, N)
    )
    unscored = {"id": "bad", "error": "line 41: empty response"}
    return pd.concat([table.assign(error=None), pd.DataFrame([unscored])], ignore_index=True)


def run_of(row: str, share: float | None = None, alpha: float = 0.8) -> replication_rows.Run:
    return replication_rows.Run("real-world", row, share, 100, alpha)


def test_paper_has_every_row_that_the_paper_reports_or_says_why_not():
    runs = replication_rows.runs(resolve("paper"))
    rows = {(r.setting, r.row) for r in runs}
    reported = findings.reported()
    lacking = {(s, r) for s, r in zip(reported["setting"], reported["row"], strict=True)} - rows
    assert {row for _, row in lacking} == set(replication_rows.NOT_REBUILT)
    shares = {round(100 * r.share) for r in runs if r.row == "GATEAU"}
    assert shares == set(reported.query("row == 'GATEAU'")["share"])
    assert {(r.setting, r.short, r.alpha) for r in runs} == {
        ("real-world", 100_000, 0.8),
        ("limited", 10_000, 0.7),
    }
    assert len({r.name for r in runs}) == len(runs)
    assert replication_rows.runs(resolve("cpu")) == []
    own = {run.setting for run in replication_rows.runs(resolve("gpu+granite-2b"))}
    assert own == {"2,000 short, 1,000 long"}, "other sizes must not stand under the paper's name"


def test_selections_by_the_definitions(scores):
    good = scores[scores["error"].isna()]
    ids = good["id"].to_numpy()
    short, long, cam = (good[c].to_numpy() for c in ("nll_short", "nll_long", "cam"))

    def top(values, k):
        return [ids[i] for i in sorted(range(N), key=lambda i: (-values[i], ids[i]))[:k]]

    hmp = hmg.homologous_models_perplexity(short, long)
    rows = (*replication_rows.CHOOSERS, *replication_rows.ABLATIONS)
    chosen = {row: replication_rows.selected(run_of(row, 0.3), scores, 0) for row in rows}
    assert chosen["Perplexity Guidance"] == top(long, 12)
    assert chosen["HMG only"] == top(hmp, 12) and chosen["CAM only"] == top(cam, 12)
    assert chosen["GATEAU"] == top(0.8 * hmp + 0.2 * cam, 12)
    assert chosen["without Norm"] == top(
        0.8 * np.exp(d := np.exp(short) - np.exp(long)) / np.exp(d).sum() + 0.2 * cam, 12
    )
    raw = hmg.homologous_models_perplexity(good["nll_short_raw"], long)
    assert chosen["without extended window"] == top(0.8 * raw + 0.2 * cam, 12)
    assert chosen["GATEAU by ranks"] == top(gateau.combine(hmp, cam, "rank", 0.8), 12)
    assert good.set_index("id").loc[chosen["Cherry"], "ifd"].max() <= 1
    assert len(chosen["Random"]) == 12 and chosen["Random"] == replication_rows.selected(
        run_of("Random", 0.3), scores, 0
    )
    assert replication_rows.selected(run_of("Full"), scores, 0) == sorted(ids)
    assert replication_rows.selected(run_of("without long SFT"), scores, 0) == []
    assert all("bad" not in each for each in chosen.values())


def test_samples_that_cherry_never_selects_are_not_selected_to_fill_a_share(scores):
    few = scores.assign(ifd=np.where(np.arange(len(scores)) < 5, 0.9, 1.1))
    assert set(replication_rows.selected(run_of("Cherry", 0.5), few, 0)) == {f"s{i:02d}" for i in range(5)}


def test_both_readings_of_the_short_model_are_scored(tmp_path, monkeypatch):
    """The engine is called as a function; a second call takes the tables from the cache."""
    data = write_data(tmp_path / "long.jsonl", n=4)
    study = Study(replace(resolve("smoke"), max_length=400), 0, tmp_path)
    monkeypatch.setattr(replication, "long_file", lambda study: data)
    table = replication.scored(study, SHIPPED)
    assert table["id"].tolist() == ["s0", "s1", "s2", "s3"] and table["error"].isna().all()
    columns = ["nll_short", "nll_long", "ifd", "nll_short_raw"]
    assert np.isfinite(table[columns].to_numpy(dtype=float)).all() and table["cam"].isna().tolist() == [
        False,
        False,
        True,
        False,
    ]
    monkeypatch.setattr(replication.data_set, "score", lambda run: pytest.fail("scored again"))
    pd.testing.assert_frame_equal(replication.scored(study, SHIPPED), table)


def test_nothing_scored_is_an_error_with_the_first_reason(scores):
    with pytest.raises(
        DataError, match="none of the 1 long samples could be scored; the first says: line 41"
    ):
        replication_rows.selected(run_of("GATEAU", 0.3), scores[scores["id"] == "bad"], 0)


# Tables -----------------------------------------------------------------------------------------------------


def rows_of(values: dict[str, dict[str, list[float]]], benchmark: str) -> pd.DataFrame:
    found = [
        {"run": run, "benchmark": benchmark, "task": task, "id": f"{task}-{i}", "score": score}
        for run, tasks in values.items()
        for task, scores in tasks.items()
        for i, score in enumerate(scores)
    ]
    return pd.DataFrame(found)


def test_measured_numbers_by_hand():
    full, mine = run_of("Full"), run_of("GATEAU", 0.5)
    values = {
        full.name: {"a": [10.0, 30.0], "b": [50.0, 70.0, 90.0]},
        mine.name: {"a": [20.0, 60.0], "b": [50.0, 80.0, np.nan]},
    }
    table = replication_tables.measured(rows_of(values, "mt-bench"), [full, mine]).set_index("row")
    assert table["measured"].tolist() == [(20 + 70) / 2, (40 + 65) / 2] and table["items"].tolist() == [5, 4]
    assert table.loc["GATEAU", "over_full"] == pytest.approx(((10 + 30) / 2 + (0 + 10) / 2) / 2)
    # Half the root of the sum of the tasks' squared standard errors,
    # times t with the smaller task's one degree of freedom.
    half = stats.t.ppf(0.975, 1) * np.sqrt(200 / 2 + 400 / 3) / 2
    assert table.loc["Full", "high"] - 45 == pytest.approx(half) and np.isnan(table.loc["Full", "over_full"])
    assert set(table["table"]) == {"MT-Bench"} and set(table["setting"]) == {"real-world"}


def test_longbench_counts_in_its_groups_and_by_task():
    full = run_of("Full")
    values = {full.name: {"hotpotqa": [10.0, 20.0], "musique": [30.0, 50.0], "qmsum": [5.0, 5.0]}}
    table = replication_tables.measured(rows_of(values, "longbench"), [full]).set_index("table")["measured"]
    assert table["LongBench multi-document QA"] == (15 + 40) / 2 and table["LongBench summarisation"] == 5
    assert table["LongBench musique"] == 40 and "LongBench single-document QA" not in table
    assert {f"LongBench {group}" for group in longbench.GROUPS} <= set(findings.reported()["table"])
    assert {f"LongBench {t}" for group in longbench.GROUPS.values() for t in group} <= set(
        findings.reported()["table"]
    )


def test_no_number_is_lost_beside_the_reported_ones():
    reported = findings.reported()
    empty = replication_tables.beside(replication_tables.last_measured().iloc[:0])
    assert len(empty) == len(reported) and empty["measured"].isna().all()
    mine = [run_of("Full"), run_of("GATEAU", 0.5), run_of("Random", 0.5)]
    rows = rows_of({r.name: {"chat": [40.0, 60.0]} for r in mine}, "longbench-chat")
    both = replication_tables.beside(replication_tables.measured(rows, mine))
    assert len(both) == len(reported) + 1  # the random row is not the paper's
    place = both.query(
        "table == 'LongBench-Chat' and setting == 'real-world' and row == 'GATEAU' and share == 50"
    ).iloc[0]
    assert place["reported"] == 56.8 and place["measured"] == 50 and place["over_full"] == 0
    gain = replication_tables.gains(both)
    gain = gain.query(
        "table == 'LongBench-Chat' and setting == 'limited' and row == 'GATEAU' and share == 50"
    )
    assert gain["reported"].item() == pytest.approx(59.0 - 50.8)
    shown = replication_tables.shown(both, ["LongBench-Chat"]).data
    assert "56.8 / 50.0 [-77.1, 177.1]" in shown and "| Random |" in shown and "50.8 / –" in shown
    assert replication_tables.if_measured(both, ["LongBench-Chat"]).data == shown
    few = replication_tables.if_measured(both, ["MT-Bench"], replication_tables.gains_shown).data
    assert few.startswith("Nothing is measured of 1 tables; their 40 reported numbers stand in")


def test_what_is_not_run_has_a_reason(tmp_path, monkeypatch):
    cpu = Study(resolve("cpu"), 0, tmp_path)
    assert replication_tables.not_run(cpu, [], [])["what"].tolist() == ["every table of GATEAU"]
    paper = Study(resolve("paper"), 0, tmp_path)
    lacking = [suite.NotRun("mt-bench", "no judge was named")]
    monkeypatch.setattr(
        replication, "shortfalls", lambda study: [("10 of 100 short samples", "the data set has no more")]
    )
    why = replication_tables.not_run(paper, replication_rows.runs(paper.profile), lacking).set_index("what")[
        "why"
    ]
    assert why["mt-bench"] == "no judge was named" and "10 of 100 short samples" in why
    assert set(replication_rows.NOT_REBUILT) <= {name[5:-1] for name in why.index}


def test_profiles_that_left_results_are_listed_with_their_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    entry = {"commit": "abcdef0123456", "dirty": False}
    for name in ("paper", "rehearse-paper", "paper-seed2", "cpu-custom-0a1b2c"):
        (tmp_path / name).mkdir()
        content = {"machine": {"device": "a card"}, "notebooks": {"01_data": entry, "11_published": entry}}
        (tmp_path / name / "manifest.json").write_text(json.dumps(content))
    found = replication_tables.recorded(Study(resolve("cpu"), 0, tmp_path / "cpu")).set_index("profile")
    assert (
        found.loc["paper"].tolist() == ["01 11", "a card", "abcdef012"]
        and found.loc["cpu", "notebooks"] == "not run"
    )
    del content["notebooks"]["11_published"]  # as while it runs
    (tmp_path / "paper" / "manifest.json").write_text(json.dumps(content))
    now = replication_tables.recorded(Study(resolve("paper"), 0, tmp_path / "paper")).set_index("profile")
    assert now.loc["paper", "notebooks"] == "01 11"
    assert list(found.index) == ["cpu", "gpu", "paper"]
    # Another seed is told what it ran itself.
    other = replication_tables.recorded(Study(resolve("gpu"), 1, tmp_path / "paper-seed2")).set_index(
        "profile"
    )
    assert other.loc["gpu", "device"] == "a card" and other.loc["paper", "notebooks"] == "01"


def test_measured_numbers_of_every_recorded_profile_are_shown_and_no_rehearsal_s(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    assert replication_tables.last_measured().empty
    for name in ("paper", "gpu+granite-2b", "rehearse-paper", "paper-seed1"):
        runs = replication_rows.runs(resolve(name.removesuffix("-seed1")))[:3]
        (tmp_path / name / "tables").mkdir(parents=True)
        replication_tables.measured(rows_of({runs[2].name: {"chat": [1.0, 3.0]}}, "mt-bench"), runs).to_csv(
            tmp_path / name / "tables" / "11_measured.csv", index=False
        )
    assert set(replication_tables.last_measured()["setting"]) == {"real-world", "2,000 short, 1,000 long"}
    assert not replication_tables.last_measured().duplicated().any()
