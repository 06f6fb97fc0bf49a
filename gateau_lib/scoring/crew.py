"""Who scores: this process, some processes of this machine, or (`ray_crew`) workers of a Ray cluster.

A crew holds the models of one run and knows nothing of what is read with them: ``each(function, work)`` calls
``function(job, pair, *arguments)`` for all of ``work``, wherever a worker is free. Functions go by name.
"""

import logging
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from gateau_lib.models.pair import Pair
from gateau_lib.scoring.part_files import Job
from gateau_lib.scoring.settings import ScoringRun
from gateau_lib.study import devices
from gateau_lib.study.command import messages_shown
from gateau_lib.study.errors import ScoreError, UserError, reason
from gateau_lib.study.workers import end_with_parent

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Begin = Callable[[ScoringRun], tuple[Job, Pair]]  # what a worker calls first, once
CHANGES_NO_RESULT = True  # whoever scores, the rows are the same
RETRIES = 3  # times that a worker may die before the run gives up
DIED = (
    f"a worker died {RETRIES + 1} times, most likely out of memory; finished shards are kept, "
    "give fewer --workers"
)


class Crew(Protocol):
    """Whoever scores; ``job`` is the run as a first worker sees it."""

    job: Job

    def each(self, function: Callable[..., Result], work: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """What the function returns for each of ``work``, in any order."""


class Scorer:
    """One worker; its first call loads the models, so that a fault of theirs is that call's error."""

    def __init__(self, run: ScoringRun, begin: Begin) -> None:
        self.run, self.begin = run, begin

    @cached_property
    def begun(self) -> tuple[Job, Pair]:
        return self.begin(self.run)

    def job(self) -> Job:
        """The run as this worker sees it."""
        return self.begun[0]

    def call(self, job: Job, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call the function; ScoreError if models or code here are not the first worker's."""
        mine, pair = self.begun
        if differing := [name for name in mine.made_by if job.made_by.get(name) != mine.made_by[name]]:
            machine, what = f"machine {socket.gethostname()}", ", ".join(differing)
            fix = "install the same on all machines"
            raise ScoreError(f"{machine} differs from the first worker's in: {what}; {fix}")
        return function(job, pair, *arguments)


class Here:
    """A crew of this process alone."""

    def __init__(self, run: ScoringRun, begin: Begin) -> None:
        self.scorer = Scorer(run, begin)
        self.job = self.scorer.job()

    def each(self, function: Callable[..., Result], work: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """`Crew.each`, one after the other."""
        return (self.scorer.call(self.job, function, *arguments) for arguments in work)


class Worker:
    """A fresh process with a `Scorer`; it is begun by the first call, and again when it died over one."""

    def __init__(self, run: ScoringRun, begin: Begin) -> None:
        self.told = Path.cwd(), run, begin
        self.running, self.deaths = False, 0

    def ask(self, call: tuple[Any, ...]) -> None:
        """Send a call, a method of `Scorer` by name and its arguments; `pipe` is ready when it is done."""
        self.asked = call
        if not self.running:
            spawn = get_context("spawn")  # CUDA and torch's threads do not stand a fork
            self.pipe, theirs = spawn.Pipe()
            self.process = spawn.Process(target=_serve, args=(theirs, *self.told), daemon=True)
            resource_tracker.ensure_running()  # else it begins with the process, and then lets signals in
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # Ctrl-C is for this process
            self.process.start()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            self.running = True
        with suppress(OSError):  # it is dead, which `answer` will find
            self.pipe.send(call)

    def answer(self) -> tuple[Any] | None:
        """What the call returned, or None: the worker died, and was begun again with the same call.

        Raises what the call raised; ScoreError: it died too often.
        """
        try:
            result, error = self.pipe.recv()
        except (EOFError, OSError):
            self.end()
            self.deaths += 1
            if self.deaths > RETRIES:
                raise ScoreError(DIED) from None
            how = f"a worker died (status {self.process.exitcode}), most likely out of memory"
            log.warning("%s; it begins its shard again", how)
            self.ask(self.asked)
            return None
        if error is not None:
            raise error
        return (result,)

    def end(self) -> None:
        """Kill the process: what it has finished is on disk."""
        if self.running:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.running = False


def _serve(pipe: Connection, folder: Path, run: ScoringRun, begin: Begin) -> None:
    """Answer calls, in a process of its own, for as long as somebody asks."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.chdir(folder)
    scorer = Scorer(run, begin)
    with messages_shown(), suppress(EOFError, ConnectionError):
        while True:
            name, *arguments = pipe.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = getattr(scorer, name)(*arguments), None
            except UserError as error:
                answer = None, error
            except OSError as error:  # a library's own kind may not be one that can be sent
                answer = None, OSError(error.errno, error.strerror or reason(error), error.filename)
            except Exception:
                answer = None, RuntimeError(f"in a worker:\n{traceback.format_exc()}")
            pipe.send(answer)


class Processes:
    """A crew of some processes of this machine."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers
        self.job: Job = [*self._done(("job",) for _ in workers)][0]  # all load at once

    def each(self, function: Callable[..., Result], work: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """`Crew.each`, in the order in which they are done."""
        return self._done(("call", self.job, function, *arguments) for arguments in work)

    def _done(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """A call for every worker, and the next one for each that is done."""
        waiting, busy = iter(calls), list[Worker]()
        for worker, call in zip(self.workers, waiting, strict=False):
            worker.ask(call)
            busy.append(worker)
        while busy:
            ready = wait([worker.pipe for worker in busy])
            for worker in [each for each in busy if each.pipe in ready]:
                if (answer := worker.answer()) is None:
                    continue
                busy.remove(worker)
                if (another := next(waiting, None)) is not None:
                    worker.ask(another)
                    busy.append(worker)
                yield answer[0]


@contextmanager
def local(run: ScoringRun, begin: Begin, most: int) -> Iterator[Crew]:
    """This process, or as many as ``--workers`` says and at most ``most``.

    Raises ScoreError: this machine is too small for the workers, or one keeps dying; what ``begin`` raises.
    """
    if run.workers is None:
        yield Here(run, begin)
        return
    workers = [Worker(told, begin) for told in _layout(run, run.workers)[:most]]
    try:
        yield Processes(workers)
    finally:
        for worker in workers:
            worker.end()


def _layout(run: ScoringRun, workers: int) -> list[ScoringRun]:
    """What each worker of this machine is told: a GPU of its own, or its share of the cores."""
    device = run.device or str(devices.device())
    if device.startswith("cuda") and (gpus := torch.cuda.device_count()):
        cards = [device] if ":" in device else [f"cuda:{number}" for number in range(gpus)]
        if workers > len(cards):
            held = f"{len(cards)} GPUs can be used here, one for each worker"
            raise ScoreError(f"--workers {workers}: {held}; give at most that")
        return [replace(run, device=card) for card in cards[:workers]]
    cores = devices.cores()
    threads = run.threads or max(1, cores // workers)
    if workers * threads > cores:
        held = f"this machine has {cores} CPU cores"
        raise ScoreError(f"--workers {workers} of {threads} threads: {held}; give fewer")
    return [replace(run, threads=threads)] * workers
