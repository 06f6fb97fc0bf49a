"""Short tasks, to see what long training costs: run by lm-evaluation-harness (an optional extra), item by item.

Without the package, or without a task's data, nothing was run, and that is what is said: no score is made up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.models import loading
from gateau_lib.study.code_hash import digest, path_hash
from gateau_lib.study.errors import UserError, reason
from gateau_lib.study.whole_files import atomic_write

TASKS = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande")  # as the harness calls them, no examples before
METRICS = ("acc_norm", "acc", "exact_match")  # of a task, the first that it has


class NotInstalled(UserError):
    """The harness, or the data of a task, is not there; the message says how to get it."""


def run(
    model_dir: Path | str, tasks: Sequence[str | dict[str, Any]], out: Path, *, dtype: str = "float32", limit: int | None = None
) -> pd.DataFrame:
    """A saved model on short tasks; a task whose scores lie in ``out`` is not run again.

    Args:
        tasks: names of the harness's tasks, or configurations in its form.
        out: folder of the scores, one file a task and model.
        limit: items a task at most, the first ones; None: all.

    Returns:
        One row an item: ``id, task, score``, 0 to 100.

    Raises:
        NotInstalled: no harness, or no data for a task. Scores of the tasks before it are kept.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise NotInstalled("short tasks are run by lm-evaluation-harness, which is not installed: pip install lm-eval") from None
    model, manager, frames = None, TaskManager(), []
    made_by = [path_hash(Path(model_dir)) if Path(model_dir).exists() else str(model_dir), dtype, limit, version("lm_eval")]
    for task in tasks:
        name = task if isinstance(task, str) else task["task"]
        path = out / f"{name}-{digest(json.dumps([made_by, task], sort_keys=True))[:12]}.json"
        if not path.exists():
            _fetch(manager, task, name)
            if model is None:
                loaded, tokenizer = loading.load(model_dir, dtype)
                size = "auto" if loaded.device.type == "cuda" else 8
                model = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=size)
            found = simple_evaluate(model=model, tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=0)
            atomic_write(path, json.dumps(_scores(found["samples"])))
        frames.append(pd.DataFrame(json.loads(path.read_text(encoding="utf-8")), columns=["id", "task", "score"]))
    return pd.concat(frames, ignore_index=True)


def _fetch(manager: Any, task: str | dict[str, Any], name: str) -> None:
    """Load a task's data once, so that a failure is known to be theirs."""
    try:
        manager.load([task])
    except Exception as error:  # whatever the hub, the network or a file's reader raise
        how = f"run `lm-eval run --model dummy --tasks {name} --limit 1` where there is a network, and take its HF_HOME along"
        raise NotInstalled(f"short task {name}: its data cannot be read ({reason(error)}); {how}") from error


def _scores(samples: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """``[id, task, score]`` of every item in the harness's record of them."""
    rows = []
    for task, each in samples.items():
        metric = next((name for name in METRICS if each and name in each[0]), None)
        if metric is None:
            raise ValueError(f"short task {task}: no score of {', '.join(METRICS)} among its results; choose another task")
        seen = {sample["doc_id"]: 100 * float(sample[metric]) for sample in each}  # one row a filter, if there are several
        rows += [[f"{task}/{place}", task, score] for place, score in sorted(seen.items())]
    return rows
