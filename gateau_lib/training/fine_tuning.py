"""All fine-tuning runs of a study, each an artefact."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from gateau_lib.study import devices
from gateau_lib.study.errors import TrainingError
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all
from gateau_lib.training.recipe import HOW, FineTune
from gateau_lib.training.sft import LOG


def build(job: FineTune) -> Build:
    """How the artefact of a run is built, and what names it: everything but how it is computed."""
    from gateau_lib.training import launch

    return Build(job.name, launch.fine_tune, (job,), {key: value for key, value in asdict(job).items() if key not in HOW})


def fine_tune_all(study: Study, jobs: Sequence[FineTune], workers: int | None = None) -> list[Path]:
    """Folders of all fine-tuned models, in the order of ``jobs``; a run that is in the study's cache is not repeated.

    Args:
        workers: processes (see `workers.build_all`); None: as many as `workers.at_once` says. Runs that take several processes
            each, and all runs where there is one GPU, go one after the other.

    Raises:
        TrainingError: two jobs with one name.
        JobError: a run that failed, by name.
    """
    if len({job.name for job in jobs}) < len(jobs):
        raise TrainingError("two fine-tuning runs have the same name; give each its own")
    builds = {job.name: build(job) for job in jobs}
    if devices.gpus() == 1 or any(job.processes != 1 for job in jobs):
        workers = 0
        _train_in_turn(study, jobs, builds)
    return build_all(study, builds, at_once(study.profile) if workers is None else workers, "fine-tuning")


def _train_in_turn(study: Study, jobs: Sequence[FineTune], builds: Mapping[str, Build]) -> None:
    """Train the runs that are not in the cache, their processes started once; what is trained stays when a later one fails."""
    from gateau_lib.training import launch

    stages = {job.name: study.cache / "training" / builds[job.name].place(study).name for job in jobs}
    todo = [(job, stages[job.name]) for job in jobs if not builds[job.name].place(study).exists()]
    todo = [(job, stage) for job, stage in todo if devices.gpus() or launch.processes(job) > 1]
    try:
        if left := [(job, stage) for job, stage in todo if not (stage / LOG).is_file()]:
            launch.fine_tune_in_turn(left)
    finally:
        for job, stage in todo:
            if (stage / LOG).is_file():  # written last
                builds[job.name].folder(study, lambda out, stage=stage: _link(stage, out))
                shutil.rmtree(stage)


def _link(stage: Path, out: Path) -> None:
    """The files of one folder in another, without a second copy of their bytes where the file system allows it."""

    def link(source: str, to: str) -> None:
        try:
            os.link(source, to)
        except OSError:
            shutil.copy2(source, to)

    shutil.copytree(stage, out, dirs_exist_ok=True, copy_function=link)
