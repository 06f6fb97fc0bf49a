"""LongBench's tasks: what is asked, how it is scored, and the means of the tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gateau_lib.evaluation.answering import answer
from gateau_lib.evaluation.longbench import GROUPS, TASKS, items, score
from gateau_lib.evaluation.text_metrics import METRICS
from gateau_lib.experiments import findings
from gateau_lib.study import intervals
from gateau_lib.study.errors import DataError
from gateau_lib.study.intervals import t_interval


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Two records a task in the published form."""
    for name, task in TASKS.items():
        text, answers = (
            ("会议{总结}", ["会议", "总结"])
            if task.language == "zh"
            else ("A {story} of a fox.", ["red fox", "owl"])
        )
        record = {"input": "Who?", "context": text, "answers": answers, "length": 5, "dataset": name}
        record |= {"language": task.language, "all_classes": None}
        lines = [json.dumps(record | {"_id": f"x{i}"}, ensure_ascii=False) + "\n" for i in range(2)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_the_twelve_tasks():
    assert list(GROUPS) == ["single-document QA", "multi-document QA", "summarisation"]
    assert [len(names) for names in GROUPS.values()] == [4, 4, 4] and sum(GROUPS.values(), []) == list(TASKS)
    assert [f"LongBench {name}" for name in TASKS] == [
        t for t in findings.reported()["table"].unique() if t[10:] in TASKS
    ]
    assert [task.max_new_tokens for task in TASKS.values()] == [
        128,
        128,
        64,
        64,
        32,
        32,
        32,
        128,
        512,
        512,
        512,
        512,
    ]
    assert {name for name, task in TASKS.items() if task.language == "zh"} == {
        "multifieldqa_zh",
        "dureader",
        "vcsum",
    }
    for name, task in TASKS.items():
        assert task.metric in METRICS and task.metric.endswith(task.language)
        assert task.metric.startswith("rouge") == (name == "dureader" or task.group == "summarisation")
        asks = name not in (
            "gov_report",
            "multi_news",
            "vcsum",
        )  # the others are always asked for the same summary
        assert task.template.count("{context}") == 1 and task.template.count("{input}") == asks
    assert TASKS["multifieldqa_zh"].template.endswith("问题：{input}\n回答：")


def test_items_from_the_published_files(published):
    found = items(published)
    assert len(found) == 24 and [item.id for item in found[:3]] == [
        "narrativeqa/x0",
        "narrativeqa/x1",
        "qasper/x0",
    ]
    vcsum = found[-1]
    assert (vcsum.task, vcsum.references, vcsum.max_new_tokens) == ("vcsum", ("会议", "总结"), 512)
    expected = (
        "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n会议{总结}\n\n会议总结："
    )
    assert vcsum.turns == (expected,)
    assert "passages.\nA {story} of a fox.\n\nAnswer" in found[8].turns[0] and found[8].turns[0].endswith(
        "Who?\nAnswer:"
    )


def test_bad_files_are_named(published):
    path = published / "qmsum.jsonl"
    path.write_text('{"_id": "a", "input": "", "context": ""}\n')
    with pytest.raises(DataError, match="qmsum.jsonl, line 1: not a LongBench record"):
        items(published)
    path.unlink()
    with pytest.raises(DataError, match="qmsum.jsonl: no such file"):
        items(published)


def test_scores_by_hand(published):
    asked = items(published)
    said = {"en": "The red owl.", "zh": "会议"}
    rows = [
        {"id": item.id, "task": item.task, "answers": [said[TASKS[item.task].language]]} for item in asked
    ]
    rows[1]["answers"] = []  # no answer: did not fit into memory
    found = score(asked, pd.DataFrame(rows[::-1])).set_index("id")["score"]
    # red owl / red fox: 1/2 and 1/2; red owl / owl: 1/2 and 1, the better one: F1 = 2 * 1/2 / (3/2) = 2/3
    assert found["qasper/x0"] == pytest.approx(100 * 2 / 3) and np.isnan(found["narrativeqa/x1"])
    # ROUGE-L of "The red owl" with "red fox": "red", P = 1/3, R = 1/2, F = 2/5;
    # punctuation stays, "owl" is found, P = 1/3, R = 1
    assert found["qmsum/x0"] == pytest.approx(50, abs=1e-4)
    assert found["multifieldqa_zh/x0"] == 100 and found["vcsum/x0"] == pytest.approx(100, abs=1e-4)
    with pytest.raises(DataError, match="1 items have no row of answers, 'vcsum/x1' the first"):
        score(asked, pd.DataFrame(rows[:-1]))


def test_the_published_means_of_groups_are_means_of_tasks():
    """GATEAU's ablation row from its rows by task (50 %, real-world), which are data of this repository."""
    reported = findings.reported()
    reported = reported[
        (reported["row"] == "GATEAU") & (reported["setting"] == "real-world") & (reported["share"] == 50)
    ]
    values = reported.set_index("table")["value"]
    for group, tasks in GROUPS.items():
        mean, low, _ = intervals.mean_of_tasks([pd.Series([values[f"LongBench {task}"]]) for task in tasks])
        assert mean == pytest.approx(values[f"LongBench {group}"], abs=0.051)
        assert np.isnan(low)  # one item a task says nothing of its spread


def test_the_mean_of_tasks_by_hand():
    parts = [pd.Series([50, 70]), pd.Series([10, 30])]
    mean, low, high = intervals.mean_of_tasks(parts)
    # Two means with standard errors of 10 each: sqrt(200) / 2 = 7.07, times t(97.5 %, 1) = 12.706
    assert mean == 40 and high - 40 == 40 - low == pytest.approx(12.706 * 200**0.5 / 2, rel=1e-4)
    assert intervals.mean_of_tasks(parts[1:]) == pytest.approx(t_interval([10, 30]))


def test_from_files_to_scores(published, llama, tokenizer, tmp_path):
    asked = [item for item in items(published) if item.max_new_tokens == 32][:2]
    found = score(asked, answer(llama, tokenizer, asked, tmp_path / "answers", room=96, chat=True))
    assert found["score"].between(0, 100).all() and len(found) == 2
