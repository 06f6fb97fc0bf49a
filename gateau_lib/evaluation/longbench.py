"""LongBench's twelve tasks of GATEAU's tables: items from the published files, scores as published, means of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from gateau_lib.data.longalign import read_records
from gateau_lib.evaluation.benchmark_item import Item, scored
from gateau_lib.evaluation.text_metrics import METRICS, best
from gateau_lib.sources import conversion
from gateau_lib.sources.hub import _found, _write_card
from gateau_lib.study.errors import DataError
from gateau_lib.study.store import Study, artefact

FIELDS = ("_id", "input", "context", "answers")  # of a published record; length, language and others are beside them


@dataclass(frozen=True)
class Task:
    """One task: how it is asked and measured (longbench.yml)."""

    group: str
    language: str
    metric: str  # of `text_metrics.METRICS`
    max_new_tokens: int
    template: str


def _tasks() -> dict[str, Task]:
    content = yaml.safe_load(Path(__file__).with_name("longbench.yml").read_text(encoding="utf-8"))
    return {name: Task(**fields) for name, fields in content["tasks"].items()}


TASKS = _tasks()  # in the order of GATEAU's tables
GROUPS = {group: [name for name, task in TASKS.items() if task.group == group] for group in {t.group: 0 for t in TASKS.values()}}


def items(folder: Path) -> list[Item]:
    """All items of the twelve tasks.

    Args:
        folder: the published files, one ``<task>.jsonl`` a task.

    Raises:
        DataError: a file that is missing, or a record that is not as published; the place is named.
    """
    found = []
    for name, task in TASKS.items():
        for where, record in read_records(folder / f"{name}.jsonl"):
            lacking = [field for field in FIELDS if field not in record] if isinstance(record, dict) else list(FIELDS)
            if lacking or not isinstance(record["answers"], list) or not record["answers"]:
                raise DataError(
                    f"{where}: not a LongBench record (needs {', '.join(FIELDS)}, with answers); fetch the file again"
                )
            found.append(
                Item(
                    id=f"{name}/{record['_id']}",
                    task=name,
                    turns=(task.template.format(context=record["context"], input=record["input"]),),
                    references=tuple(record["answers"]),
                    max_new_tokens=task.max_new_tokens,
                    language=task.language,
                    extra={"length": record.get("length")},
                )
            )
    return found


def score(items: Sequence[Item], answers: pd.DataFrame) -> pd.DataFrame:
    """Every item's score: the task's measure against the reference that fits best.

    Returns:
        ``id, task, score``, 0 to 100; missing where there is no answer (see `answering.answer`).

    Raises:
        DataError: an item that ``answers`` does not know.
    """
    return scored(items, answers, lambda item, said: best(METRICS[TASKS[item.task].metric], said[-1], item.references))


def longbench(study: Study) -> Path:
    """A folder with LongBench's records as published, one ``<task>.jsonl`` for each task of `gateau_lib.evaluation.longbench`."""

    files, about = _found(study, "longbench")

    def build(out: Path) -> None:
        counts = conversion.unpack(files, list(TASKS), out)
        _write_card(out, about | {"kept": sum(counts.values()), "tasks": counts})

    return artefact(study, "longbench", build, code=[conversion.unpack], tasks=list(TASKS), about=about)
