"""Short tasks, to see what long training costs: run by lm-evaluation-harness (an optional extra).

Without the package, or without a task's data, nothing was run, and that is what is said: no score is made up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.evaluation.benchmark_item import Answers, Asked, Benchmark, Item, NotInstalled
from gateau_lib.models import loading
from gateau_lib.study.code_hash import digest, path_hash
from gateau_lib.study.errors import reason
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study
from gateau_lib.study.whole_files import atomic_write

# As the harness calls them, no examples before.
TASKS = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande")
METRICS = ("acc_norm", "acc", "exact_match")  # of a task, the first that it has
COLUMNS = ["id", "task", "score"]


def run(
    model_dir: Path, tasks: Sequence[str | dict[str, Any]], out: Path, dtype: str, limit: int | None = None
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
        from lm_eval import simple_evaluate  # optional, and slow
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        how = "which is not installed: pip install lm-eval"
        raise NotInstalled(f"short tasks are run by lm-evaluation-harness, {how}") from None
    model, manager, frames = None, TaskManager(), []
    made_by = [path_hash(model_dir), dtype, limit, version("lm_eval")]
    for task in tasks:
        name = task if isinstance(task, str) else task["task"]
        path = out / f"{name}-{digest(json.dumps([made_by, task], sort_keys=True))[:12]}.json"
        if not path.exists():
            _fetch(manager, task, name)
            if model is None:
                loaded, tokenizer = loading.load(model_dir, dtype)
                size = "auto" if loaded.device.type == "cuda" else 8
                model = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=size)
            asked: dict[str, Any] = {"task_manager": manager, "limit": limit, "bootstrap_iters": 0}
            found = simple_evaluate(model=model, tasks=[task], **asked)
            atomic_write(path, json.dumps(_scores(found["samples"])))
        frames.append(pd.DataFrame(json.loads(path.read_text(encoding="utf-8")), columns=COLUMNS))
    return pd.concat(frames, ignore_index=True)


def _fetch(manager: Any, task: str | dict[str, Any], name: str) -> None:
    """Load a task's data once, so that a failure is known to be theirs."""
    try:
        manager.load([task])
    except Exception as error:  # whatever the hub, the network or a file's reader raise
        command = f"lm-eval run --model dummy --tasks {name} --limit 1"
        how = f"run `{command}` where there is a network, and take its HF_HOME along"
        raise NotInstalled(f"short task {name}: its data cannot be read ({reason(error)}); {how}") from error


def _scores(samples: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """``[id, task, score]`` of every item in the harness's record of them."""
    rows = []
    for task, each in samples.items():
        metric = next((name for name in METRICS if each and name in each[0]), None)
        if metric is None:
            known = ", ".join(METRICS)
            raise ValueError(f"short task {task}: no score of {known} among its results; choose another task")
        # The harness has one row a filter, if there are several.
        seen = {sample["doc_id"]: 100 * float(sample[metric]) for sample in each}
        rows += [[f"{task}/{place}", task, score] for place, score in sorted(seen.items())]
    return rows


def answers(study: Study, items: Sequence[Item], folders: Mapping[str, Path]) -> dict[str, Answers]:
    """What the harness says of every run, by run name: tables of `run`."""
    found, tasks = {}, [item.task for item in items]
    dtype, limit = study.profile.dtype, study.profile.benchmark_items or None
    for name, folder in track(folders.items(), "short tasks", total=len(folders)):
        found[name] = Answers(run(folder, tasks, study.cache / "short-tasks" / name, dtype, limit))
    return found


BENCHMARK = Benchmark(
    name="short-tasks",
    title="Short tasks",
    source="lm-evaluation-harness, github.com/EleutherAI/lm-evaluation-harness",
    items=lambda study, tokenizer: [
        Item(task, task, ()) for task in TASKS
    ],  # the harness makes the questions
    score=lambda items, answers: answers[COLUMNS],
    cost=lambda _: [Asked(60_000, 100, 0)],  # sequences that the harness reads, and their tokens; assumed
    packages=("lm-eval",),
    answers=answers,
)
