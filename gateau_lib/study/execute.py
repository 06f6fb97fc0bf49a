"""Execute one notebook with papermill: live progress, peak memory, and a copy to read even if it fails."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from gateau_lib.study import manifest, notebooks
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.progress import say
from gateau_lib.study.staleness import RunError, Step, inspect
from gateau_lib.study.store import TRACKED, Study, results_root
from gateau_lib.study.whole_files import atomic_write

KERNEL = "gateau"
DEAD_KERNEL = 138  # exit status
RUNNING, KERNEL_LOG = "running.ipynb", "kernel.log"  # in the folder of a run that goes on


def execute(step: Step, parts: dict[str, str]) -> None:
    """Run a notebook; its executed copy, stamp and manifest entry appear only if every cell ran.

    Args:
        parts: what `Step.parts` gives now.

    Raises:
        RunError: a cell raised (the copy is left as ``NN_name.failed.ipynb``) or the kernel died.
    """
    inspect(step.path)
    before, last = evidence(step), manifest.begin(step)
    start, began = time.monotonic(), time.time()
    with tempfile.TemporaryDirectory(prefix="gateau-") as scratch, PeakMemory() as memory:
        artefacts = _run_cells(step, Path(scratch), memory)
        executed = notebooks.clean(
            notebooks.read(Path(scratch) / RUNNING), notebooks.read(step.path), private_paths()
        )
    for name in (n for n, seen in evidence(step).items() if before.get(n) == seen):
        (step.study.root / name).unlink()  # an earlier version of the notebook wrote it, this one did not
    atomic_write(step.executed, notebooks.write_text(executed))
    seconds = time.monotonic() - start
    manifest.finish(
        step, parts, artefacts, manifest.entry(step, last, artefacts, began, seconds, memory.peak)
    )
    say(f"      done in {seconds:.0f} s, {memory.peak / 2**30:.1f} GB at most")


def _run_cells(step: Step, scratch: Path, memory: PeakMemory) -> list[str]:
    """Run the cells into a copy in ``scratch``; returns the names of the artefacts that they used."""
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    running, log = scratch / RUNNING, scratch / "artefacts"
    log.touch()
    with Live() as live, kernel(scratch, log, live.watched), quiet_when_stopped():
        try:
            execute_notebook(
                str(step.path),
                str(running),
                step.parameters,
                kernel_name=KERNEL,
                language="python",
                cwd=str(PACKAGE.parent),
                progress_bar=False,
                stderr_file=live,
            )
        except PapermillExecutionError as error:
            live.close()
            why = f"{error.ename}: {error.evalue}".splitlines()[0]
            raise RunError(_left(step, running, why)) from None
        except DeadKernelError:
            live.close()
            if said := (scratch / KERNEL_LOG).read_text(errors="replace").rstrip():
                say(said)
            held = f"it held {memory.peak / 2**30:.1f} GB"
            why = f"the kernel died, likely out of memory ({held}); free some or lower the profile"
            raise RunError(_left(step, running, why), DEAD_KERNEL) from None
    return list(dict.fromkeys(log.read_text().split()))


def evidence(step: Step) -> dict[str, tuple[int, int]]:
    """The notebook's files with what changes when a file is written again."""
    found = (p for folder in TRACKED for p in (step.study.root / folder).glob(f"{step.number}_*"))
    return {p.relative_to(step.study.root).as_posix(): (p.stat().st_mtime_ns, p.stat().st_ino) for p in found}


def _left(step: Step, running: Path, why: str) -> str:
    """Keep the failed copy; the message names cell, error and file."""
    executed = notebooks.read(running if running.exists() else step.path)
    place = notebooks.failed_cell(executed)
    atomic_write(
        step.failed,
        notebooks.write_text(notebooks.clean(executed, notebooks.read(step.path), private_paths())),
    )
    line = (
        next((x.strip() for x in notebooks.source(place[1]).splitlines() if x.strip()), "") if place else ""
    )
    where = f"cell {place[0]} ({line[:60]})" if place else "before its first cell"
    shown = f"{step.study.root.name}/notebooks/{step.failed.name}"
    return f"{step.path.name}, {where}: {why}; the copy is {results_root().name}/{shown}"


def private_paths() -> list[tuple[str, str]]:
    """Folders of this machine and what stands for them in a saved copy, longest first."""
    hidden = {
        str(results_root()): "results",
        str(results_root().resolve()): "results",
        str(PACKAGE.parent): ".",
    }
    hidden |= {
        sys.prefix: "<environment>",
        sys.base_prefix: "<python>",
        tempfile.gettempdir(): "<tmp>",
        str(Path.home()): "~",
    }
    return sorted(((k, v) for k, v in hidden.items() if len(k) > 3), key=lambda pair: -len(pair[0]))


@contextmanager
def kernel(scratch: Path, log: Path, watched: bool) -> Iterator[None]:
    """Make a kernel of the running interpreter findable, and set the environment that notebooks see."""
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=40"]
    # What the kernel itself says, not its cells, is shown only when it dies: Ctrl-C makes it say a lot.
    command = ["/bin/sh", "-c", 'exec "$@" 2>>"$0"', str(scratch / KERNEL_LOG), *command]
    spec = {"argv": command, "display_name": KERNEL, "language": "python"}
    atomic_write(scratch / "kernels" / KERNEL / "kernel.json", json.dumps(spec))
    path = os.environ.get("PYTHONPATH")
    new = {
        "JUPYTER_PATH": str(scratch),
        "IPYTHONDIR": str(scratch / "ipython"),  # no start-up files or history of the user's
        "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{path}" if path else str(PACKAGE.parent),
        "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's, of a widget
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "GATEAU_RESULTS": str(results_root().resolve()),
        "GATEAU_ARTEFACT_LOG": str(log),
    } | ({"GATEAU_PROGRESS_SECONDS": "1"} if watched else {})
    old = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def quiet_when_stopped() -> Iterator[None]:
    """Keep Ctrl-C to the runner's own line; the kernel's client would report at length that it ended."""
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        for name in ("asyncio", "papermill"):
            logging.getLogger(name).disabled = True
        raise KeyboardInterrupt

    if before is signal.default_int_handler:  # else somebody has decided what Ctrl-C does, nohup for one
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Live:
    """What the kernel writes to stderr: one line in place on a terminal, whole lines elsewhere."""

    def __init__(self) -> None:
        self.watched = sys.stderr.isatty()
        self._rest = ""

    def write(self, text: str) -> None:
        """Take text as the kernel sent it, cut anywhere."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            line = (
                line.rstrip("\r").rpartition("\r")[2].rstrip()
            )  # a bar that redraws itself shows its last state
            if line and self.watched:
                print(f"\r\x1b[K      {line[:110]}", end="", file=sys.stderr, flush=True)
            elif line:
                say(f"      {line}")

    def flush(self) -> None:
        """Nothing is held back but an unfinished line."""

    def close(self) -> None:
        """Clear the line in place."""
        if self.watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class PeakMemory:
    """Highest resident memory of all processes below this one, in bytes, sampled five times a second."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(0.2):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:  # it ended meanwhile
                    continue
            self.peak = max(self.peak, total)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()


def bring_up_to_date(todo: Sequence[Step]) -> int:
    """Run the stale notebooks in order; returns how many ran.

    Raises:
        RunError: a notebook failed; those before it are done and stay.
    """
    ran = 0
    for place, step in enumerate(todo, 1):
        parts = step.parts()
        if reasons := step.stale(parts):
            more = f" (and {len(reasons) - 1} more)" if reasons[1:] else ""
            say(f"[{place}/{len(todo)}] {step.name}: {reasons[0]}{more}")
            execute(step, parts)
            ran += 1
        else:
            manifest.refresh_prose(step)
    return ran


@contextmanager
def only_run(study: Study) -> Iterator[None]:
    """Hold the study's folder; a second run of the same profile would write the same files."""
    with (study.cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"another run of profile {study.profile.name} is going on; wait for it or stop it"
            ) from None
        yield
