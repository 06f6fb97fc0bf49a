"""Many small jobs over a few fresh processes, one torch thread each; results in the order of the jobs, artefacts built once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gateau_lib.study.devices import release_gpu
from gateau_lib.study.profiles import Profile
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study, artefact, artefact_folder

Result = TypeVar("Result")


class JobError(RuntimeError):
    """A job that failed; the message begins with the job's name."""


def at_once(profile: Profile) -> int:
    """Processes for jobs that each need one model: one a GPU where there are several, else what the profile says."""
    from gateau_lib.study.devices import gpus

    return gpus() if gpus() > 1 else profile.workers


def _settle(cards: Any) -> None:
    """One thread, since two processes with one each beat one with two at this study's sizes; and a GPU of its own, if any."""
    import torch

    torch.set_num_threads(1)
    if cards is not None:
        os.environ["GATEAU_DEVICE"] = f"cuda:{cards.get()}"




def run_jobs(
    function: Callable[..., Result], jobs: Mapping[str, tuple[Any, ...]], workers: int, label: str
) -> list[Result]:
    """``function(*arguments)`` for every job, in the order of ``jobs``.

    Args:
        function: importable by name, since spawned processes (and CUDA) know nothing of this one's memory.
        jobs: job name -> arguments.
        workers: processes; each does many jobs, so libraries load once a process. 0: here, one after the other.
        label: for the progress line.

    Raises:
        JobError: the first job that failed, by name, or a process that died; jobs that have not begun are dropped.
    """
    if workers == 0 or len(jobs) == 0:
        return [_here(function, name, arguments) for name, arguments in track(jobs.items(), label, len(jobs))]
    results: dict[str, Result] = {}
    spawn = multiprocessing.get_context("spawn")
    workers = min(workers, len(jobs))
    release_gpu()
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_settle, initargs=(_cards(spawn, workers),)) as pool:
        futures = {pool.submit(function, *arguments): name for name, arguments in jobs.items()}
        try:
            for future in track(as_completed(futures), label, len(jobs)):
                results[futures[future]] = _result(future.result, futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[name] for name in jobs]


def _cards(spawn: Any, workers: int) -> Any:
    """A queue that gives each worker the number of a GPU, in turn; None where there are not several."""
    from gateau_lib.study.devices import gpus

    if gpus() < 2:
        return None
    cards = spawn.SimpleQueue()
    for worker in range(workers):
        cards.put(worker % gpus())
    return cards


@dataclass(frozen=True)
class Build:
    """An artefact to be built: ``function(*arguments, folder)`` fills it; ``inputs`` and the function's code are its key."""

    name: str  # of the artefact, see store.artefact
    function: Callable[..., Any]  # of this package, importable by name
    arguments: tuple[Any, ...]
    inputs: dict[str, Any] = field(default_factory=dict)

    def place(self, study: Study) -> Path:
        """Where the artefact's folder is or will be."""
        return artefact_folder(study, self.name, code=[self.function], **self.inputs)

    def folder(self, study: Study, build: Callable[[Path], Any] | None = None) -> Path:
        """The artefact's folder, filled by the function (or by ``build``) if it is not there yet."""
        made = build or (lambda folder: self.function(*self.arguments, folder))
        return artefact(study, self.name, made, code=[self.function], **self.inputs)


class _NotBuilt(Exception):
    """Raised in place of building, to learn whether an artefact is there already."""


def _refuse(_: Path) -> None:
    raise _NotBuilt


def build_all(study: Study, builds: Mapping[str, Build], workers: int, label: str) -> list[Path]:
    """Artefact folders in the order of ``builds`` (job name -> what to build); processes are started for missing ones only.

    Raises:
        JobError: see `run_jobs`.
    """
    folders: dict[str, Path] = {}
    for name, build in builds.items():
        try:
            folders[name] = _result(lambda build=build: build.folder(study, _refuse), name)
        except _NotBuilt:
            continue
    todo = {name: (build, study) for name, build in builds.items() if name not in folders}
    made = run_jobs(Build.folder, todo, workers, label)
    folders |= dict(zip(todo, made, strict=True))
    return [folders[name] for name in builds]


def _here(function: Callable[..., Result], name: str, arguments: tuple[Any, ...]) -> Result:
    return _result(lambda: function(*arguments), name)


def _result(call: Callable[[], Result], name: str) -> Result:
    try:
        return call()
    except _NotBuilt:
        raise
    except BrokenProcessPool as error:
        message = f"{name}: a worker process died, most likely out of memory ({os.cpu_count()} cores here); use fewer workers"
        raise JobError(message) from error
    except Exception as error:
        raise JobError(f"{name}: {type(error).__name__}: {error}") from error
