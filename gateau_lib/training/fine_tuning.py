"""Fine-tuning runs of a study, each an artefact, and the processes of this machine that train them.

Checkpoints stay after a failure: the same call goes on from the last. Several machines: `gateau_lib.train`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
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
    # Where runs of several conditions are alike but for their names, they are one.
    return Build(job.experiment if job.condition else job.name, fine_tune, {"job": job})


def fine_tune_all(study: Study, jobs: Sequence[FineTune]) -> list[Path]:
    """Folders of all jobs' models, trained or cached; TrainingError: a name twice; JobError: a run failed."""
    if len({job.name for job in jobs}) < len(jobs):
        raise TrainingError("two fine-tuning runs have the same name; give each its own")
    in_turn = devices.gpus() == 1 or any(job.processes != 1 for job in jobs)
    if in_turn:  # processes are started once for all that the cache lacks
        # A folder for each, so what is trained stays when a later one fails.
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
                    build(job).folder(study, partial(_link, stage))
                    shutil.rmtree(stage)  # not before the artefact is whole
    workers = 0 if in_turn else at_once(study.profile)
    return build_all(study, {job.name: build(job) for job in jobs}, workers, "fine-tuning")


def _link(stage: Path, out: Path) -> None:
    """The files of one folder in another, without a second copy where the file system allows it."""

    def link(source: str, to: str) -> None:
        try:
            os.link(source, to)
        except OSError:
            shutil.copy2(source, to)

    shutil.copytree(stage, out, dirs_exist_ok=True, copy_function=link)


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
    Raises TrainingError: a process that was lost, memory or disk that did not suffice: how to go on;
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
    """Train jobs in turn; one start for all of as many processes; the first that fails raises."""
    for count in sorted({processes(job) for job, _ in work}):
        with TemporaryDirectory(prefix="gateau-train-") as folder:
            _run([(job, out) for job, out in work if processes(job) == count], count, Path(folder))


def _run(work: Sequence[tuple[FineTune, Path]], count: int, folder: Path) -> None:
    """Start the processes, show the progress that they report in ``folder``, and raise why they failed."""
    places: list[str] = []
    for place, (job, out) in enumerate(work):
        (path := folder / f"job-{place}.json").write_text(recipe.to_json(job), encoding="utf-8")
        places += [str(path), str(out.absolute())]
    # One server of the run for its processes to meet at; what they print goes to files.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += [f"--nproc-per-node={count}", f"--log-dir={folder}", "--redirects=3"]
    command += ["-m", "gateau_lib.train", *places]
    ours_first = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, reports.LAUNCHED: str(folder), "PYTHONPATH": ours_first, "PYTHONUNBUFFERED": "1"}
    if count == 1 and (device := devices.device()).type == "cuda":
        card, names = device.index or 0, os.environ.get("CUDA_VISIBLE_DEVICES")
        env["GATEAU_DEVICE"] = "cuda"  # a single process sees its card only
        env["CUDA_VISIBLE_DEVICES"] = names.split(",")[card] if names else str(card)
    devices.release_gpu()
    with (folder / OUTPUT).open("wb") as output:
        # Nobody writes to the pipe to its standard input: however this process ends, the others see it close.
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, env=env, **pipes) as run:
            try:
                runs = groupby(_steps(run, folder / reports.STEPS), itemgetter("run"))
                for name, steps in track(runs, "fine-tuning", len(work)) if len(work) > 1 else runs:
                    _show(name, steps)
            except BaseException:
                run.terminate()
                raise
    if run.returncode:
        failed = next(((job, out) for job, out in work if not (out / sft.LOG).exists()), work[-1])
        raise _failure(*failed, folder)


def _show(name: str, steps: Iterator[dict[str, Any]]) -> None:
    """Show how far a run is, by the records of its steps."""
    first = next(steps)
    for _ in track(steps, f"{name}: steps", first["steps"]):
        pass  # the bar is all that is wanted


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


def _failure(job: FineTune, out: Path, folder: Path) -> Exception:
    """Why the processes failed: one that was killed, else what the first one to fail reports."""
    output = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
    # torch tells the exit code of a process in its summary only.
    if lost := re.search(r"rank\s*:\s*(\d+)[^\n]*\n\s*exitcode\s*:\s*-9\b", output):
        why = f"process {lost[1]} was killed, most likely by the system for want of memory"
        fix = "free some, or lower micro_tokens or processes, then run the same again"
        return TrainingError(f"{job.name}: {why}; {fix}: {reports.next_try(job, out)}")
    told = folder / reports.FAILURES
    if lines := told.read_text(encoding="utf-8").splitlines() if told.exists() else []:
        first = json.loads(lines[0])  # when one process fails, others lose it
        return (TrainingError if first["known"] else RuntimeError)(first["text"])
    printed = [path.read_text(errors="replace") for path in sorted(folder.rglob("stderr.log"))]
    last = next((text.strip().splitlines()[-1] for text in [*printed, output] if text.strip()), "nothing")
    return RuntimeError(f"{job.name}: the processes failed before a run began; their last words: {last}")
