"""Many small jobs over a few processes, one torch thread each; artefacts built once."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gateau_lib.study import devices
from gateau_lib.study.code_hash import PACKAGE, library
from gateau_lib.study.profiles import Profile
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study, artefact, artefact_folder, used

Result = TypeVar("Result")
_KEPT: dict[str, tuple[Any, ProcessPoolExecutor]] = {}  # processes that wait for the next call, if any


class JobError(RuntimeError):
    """A job that failed; the message begins with the job's name."""


def at_once(profile: Profile) -> int:
    """Processes for jobs of one model each: one a GPU where there are several, else what the profile says."""
    gpus = devices.gpus()
    return gpus if gpus > 1 else profile.workers


def run_jobs(
    function: Callable[..., Result], jobs: Mapping[str, tuple[Any, ...]], workers: int, label: str
) -> list[Result]:
    """``function(*arguments)`` for every job (name -> arguments), in their order.

    ``function``: importable by name, since spawned processes (and CUDA) know nothing of this one's memory.
    ``workers``: processes at most, each for many jobs; 0: here, one job after the other.
    Raises JobError: the first job that failed, or whose process died; jobs that have not begun are dropped.
    """
    results: dict[str, Result] = {}
    if workers == 0 or not jobs:
        for name, arguments in track(jobs.items(), label, len(jobs)):
            with _naming(name):
                results[name] = function(*arguments)
        return list(results.values())
    with _processes(workers) as pool:
        futures = {pool.submit(function, *arguments): name for name, arguments in jobs.items()}
        for future in track(as_completed(futures), label, len(jobs)):
            name = futures[future]
            with _naming(name):
                results[name] = future.result()
    return [results[name] for name in jobs]


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, or those of the call before this one: each takes seconds to begin.

    They are kept if no job failed, and used again if code and environment are those that they began with.
    On a GPU none is kept: its memory is needed.
    """
    gpus, cards = devices.gpus(), None
    began_with = workers, dict(os.environ), library(PACKAGE)
    before, pool = _KEPT.popitem()[1] if _KEPT else (None, None)
    if pool and (before != began_with or not _alive(pool)):
        pool.shutdown()
        pool = None
    if not pool:
        devices.release_gpu()
        spawn = multiprocessing.get_context("spawn")
        if gpus > 1:
            cards = spawn.SimpleQueue()  # a GPU for each worker, in turn
            for worker in range(workers):
                cards.put(worker % gpus)
        pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_settle, initargs=(cards,))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    if gpus:
        pool.shutdown()
    else:
        _KEPT["last"] = began_with, pool


def _alive(pool: ProcessPoolExecutor) -> bool:
    """Whether the processes can still be given work: one that died while it waited ends them all."""
    try:
        return pool.submit(bool).result() is False
    except BrokenProcessPool:
        return False


@contextmanager
def _naming(job: str) -> Iterator[None]:
    """Turn errors into a `JobError` that begins with the job's name."""
    try:
        yield
    except BrokenProcessPool as error:
        what = f"a worker process died, most likely out of memory ({os.cpu_count()} cores here)"
        raise JobError(f"{job}: {what}; use fewer workers") from error
    except Exception as error:
        raise JobError(f"{job}: {type(error).__name__}: {error}") from error


def _settle(cards: Any) -> None:
    """Give a new worker one thread and a GPU of its own, if there is any."""
    import torch  # slow, and `study` itself never needs it

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # two processes with a thread each beat one with two at this study's sizes
    if cards is not None:
        os.environ["GATEAU_DEVICE"] = f"cuda:{cards.get()}"


def end_with_parent() -> None:
    """End this worker when the process that started it is gone: a killed run must not go on unseen."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


@dataclass(frozen=True)
class Build:
    """An artefact that ``function(**inputs, out=folder)`` fills, keyed by inputs and the function's code."""

    name: str  # of the artefact, see `store.artefact`
    function: Callable[..., Any]  # of this package, importable by name
    inputs: dict[str, Any]

    def place(self, study: Study) -> Path:
        """Where the artefact's folder is or will be."""
        return artefact_folder(study, self.name, code=[self.function], **self.inputs)

    def folder(self, study: Study, build: Callable[[Path], Any] | None = None) -> Path:
        """The artefact's folder, filled by the function (or by ``build``) if it is not there yet."""
        fill = build or (lambda folder: self.function(**self.inputs, out=folder))
        return artefact(study, self.name, fill, code=[self.function], **self.inputs)


def build_all(study: Study, builds: Mapping[str, Build], workers: int, label: str) -> list[Path]:
    """Artefact folders of ``builds`` (by name of the job), in order; missing ones are jobs of `run_jobs`."""
    places: dict[str, Path] = {}
    for name, build in builds.items():
        with _naming(name):
            places[name] = build.place(study)
    first: dict[Path, str] = {}  # of those that have one folder
    for name, folder in places.items():
        first.setdefault(folder, name)
    missing = {name: (builds[name], study) for folder, name in first.items() if not folder.exists()}
    run_jobs(Build.folder, missing, workers, label)
    return [used(folder) for folder in places.values()]
