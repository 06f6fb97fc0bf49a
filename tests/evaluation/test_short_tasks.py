"""Short tasks: without the harness nothing is scored; with it, scores are those of our own losses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from gateau_lib.evaluation import short_tasks
from gateau_lib.evaluation.benchmark_item import Item, NotInstalled
from gateau_lib.models import loading
from gateau_lib.models.nll import continuation_nll
from gateau_lib.study.profiles import resolve
from gateau_lib.study.store import Study

QUESTIONS = [
    ("One and one", ["two", "nine"], 0),
    ("A cat is", ["stone", "an animal"], 1),
    ("Up or", ["down", "blue"], 1),
]


@pytest.fixture
def task(tmp_path: Path) -> dict:
    """A task of three questions with two choices each, in the harness's form."""
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": question, "choices": choices, "label": label} for question, choices, label in QUESTIONS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "task": "three_questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "label",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def test_without_the_harness_it_is_said_how_to_get_it(saved_pair, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(NotInstalled, match="not installed: pip install lm-eval"):
        short_tasks.run(saved_pair[0], short_tasks.TASKS, tmp_path / "out", "float32")
    assert not (tmp_path / "out").exists()


def test_the_first_known_measure_is_taken_once_an_item():
    samples = {
        "t": [{"doc_id": 1, "acc": 0.0, "acc_norm": 1.0}, {"doc_id": 0, "acc": 1.0, "acc_norm": 0.0}],
        "u": [],
    }
    with pytest.raises(ValueError, match="short task u: no score"):
        short_tasks._scores(samples)
    del samples["u"]
    samples["v"] = [{"doc_id": 0, "exact_match": 0.5, "filter": name} for name in ("strict", "loose")]
    assert short_tasks._scores(samples) == [["t/0", "t", 0], ["t/1", "t", 100], ["v/0", "v", 50]]


def test_with_the_harness_scores_are_those_of_our_own_losses(saved_pair, task, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    found = short_tasks.run(saved_pair[0], [task], tmp_path / "out", "float32")
    model, tokenizer = loading.load(saved_pair[0])
    expected = []
    for question, choices, label in QUESTIONS:
        ids = [tokenizer(" " + choice, add_special_tokens=False)["input_ids"] for choice in choices]
        prefix = tokenizer(question, add_special_tokens=False)["input_ids"]
        losses = [loss.sum() for loss in continuation_nll(model, [prefix] * 2, ids)]
        expected.append(100.0 * (losses.index(min(losses)) == label))
    assert found["score"].tolist() == expected and found["id"].tolist() == [
        f"three_questions/{i}" for i in range(3)
    ]
    with monkeypatch.context() as patch:  # what is scored is not run again
        patch.setattr(loading, "load", None)
        assert short_tasks.run(saved_pair[0], [task], tmp_path / "out", "float32").equals(found)
    assert len(short_tasks.run(saved_pair[0], [task], tmp_path / "out", "float32", limit=2)) == 2


def test_data_out_of_reach_is_not_run(saved_pair, task, tmp_path):
    pytest.importorskip("lm_eval")
    lost = task | {"task": "lost", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "none.jsonl")}}}
    with pytest.raises(NotInstalled, match="short task lost: its data cannot be read"):
        short_tasks.run(saved_pair[0], [task, lost], tmp_path / "out", "float32")
    assert len(list((tmp_path / "out").iterdir())) == 1  # the task before it is kept


def test_every_run_is_scored_by_the_harness(saved_pair, tmp_path, monkeypatch):
    asked = []

    def run(model_dir, tasks, out, dtype, limit):
        asked.append((Path(model_dir), tasks, out.name, limit))
        return pd.DataFrame([("a/0", "a", 50.0)], columns=short_tasks.COLUMNS)

    monkeypatch.setattr(short_tasks, "run", run)
    study = Study(replace(resolve("rehearse-paper"), benchmark_items=3), 0, tmp_path)
    items = [Item(task, task, ()) for task in ("a", "b")]
    found = short_tasks.answers(study, items, {"full": saved_pair[1]})
    assert asked == [(saved_pair[1], ["a", "b"], "full", 3)]
    assert short_tasks.BENCHMARK.score(items, found["full"].table)["score"].tolist() == [50.0]
    assert [item.task for item in short_tasks.BENCHMARK.items(study, None)] == list(short_tasks.TASKS)
