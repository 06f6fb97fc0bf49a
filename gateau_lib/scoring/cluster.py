"""The shards of a run on a Ray cluster: one worker a GPU or per some cores, each calling what a local run
calls.

A worker loads the models once and then scores shard after shard. Data and output lie on a file system that
all machines see; only the number of a shard travels. Ray starts a worker that died again and gives it its
shard again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from gateau_lib.data.sharded import Shard
from gateau_lib.models.pair import Pair
from gateau_lib.scoring import part_files
from gateau_lib.scoring.settings import ScoringRun, asked_methods
from gateau_lib.scoring.worker import prepare
from gateau_lib.study.errors import ScoreError
from gateau_lib.study.progress import track

RETRIES = 3  # times that a worker may die before the run gives up


class Scorer:
    """One worker; the models are loaded by its first call, so that what is wrong with them comes back as
    that call's error."""

    def __init__(self, run: ScoringRun) -> None:
        self.run = run
        self.pair: Pair | None = None
        self.made_by: dict[str, Any] = {}

    def about(self) -> dict[str, Any]:
        """What makes this worker's numbers, see `part_files.makers`."""
        if self.pair is None:
            self.pair = prepare(self.run)
            self.made_by = part_files.makers(self.pair, asked_methods(self.run.options.methods))
        return self.made_by

    def finish(self, job: part_files.Job, shard: Shard) -> None:
        """Leave the shard's part file.

        Raises:
            ScoreError: this machine holds other models, code or versions than the first worker's.
        """
        if differing := [name for name, value in self.about().items() if job.made_by.get(name) != value]:
            host, what = socket.gethostname(), ", ".join(differing)
            raise ScoreError(
                f"machine {host} differs from the first worker's in: {what}; install the same on all machines"
            )
        part_files.finish(job, shard, cast(Pair, self.pair))  # `about` has loaded it


def score(run: ScoringRun, all_shards: Sequence[Shard]) -> part_files.Job:
    """Every shard finished on the cluster that ``RAY_ADDRESS`` names, one that runs on this machine, or a new
    local one.

    Raises:
        ScoreError: Ray is missing, the cluster is too small for the workers asked for, or workers keep dying.
    """
    try:
        import ray  # an optional package
    except ImportError:
        raise ScoreError(
            "--engine ray: Ray is not installed; pip install ray in this environment, or leave it out"
        ) from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        workers, needs, threads = _layout(run, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        # Workers run in a folder of their own.
        short, long = _absolute(run.short), _absolute(run.long)
        asked = replace(run, data=run.data.resolve(), short=short, long=cast(str, long), threads=threads)
        remote = ray.remote(Scorer).options(**needs, max_restarts=RETRIES, max_task_retries=RETRIES)
        actors = [remote.remote(asked) for _ in range(min(workers, len(all_shards)))]
        made_by = ray.get(actors[0].about.remote())
        job = part_files.Job(asked.data, run.parts.resolve(), run.options, made_by, run.shard_size)
        for _ in track(
            _dispatch(ray, actors, job, all_shards), f"scoring, shards of {job.size}", len(all_shards)
        ):
            pass
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError:
        raise ScoreError(
            f"--engine ray: a worker died {RETRIES + 1} times, most likely out of memory; give fewer --workers"
        ) from None
    finally:
        ray.shutdown()
    return job


def _dispatch(
    ray: Any, actors: Sequence[Any], job: part_files.Job, all_shards: Sequence[Shard]
) -> Iterator[None]:
    """A shard for every worker, and the next one for each that is done."""
    waiting = iter(all_shards)
    running = {actor.finish.remote(job, shard): actor for actor, shard in zip(actors, waiting, strict=False)}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        actor = running.pop(done)
        ray.get(done)
        yield
        if (shard := next(waiting, None)) is not None:
            running[actor.finish.remote(job, shard)] = actor


def _absolute(model: str | None) -> str | None:
    """A model's folder as an absolute path; a hub id as it is."""
    return str(Path(model).resolve()) if model and Path(model).is_dir() else model


def _layout(
    run: ScoringRun, machines: Sequence[dict[str, float]]
) -> tuple[int, dict[str, float], int | None]:
    """Number of workers, what each reserves, and its CPU threads (None: whatever the GPU's host gives).

    Args:
        machines: what each has, as Ray counts it.
    """
    gpus, cpus = sum(int(m.get("GPU", 0)) for m in machines), [int(m.get("CPU", 0)) for m in machines]
    if gpus and (run.device or "cuda").startswith("cuda"):
        workers = run.workers or gpus
        if workers > gpus:
            raise ScoreError(
                f"--workers {workers}: the cluster has {gpus} GPUs, one for each worker; give at most that"
            )
        return workers, {"num_gpus": 1, "num_cpus": 0}, run.threads
    workers = run.workers or len(
        machines
    )  # each holds the models, so more than one a machine is for the user to ask

    def places(threads: int) -> int:
        return sum(cores // threads for cores in cpus)

    # A worker stays on one machine, so what counts is how many fit there:
    # for the others Ray would wait for ever.
    threads = run.threads or max(
        (n for n in range(1, max(cpus, default=1) + 1) if places(n) >= workers), default=1
    )
    if places(threads) < workers:
        held = " + ".join(map(str, cpus))
        raise ScoreError(
            f"--workers {workers} of {threads} threads: the cluster has {held} CPU cores; give fewer"
        )
    return workers, {"num_cpus": threads}, threads
