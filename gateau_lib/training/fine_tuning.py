"""All fine-tuning runs of a study, each an artefact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateau_lib.study import devices
from gateau_lib.study.errors import TrainingError
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all
from gateau_lib.training import launch
from gateau_lib.training.recipe import FineTune
from gateau_lib.training.sft import LOG


def build(job: FineTune) -> Build:
    """How the artefact of a run is built, and what names it."""
    return Build(job.name, launch.fine_tune, {"job": job})


def fine_tune_all(study: Study, jobs: Sequence[FineTune], workers: int | None = None) -> list[Path]:
    """Folders of all fine-tuned models, in the order of ``jobs``; no run in the study's cache is repeated.

    Args:
        workers: processes (see `workers.build_all`); None: as many as `workers.at_once` says. Runs that take
            several processes each, and all runs where there is one GPU, go one after the other.

    Raises:
        TrainingError: two jobs with one name.
        JobError: a run that failed, by name.
    """
    if len({job.name for job in jobs}) < len(jobs):
        raise TrainingError("two fine-tuning runs have the same name; give each its own")
    if devices.gpus() == 1 or any(job.processes != 1 for job in jobs):
        workers = 0
        _train_in_turn(study, jobs)
    elif workers is None:
        workers = at_once(study.profile)
    return build_all(study, {job.name: build(job) for job in jobs}, workers, "fine-tuning")


def _train_in_turn(study: Study, jobs: Sequence[FineTune]) -> None:
    """Train the runs that are not in the cache in processes that are started once for all of them.

    Each is trained in a folder of its own, so what is trained stays when a later one fails.
    """
    todo: dict[Path, FineTune] = {}
    for job in jobs:
        place = build(job).place(study)
        if not place.exists() and (devices.gpus() or launch.processes(job) > 1):
            todo[study.cache / "training" / place.name] = job
    try:
        left = [(job, stage) for stage, job in todo.items() if not (stage / LOG).is_file()]
        launch.fine_tune_in_turn(left)
    finally:
        for stage, job in todo.items():
            if (stage / LOG).is_file():  # written last
                build(job).folder(study, stage.rename)
