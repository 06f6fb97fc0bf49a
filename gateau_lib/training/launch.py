"""Start training runs on as many processes of this machine as their jobs ask for, and say clearly what went wrong if one fails.

Checkpoints stay after a failure, so the same call goes on from the last one, if there is one. `gateau_lib.train` tells how to
start a run over several machines.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateau_lib.study import devices
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.devices import release_gpu
from gateau_lib.study.errors import TrainingError
from gateau_lib.study.progress import say
from gateau_lib.training import failures, recipe, sft
from gateau_lib.training.recipe import FineTune

PROGRESS = r"\]:(\S+: steps: |trained )"  # of the first process, see trainer.Watch and train.main


def processes(job: FineTune) -> int:
    """Processes that a job takes here: what it says, or one a GPU.

    Raises:
        TrainingError: more processes than GPUs, or a model to be sharded where there are none.
    """
    gpus = devices.gpus()
    count = job.processes or max(1, gpus)
    if job.sharding != "ddp" and not gpus:
        raise TrainingError(f"{job.name}: sharding {job.sharding!r} needs GPUs; on a CPU give 'ddp'")
    if gpus and job.processes > gpus:
        raise TrainingError(f"{job.name}: {job.processes} processes, but {gpus} GPUs are visible; a process takes one, 0 means all")
    if job.sharding != "ddp" and count == 1:
        raise TrainingError(f"{job.name}: sharding {job.sharding!r} needs more than one process; give sharding 'ddp', or more GPUs")
    return count


def fine_tune(job: FineTune, output: Path) -> dict[str, Any]:
    """Train a job and leave its model in ``output``; see `sft.fine_tune`, which does it here on a CPU if one process is enough.

    Not so on a GPU: torch reads once, at its first matrix product there, whether these are to be deterministic, and a notebook
    that scored has made it by then.

    Raises:
        TrainingError: a process that was lost, memory or disk that did not suffice: how to go on.
        RuntimeError: any other failure of a process, by its first line; from this process, the error itself.
    """
    recipe.check(job)
    count = processes(job)
    if count == 1 and devices.device().type != "cuda":
        try:
            return sft.fine_tune(job, output)
        except Exception as error:
            raise failures.explained(job, output, error) from error
    with TemporaryDirectory(prefix="gateau-train-") as folder:
        _run([(job, output)], count, Path(folder))
    return sft.training_log(output)


def fine_tune_in_turn(work: Sequence[tuple[FineTune, Path]]) -> None:
    """Train jobs one after the other; processes are started once for all jobs that take equally many.

    Raises:
        TrainingError, RuntimeError: as `fine_tune`, at the first job that fails; those before it are done.
    """
    for job, _ in work:
        recipe.check(job)
    for count in sorted({processes(job) for job, _ in work}):
        with TemporaryDirectory(prefix="gateau-train-") as folder:
            _run([(job, output) for job, output in work if processes(job) == count], count, Path(folder))


def _run(work: Sequence[tuple[FineTune, Path]], count: int, folder: Path) -> None:
    """Start the processes, pass on the first one's progress, and raise why they failed."""
    places = []
    for place, (job, output) in enumerate(work):
        (folder / f"job-{place}.json").write_text(recipe.to_json(job), encoding="utf-8")
        places += [str(folder / f"job-{place}.json"), str(output.absolute())]
    release_gpu()
    # One server of the run for its processes to meet at; their output goes to files, the first one's progress comes here too.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += [f"--nproc-per-node={count}", f"--log-dir={folder}", "--redirects=3", "--tee=0:2"]
    command += ["-m", "gateau_lib.train", *places]
    environment = {**os.environ, LAUNCHED: "1", "PYTHONPATH": _path(), "PYTHONUNBUFFERED": "1"}
    card = devices.device().index
    if count == 1 and devices.device().type == "cuda":
        environment |= {"CUDA_VISIBLE_DEVICES": _visible(card or 0), "GATEAU_DEVICE": "cuda"}
    said = []
    # The pipe to its standard input is never written to: when this process ends, however it ends, the others see the pipe close.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment, text=True, errors="replace", **pipes) as run:
        try:
            for line in run.stdout:
                said.append(line)
                if re.search(PROGRESS, line):
                    say(line.partition("]:")[2].strip())
        except BaseException:
            run.terminate()
            raise
    if run.returncode:
        job, output = next((each for each in work if not (each[1] / sft.LOG).exists()), work[-1])
        raise _failure(job, output, folder, "".join(said))


def _path() -> str:
    """Python's path for the processes: this package's folder first."""
    return os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))


def _visible(card: int) -> str:
    """What CUDA_VISIBLE_DEVICES must be for a process to see only one of the cards that are visible here."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return names.split(",")[card] if names else str(card)


def _failure(job: FineTune, output: Path, folder: Path, said: str) -> Exception:
    """Why the processes failed: one that was killed, else what the first one to fail reports."""
    lost = re.search(r"rank\s*:\s*(\d+)[^\n]*\n\s*exitcode\s*:\s*-9\b", said)
    if lost:
        return TrainingError(
            f"{job.name}: process {lost[1]} was killed, most likely by the system for want of memory; free some, or lower "
            f"micro_tokens or processes, then run the same again: {failures.way_on(job, output)}"
        )
    reports = sorted(folder.rglob("error.json"), key=lambda path: path.stat().st_mtime_ns)  # when one fails, others lose it
    if not reports:
        return RuntimeError(f"{job.name}: the processes failed without a word: {said.strip().splitlines()[-1:]}")
    kind, _, text = json.loads(reports[0].read_text(encoding="utf-8"))["message"]["message"].partition(": ")
    return TrainingError(text) if kind.endswith("TrainingError") else RuntimeError(f"{kind}: {text}")


LAUNCHED = "GATEAU_LAUNCHED"  # set by the launcher: standard input ends when it does
