"""A whole data set scored, in six stations: index, models, shards, table, manifest, summary.

On a Ray cluster one worker a GPU, or per some cores, calls what a local run calls. Data and output lie on a
file system that all machines see; Ray starts a worker that died again and gives it its shard again.
"""

import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.data import sharded
from gateau_lib.data.inputs import not_read
from gateau_lib.data.sharded import Shard
from gateau_lib.methods.cascade import told as told_of_cascade
from gateau_lib.models.pair import Pair
from gateau_lib.scoring import cascade, part_files, score_table
from gateau_lib.scoring.score_table import Part
from gateau_lib.scoring.settings import ScoringRun
from gateau_lib.study import whole_files
from gateau_lib.study.code_hash import digest, path_hash
from gateau_lib.study.errors import ScoreError
from gateau_lib.study.progress import track
from gateau_lib.study.whole_files import atomic_write

log = logging.getLogger(__name__)
RETRIES = 3  # times that a worker may die before the run gives up


def score(run: ScoringRun) -> list[Part]:
    """Leave the table and the manifest of a run (from `settings.resolve`); its parts, without their rows.

    Finished shards are reused. Raises DataError, ModelError, ScoreError: what cannot be used.
    """
    shards = sharded.index(run.data, run.shard_size, run.read_as)
    if others := not_read(run.data):
        log.warning("%s: not read: %s", run.data, ", ".join(map(str, others)))
    with whole_files.locked(run.parts):
        whole_files.sweep(run.out, run.manifest)
        if run.cascade is not None:
            job, finished, modes = cascade.score(run, shards)
        elif run.engine == "ray":
            job = _score_on_cluster(run, shards)
        else:
            job, pair = part_files.begin(run)
            for shard in track(shards, f"scoring, shards of {run.shard_size}"):
                part_files.finish(job, shard, pair)
        about = _describe(run, job.made_by) | {"forms": sharded.forms_of(shards)}
        if run.cascade is not None:
            about |= {"cascade": modes}
        else:
            finished = part_files.parts(job, shards)
        done = score_table.write_table(finished, about, run.out)
        facts = manifest(job, shards, done, about)
        atomic_write(run.manifest, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return done


def _describe(run: ScoringRun, made_by: dict[str, Any]) -> dict[str, Any]:
    """What the table says about itself: the options, and which models scored."""
    called = {"long": run.long} if run.short is None else {"short": run.short, "long": run.long}
    models = {
        role: {"name": f"the shipped tiny pair, {role}" if run.shipped else name, "sha256": made_by[role]}
        for role, name in called.items()
    }
    about = asdict(run.options) | {"models": models, "shipped_pair": run.shipped, "dtype": made_by["dtype"]}
    return about | {"read_as": asdict(run.read_as)}


def manifest(
    job: part_files.Job, shards: Sequence[Shard], done: Sequence[Part], about: dict[str, Any]
) -> dict[str, Any]:
    """What made a table: content of data, models, options and code, and what each shard took."""
    run, listed = job.run, []
    for shard, part in zip(shards, done, strict=True):
        entry = {"part": job.part(shard).name, "rows": shard.rows, "sha256": shard.sha256}
        listed.append(entry | {"seconds": part.seconds, "passes": part.counts})
    content = {"name": run.data.name, "sha256_of_shards": digest("".join(s.sha256 for s in shards))}
    return {
        "table": {"sha256": path_hash(run.out)} | score_table.counted(_told(run)),
        "data": content,
        "options": about | {"shard_size": run.shard_size},
        "made_by": job.made_by,
        "kernels": job.kernels,
        "passes": _total(done),
        "seconds": round(sum(part.seconds for part in done), 3),  # of work, added over workers
        "shards": listed,
    }


def _total(parts: Sequence[Part]) -> dict[str, dict[str, int]]:
    """Tokens of each pass over many shards, the dearest first."""
    sums: dict[str, Counter[str]] = {}
    for part in parts:
        for name, count in part.counts.items():
            sums.setdefault(name, Counter()).update(count)
    return {name: dict(sums[name]) for name in sorted(sums, key=lambda name: -sums[name]["tokens"])}


def summary(run: ScoringRun, done: Sequence[Part], seconds: float) -> tuple[str, int]:
    """A finished run in some lines, with the commonest reasons for errors; how many rows have scores."""
    rows = _told(run)
    found, lost = score_table.counted(rows), int(rows["n_dropped"].sum())
    more = {"cut on the left": f"cut to {run.options.max_length} tokens, losing {lost:,}"}
    notes = ", ".join(f"{number} {more.get(what, what)}" for what, number in found.items())
    passes = ", ".join(f"{name} {count['tokens']:,}" for name, count in _total(done).items()) or "none"
    told = rows[["id", "error"]].astype(object)
    errors = told.where(told.notna(), None).itertuples(index=False, name=None)
    lines = [f"error: {why}" for why in score_table.reasons(errors)]
    forms = score_table.read_about(run.out)["forms"].items()
    read = ", ".join(f"{number:,} {form or 'of no known form'}" for form, number in forms)
    made = score_table.read_about(run.out).get("cascade")
    partly = [f"cascade: {told_of_cascade(made)}"] if made else []
    lines = [
        f"{run.out}: {notes}; {seconds:.0f} s",
        f"read as: {read}",
        *lines,
        *partly,
        f"tokens forwarded: {passes}",
    ]
    return "\n".join(lines), found["rows"] - found["with an error"]


def _told(run: ScoringRun) -> pd.DataFrame:
    """What the summary tells of the rows of the table."""
    return pd.read_parquet(run.out, columns=["id", "error", "n_context", "n_dropped", *score_table.TURNS])


def _score_on_cluster(run: ScoringRun, all_shards: Sequence[Shard]) -> part_files.Job:
    """Every shard finished on the cluster that ``RAY_ADDRESS`` names, one that runs here, or a new local one.

    Raises ScoreError: Ray is missing, the cluster is too small for the workers, or workers keep dying.
    """
    try:
        import ray  # an optional package
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
        actors = [remote.remote(asked) for _ in range(min(workers, len(all_shards)))]
        job = ray.get(actors[0].job.remote())
        done = _dispatch(ray, actors, job, all_shards)
        for _ in track(done, f"scoring, shards of {run.shard_size}", len(all_shards)):
            pass
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError:
        why = f"a worker died {RETRIES + 1} times, most likely out of memory"
        raise ScoreError(f"--engine ray: {why}; give fewer --workers") from None
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


class Scorer:
    """One worker; its first call loads the models, so that a fault of theirs is that call's error."""

    def __init__(self, run: ScoringRun) -> None:
        self.run = run

    @cached_property
    def begun(self) -> tuple[part_files.Job, Pair]:
        return part_files.begin(self.run)

    def job(self) -> part_files.Job:
        """The run as this worker sees it."""
        return self.begun[0]

    def finish(self, job: part_files.Job, shard: Shard) -> None:
        """Leave the shard's part file; ScoreError if models or code here are not the first worker's."""
        mine, pair = self.begun
        if differing := [name for name in mine.made_by if job.made_by.get(name) != mine.made_by[name]]:
            machine, what = f"machine {socket.gethostname()}", ", ".join(differing)
            fix = "install the same on all machines"
            raise ScoreError(f"{machine} differs from the first worker's in: {what}; {fix}")
        part_files.finish(job, shard, pair)
