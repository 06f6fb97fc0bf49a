"""All benchmarks together: what each is asked, what is not run and why, and that no error is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gateau_lib.evaluation import haystack, suite
from gateau_lib.evaluation.benchmark_item import (
    Answers,
    Asked,
    Benchmark,
    Item,
    NotInstalled,
    first_of_each_task,
)
from gateau_lib.models.loading import SHIPPED
from gateau_lib.sources.chat import ChatError
from gateau_lib.sources.hub import HubError
from gateau_lib.study import registry
from gateau_lib.study.errors import DataError, ModelError
from gateau_lib.study.profiles import PROFILES, resolve
from gateau_lib.study.store import Study
from gateau_lib.study.workers import JobError

FOLDERS = {"full": SHIPPED / "long", "half": SHIPPED / "long"}


def made_up(
    name: str, error: Exception | None = None, score_error: Exception | None = None, judged: bool = False
) -> Benchmark:
    """A benchmark of two items that are answered at once, or that fails where it is told to."""

    def answers(study, items, folders):
        table = pd.DataFrame({"id": [item.id for item in items], "answers": [["yes"], []]})
        return {
            run: Answers(table.assign(error=[None, "too long"]), Path(f"{name}-of-{run}")) for run in folders
        }

    def items(study, tokenizer):
        if error:
            raise error
        return [Item("a", name, ("?",)), Item("b", name, ("?",))]

    def score(items, answers, *judge):
        if score_error:
            raise score_error
        assert bool(judge) == judged
        return pd.DataFrame({"id": ["a", "b"], "task": name, "score": [100.0, np.nan]})

    return Benchmark(
        name, name, "made up", items, score, lambda profile: [Asked(2, 1, 1)], judged=judged, answers=answers
    )


def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *benchmarks: Benchmark, judge: str = ""):
    monkeypatch.setattr(suite, "BENCHMARKS", {each.name: each for each in benchmarks})
    study = Study(replace(resolve("paper"), benchmarks=tuple(each.name for each in benchmarks)), 0, tmp_path)
    return suite.scores(study, FOLDERS, judge)


def test_the_table_has_what_profiles_and_registry_name():
    assert all(name in suite.BENCHMARKS for profile in PROFILES.values() for name in profile.benchmarks)
    assert set(suite.BENCHMARKS) == set(resolve("paper").benchmarks)
    assert all(each.data in ("", *registry.data_sets()) for each in suite.BENCHMARKS.values())
    assert all(name == each.name and each.title and each.source for name, each in suite.BENCHMARKS.items())


def test_what_one_model_is_asked():
    paper, few = resolve("paper"), replace(resolve("paper"), benchmark_items=2, benchmark_window=1000)
    cost = {name: each.cost(paper) for name, each in suite.BENCHMARKS.items()}
    assert cost["longbench"] == [(2400, 12_000, 150)] and cost["mt-bench"] == [(80, 800, 1000)]
    assert cost["needle"] == [(15, min(n, paper.benchmark_window), 64) for n in paper.eval_lengths]
    assert cost["ruler"] == [
        (3 * paper.eval_items, min(n, paper.benchmark_window), 64) for n in paper.eval_lengths
    ]
    assert suite.BENCHMARKS["longbench"].cost(few) == [(24, 1000, 150)]
    assert suite.BENCHMARKS["longbench-chat"].cost(few) == [(2, 1000, 512)]
    assert suite.BENCHMARKS["ruler"].cost(few)[-1] == (6, 1000, 64)


def test_every_run_is_scored_on_every_benchmark_and_what_has_no_answer_is_told(tmp_path, monkeypatch):
    rows, lacking = scores(
        tmp_path, monkeypatch, made_up("one"), made_up("two", judged=True), judge="http://h/v1#m"
    )
    assert list(rows.columns) == suite.COLUMNS and len(rows) == 2 * 2 * 2
    assert set(zip(rows["run"], rows["benchmark"], strict=True)) == {
        (r, b) for r in FOLDERS for b in ("one", "two")
    }
    assert rows["score"].isna().sum() == 4 and rows["score"].max() == 100
    why = "too long; delete one-of-full in the cache to ask these again"
    assert lacking[0] == ("1 of 2 items of one, full", why, False) and len(lacking) == 4
    suite.check_finished(lacking)


def test_a_benchmark_that_an_error_stops_has_no_score_of_any_run(tmp_path, monkeypatch):
    benchmark, asked = made_up("halfway"), []

    def score(*given):
        asked.append(given)
        if len(asked) > 1:
            raise ChatError("the judge stopped")
        return benchmark.score(*given)

    rows, lacking = scores(tmp_path, monkeypatch, replace(benchmark, score=score))
    assert rows.empty and ("halfway", "the judge stopped", True) in lacking


def test_no_error_stops_the_other_benchmarks_and_none_is_lost(tmp_path, monkeypatch):
    """Also not the second of two."""
    benchmarks = [
        made_up("broken", DataError("data.zip: broken archive")),
        made_up("away", HubError("away: not in the cache")),
        made_up("bare", score_error=NotInstalled("pip install rouge")),
        made_up("silent", score_error=ChatError("the judge stopped"), judged=True),
        made_up("dead", JobError("dead of full: a worker process died")),
        made_up("mistyped", score_error=ModelError("judge: no model there")),
        made_up("good"),
    ]
    rows, lacking = scores(tmp_path, monkeypatch, *benchmarks, judge="http://h/v1#m")
    assert set(rows["benchmark"]) == {"good"} and len(rows) == 4
    told = {
        each.benchmark: (each.why, each.stopped)
        for each in lacking
        if each.benchmark in {b.name for b in benchmarks}
    }
    assert told == {
        "broken": ("data.zip: broken archive", True),
        "away": ("away: not in the cache", False),
        "bare": ("pip install rouge", False),
        "silent": ("the judge stopped", True),
        "dead": ("dead of full: a worker process died", True),
        "mistyped": ("judge: no model there", True),
    }
    with pytest.raises(DataError, match="4 benchmarks were stopped") as stop:
        suite.check_finished(lacking)
    assert all(f"{name}: {told[name][0]}" in str(stop.value) for name in ("broken", "silent", "dead"))


def test_a_fault_of_the_program_is_not_swallowed(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        scores(tmp_path, monkeypatch, made_up("one", ZeroDivisionError()))


def test_a_benchmark_without_a_judge_is_not_run_and_never_zero(tmp_path):
    study = Study(replace(resolve("paper"), benchmarks=("longbench-chat", "mt-bench")), 0, tmp_path)
    rows, lacking = suite.scores(study, FOLDERS, judge="")
    assert rows.empty and [each.benchmark for each in lacking] == ["longbench-chat", "mt-bench"]
    assert all("judge" in each.why and not each.stopped for each in lacking)


def test_a_benchmark_that_nobody_knows_is_refused(tmp_path):
    study = Study(replace(resolve("paper"), benchmarks=("quiz",)), 0, tmp_path)
    with pytest.raises(DataError, match="no benchmark 'quiz'; choose from longbench, longbench-chat"):
        suite.scores(study, FOLDERS, judge="")


def test_few_items_are_the_first_of_each_task():
    items = [Item(f"{t}{i}", t, ("q",)) for t in "ab" for i in range(3)]
    assert [item.id for item in first_of_each_task(items, 2)] == ["a0", "a1", "b0", "b1"]
    assert first_of_each_task(items, None) == first_of_each_task(items, 0) == items


def hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **changes: object) -> Study:
    """A study that hides needles in a short text."""
    monkeypatch.setattr(haystack, "haystack", lambda study: ["A quiet town lay by the river. " * 50])
    return Study(replace(resolve("rehearse-paper"), benchmarks=("needle",), **changes), 0, tmp_path)


def test_nothing_hidden_in_a_prompt_is_cut_away(monkeypatch, tmp_path, tokenizer):
    """The longest evaluation length of the paper profile is above what a prompt may have."""
    study = hidden(monkeypatch, tmp_path, eval_lengths=(512, 1024), benchmark_window=1000)
    found = suite.BENCHMARKS["needle"].items(study, tokenizer)
    assert max(item.extra["tokens"] for item in found) <= 1000
    assert {item.task for item in found} == {"needle, 512 tokens", "needle, 1,000 tokens"}
    paper = resolve("paper")
    assert max(paper.eval_lengths) > paper.benchmark_window  # or this test is about nothing


def test_needles_from_the_model_to_the_map_and_answers_are_kept(monkeypatch, tmp_path):
    study = hidden(monkeypatch, tmp_path, eval_lengths=(300, 400), benchmark_window=1000, workers=0)
    rows, lacking = suite.scores(study, FOLDERS, judge="")
    assert lacking == [] and len(rows) == 2 * 2 * len(haystack.DEPTHS) * haystack.REPEATS
    maps = haystack.needle_maps(study, rows, FOLDERS, count=1)
    assert list(maps) == ["full"] and maps["full"].shape == (5, 2) and maps["full"].to_numpy().max() <= 1
    kept = sorted(path.name for path in study.cache.glob("answers-needle-*"))
    again, _ = suite.scores(study, FOLDERS, judge="")
    assert again.equals(rows) and sorted(path.name for path in study.cache.glob("answers-needle-*")) == kept
    assert haystack.needle_maps(study, rows.assign(benchmark="ruler"), FOLDERS) == {}


def test_a_prompt_that_lost_a_part_of_what_it_hides_is_an_error(monkeypatch, tmp_path):
    study = hidden(monkeypatch, tmp_path, eval_lengths=(300,), benchmark_window=1000, workers=0)
    cut = pd.DataFrame({"id": ["needle-1"], "answers": [["?"]], "cut_tokens": [7], "error": [None]})
    monkeypatch.setattr(suite.answering, "answers_of_runs", lambda *_: {"full": Answers(cut, tmp_path)})
    _, lacking = suite.scores(study, FOLDERS, judge="")
    why = "needle: item 'needle-1' lost 7 tokens of its prompt; raise the profile's benchmark_window"
    assert lacking == [("needle", why, True)]
