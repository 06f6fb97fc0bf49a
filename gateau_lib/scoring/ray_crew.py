"""Workers of a Ray cluster as a `crew.Crew`: one a GPU, or per some cores, on any of its machines.

Data and output lie on a file system that all machines see; Ray starts a worker that died again and gives it
its call again.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateau_lib.scoring.crew import DIED, RETRIES, Begin, Crew, Result, Scorer
from gateau_lib.scoring.part_files import Job
from gateau_lib.scoring.settings import ScoringRun
from gateau_lib.study.errors import ScoreError

CHANGES_NO_RESULT = True  # whoever scores, the rows are the same


class Actors:
    """Ray's workers that run a `Scorer` each."""

    def __init__(self, ray: Any, actors: Sequence[Any]) -> None:
        jobs = [actor.job.remote() for actor in actors]  # all load at once
        self.job: Job = ray.get(jobs[0])
        self.pool = ray.util.ActorPool(actors)

    def each(self, function: Callable[..., Result], work: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """`Crew.each`, in the order in which they are done."""
        done: Iterator[Result] = self.pool.map_unordered(
            lambda actor, arguments: actor.call.remote(self.job, function, *arguments), work
        )
        return done


@contextmanager
def cluster(run: ScoringRun, begin: Begin, most: int) -> Iterator[Crew]:
    """Workers of the cluster that ``RAY_ADDRESS`` names, one that runs here, or a new local one.

    ``most``: workers that have something to do.
    Raises ScoreError: Ray is missing, the cluster is too small for the workers, or one keeps dying; what
        ``begin`` raises.
    """
    try:
        import ray  # an optional package
        import ray.util
    except ImportError:
        remedy = "pip install ray in this environment, or leave it out"
        raise ScoreError(f"--engine ray: Ray is not installed; {remedy}") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        workers, needs, threads = _layout(run, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        # Workers run in a folder of their own.
        models = {"short": _absolute(run.short), "long": _absolute(run.long)}
        asked = replace(run, data=run.data.absolute(), out=run.out.absolute(), threads=threads, **models)
        remote = ray.remote(Scorer).options(**needs, max_restarts=RETRIES, max_task_retries=RETRIES)
        yield Actors(ray, [remote.remote(asked, begin) for _ in range(min(workers, most))])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError:
        raise ScoreError(f"--engine ray: {DIED}") from None
    finally:
        ray.shutdown()


def _absolute(model: str | None) -> Any:
    """A model's folder as an absolute path; a hub id as it is."""
    return str(Path(model).resolve()) if model and Path(model).is_dir() else model


def _layout(run: ScoringRun, machines: Sequence[dict[str, float]]) -> tuple[int, dict[str, int], int | None]:
    """Number of workers, what each reserves, and its CPU threads (None: whatever the GPU's host gives)."""
    gpus, cpus = sum(int(m.get("GPU", 0)) for m in machines), [int(m.get("CPU", 0)) for m in machines]
    if gpus and (run.device or "cuda").startswith("cuda"):
        workers = run.workers or gpus
        if workers > gpus:
            held = f"the cluster has {gpus} GPUs, one for each worker"
            raise ScoreError(f"--workers {workers}: {held}; give at most that")
        return workers, {"num_gpus": 1, "num_cpus": 0}, run.threads
    # Each holds the models, so more than one a machine is for the user to ask.
    workers = run.workers or len(machines)
    # A worker stays on one machine, so what counts is how many fit there: Ray would wait for ever for others.
    fitting = (n for n in range(max(cpus, default=1), 0, -1) if sum(c // n for c in cpus) >= workers)
    threads = run.threads or next(fitting, 1)
    if sum(cores // threads for cores in cpus) < workers:
        held = f"the cluster has {' + '.join(map(str, cpus))} CPU cores"
        raise ScoreError(f"--workers {workers} of {threads} threads: {held}; give fewer")
    return workers, {"num_cpus": threads}, threads
