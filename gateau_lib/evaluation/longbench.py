"""LongBench's twelve tasks of GATEAU's tables: items from the published files, scores as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gateau_lib.data.longalign import read_records
from gateau_lib.evaluation.benchmark_item import Benchmark, Item, first_of_each_task, fixed_size, scored_by
from gateau_lib.evaluation.text_metrics import METRICS
from gateau_lib.sources import conversion, published
from gateau_lib.study.errors import DataError
from gateau_lib.study.store import Study, artefact

FIELDS = ("_id", "input", "context", "answers")  # of a published record


@dataclass(frozen=True)
class Task:
    """One task: how it is asked and measured (longbench.yml)."""

    group: str
    language: str
    metric: str  # of `text_metrics.METRICS`
    max_new_tokens: int
    template: str


_FILE = yaml.safe_load(Path(__file__).with_name("longbench.yml").read_text(encoding="utf-8"))
TASKS = {name: Task(**fields) for name, fields in _FILE["tasks"].items()}  # in the order of GATEAU's tables
GROUPS = {task.group: [name for name in TASKS if TASKS[name].group == task.group] for task in TASKS.values()}


def items(folder: Path) -> list[Item]:
    """All items of the twelve tasks, from the published files, one ``<task>.jsonl`` a task.

    Raises:
        DataError: a file that is missing, or a record that is not as published; the place is named.
    """
    return [
        _item(where, record, name)
        for name in TASKS
        for where, record in read_records(folder / f"{name}.jsonl")
    ]


def _item(where: str, record: Any, name: str) -> Item:
    whole, task = isinstance(record, dict) and all(field in record for field in FIELDS), TASKS[name]
    if not (whole and isinstance(record["answers"], list) and record["answers"]):
        needs = f"needs {', '.join(FIELDS)}, with answers"
        raise DataError(f"{where}: not a LongBench record ({needs}); fetch the file again")
    turn, references = task.template.format(**record), tuple(record["answers"])
    return Item(f"{name}/{record['_id']}", name, (turn,), references, task.max_new_tokens)


def score(items: Sequence[Item], answers: pd.DataFrame) -> pd.DataFrame:
    """`scored` by each task's measure against the reference that fits best.

    White space around an answer is not counted (GATEAU train/LongBench/eval.py).
    """

    def best(item: Item, said: str) -> float:
        metric = METRICS[TASKS[item.task].metric]
        return max(metric(said.strip(), reference) for reference in item.references)

    return scored_by(items, answers, best)


def longbench(study: Study) -> Path:
    """A folder with LongBench's records as published, one ``<task>.jsonl`` a task."""
    files, about = published.files_of(study, "longbench")

    def build(out: Path) -> None:
        counts = conversion.unpack(files, list(TASKS), out)
        published.write_card(out, about | {"kept": sum(counts.values()), "tasks": counts})

    return artefact(study, "longbench", build, code=[conversion.unpack], tasks=list(TASKS), about=about)


BENCHMARK = Benchmark(
    name="longbench",
    title="LongBench",
    source="Bai et al. 2024, github.com/THUDM/LongBench; the tasks of GATEAU's tables",
    items=lambda study, _: first_of_each_task(items(longbench(study)), study.profile.benchmark_items),
    score=score,
    cost=fixed_size(items=12 * 200, prompt=12_000, answer=150, tasks=12),
    data="longbench",
    packages=("rouge", "jieba"),
)
