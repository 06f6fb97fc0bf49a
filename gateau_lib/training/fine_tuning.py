"""Fine-tuning runs of a study, each an artefact, and the processes of this machine that train them.

Checkpoints stay after a failure, so the same call goes on from the last one, if there is one.
`gateau_lib.train` tells how to start a run over several machines.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateau_lib.study import devices
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.errors import TrainingError
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all
from gateau_lib.training import recipe, reports, sft
from gateau_lib.training.recipe import FineTune

OUTPUT = "output.txt"  # of the processes' common parent, torch.distributed.run
POLL_SECONDS = 0.5


def build(job: FineTune) -> Build:
    """How the artefact of a run is built, and what names it."""
    return Build(job.name, fine_tune, {"job": job})


def fine_tune_all(study: Study, jobs: Sequence[FineTune], workers: int | None = None) -> list[Path]:
    """Folders of all fine-tuned models, in the order of ``jobs``; no run in the study's cache is repeated.

    Args:
        workers: processes; None: `workers.at_once`. Runs that take several processes each, and all runs where
            there is one GPU, go one after the other.

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
        if not place.exists() and (devices.gpus() or processes(job) > 1):
            todo[study.cache / "training" / place.name] = job
    try:
        _launch([(job, stage) for stage, job in todo.items() if not (stage / sft.LOG).is_file()])
    finally:
        for stage, job in todo.items():
            if (stage / sft.LOG).is_file():  # written last
                build(job).folder(study, stage.rename)


def processes(job: FineTune) -> int:
    """Processes of a job: what it says, or one a GPU; TrainingError if this machine has not as many."""
    gpus, wrong = devices.gpus(), ""
    count = job.processes or max(1, gpus)
    if job.sharding != "ddp" and not gpus:
        wrong = f"sharding {job.sharding!r} needs GPUs; on a CPU give 'ddp'"
    elif gpus and job.processes > gpus:
        wrong = f"{job.processes} processes, but {gpus} GPUs are visible; a process takes one, 0 means all"
    elif job.sharding != "ddp" and count == 1:
        wrong = f"sharding {job.sharding!r} needs more than one process; give sharding 'ddp', or more GPUs"
    if wrong:
        raise TrainingError(f"{job.name}: {wrong}")
    return count


def fine_tune(job: FineTune, out: Path) -> dict[str, Any]:
    """Train a job and leave its model in ``out``; see `sft.fine_tune`.

    On a CPU that is done in this process if one is enough. Not so on a GPU: torch reads once, at its first
    matrix product there, whether these are to be deterministic, and a notebook that scored has made it.

    Raises:
        TrainingError: a process that was lost, memory or disk that did not suffice: how to go on.
        RuntimeError: any other failure of a process, by its first line; from this process, the error itself.
    """
    if processes(job) > 1 or devices.device().type == "cuda":
        _launch([(job, out)])
        return sft.training_log(out)
    try:
        return sft.fine_tune(job, out)
    except Exception as error:
        raise reports.explained(job, out, error) from error


def _launch(work: Sequence[tuple[FineTune, Path]]) -> None:
    """Train jobs one after the other; processes are started once for all jobs that take equally many.

    At the first job that fails it raises as `fine_tune` does; those before it are done.
    """
    for count in sorted({processes(job) for job, _ in work}):
        with TemporaryDirectory(prefix="gateau-train-") as folder:
            _run([(job, out) for job, out in work if processes(job) == count], count, Path(folder))


def _run(work: Sequence[tuple[FineTune, Path]], count: int, folder: Path) -> None:
    """Start the processes, show the progress that they report in ``folder``, and raise why they failed."""
    places = []
    for place, (job, out) in enumerate(work):
        path = folder / f"job-{place}.json"
        path.write_text(recipe.to_json(job), encoding="utf-8")
        places += [str(path), str(out.absolute())]
    # One server of the run for its processes to meet at; what they print goes to files.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += [f"--nproc-per-node={count}", f"--log-dir={folder}", "--redirects=3"]
    command += ["-m", "gateau_lib.train", *places]
    devices.release_gpu()
    with (folder / OUTPUT).open("wb") as output:
        # The pipe to its standard input is never written to: when this process ends, however it ends, the
        # others see the pipe close.
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, env=_environment(count, folder), **pipes) as run:
            try:
                _show(_steps(run, folder / reports.STEPS), len(work))
            except BaseException:
                run.terminate()
                raise
    if run.returncode:
        failed = next(((job, out) for job, out in work if not (out / sft.LOG).exists()), work[-1])
        raise _failure(*failed, folder)


def _environment(count: int, folder: Path) -> dict[str, str]:
    """Environment of the processes: this package first on Python's path; its card for a single one."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    found = {**os.environ, reports.LAUNCHED: str(folder), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    device = devices.device()
    if count == 1 and device.type == "cuda":
        card, names = device.index or 0, os.environ.get("CUDA_VISIBLE_DEVICES")
        found["CUDA_VISIBLE_DEVICES"] = names.split(",")[card] if names else str(card)
        found["GATEAU_DEVICE"] = "cuda"
    return found


def _steps(run: subprocess.Popen, path: Path) -> Iterator[dict[str, Any]]:
    """The records of `reports.STEPS` as they are written, until the processes end."""
    path.touch()
    with path.open(encoding="utf-8") as file:
        ended, rest = False, ""
        while not ended:
            with suppress(subprocess.TimeoutExpired):
                run.wait(POLL_SECONDS)
            ended = run.returncode is not None  # before reading, so that nothing is missed
            *lines, rest = (rest + file.read()).split("\n")  # the last line may be half written
            yield from map(json.loads, lines)


def _show(steps: Iterator[dict[str, Any]], count: int) -> None:
    """Progress of ``count`` runs, one after the other."""
    runs = groupby(steps, itemgetter("run"))
    for name, taken in track(runs, "fine-tuning", count) if count > 1 else runs:
        first = next(taken)
        for _ in track(taken, f"{name}: steps", first["steps"]):
            pass


def _failure(job: FineTune, out: Path, folder: Path) -> Exception:
    """Why the processes failed: one that was killed, else what the first one to fail reports."""
    output = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
    # torch tells the exit code of a process in its summary only.
    if lost := re.search(r"rank\s*:\s*(\d+)[^\n]*\n\s*exitcode\s*:\s*-9\b", output):
        why = f"process {lost[1]} was killed, most likely by the system for want of memory"
        fix = "free some, or lower micro_tokens or processes, then run the same again"
        return TrainingError(f"{job.name}: {why}; {fix}: {reports.next_try(job, out)}")
    if (told := folder / reports.FAILURES).exists():
        # When one process fails, others lose it.
        first = json.loads(told.read_text(encoding="utf-8").splitlines()[0])
        return (TrainingError if first["known"] else RuntimeError)(first["text"])
    printed = [path.read_text(errors="replace") for path in sorted(folder.rglob("stderr.log"))]
    last = next((text.strip().splitlines()[-1] for text in [*printed, output] if text.strip()), "nothing")
    return RuntimeError(f"{job.name}: the processes failed before a run began; their last words: {last}")
