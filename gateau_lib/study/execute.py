"""Execute one notebook with papermill: live progress, peak memory, and a copy to read even if it fails."""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

from gateau_lib.study import manifest, notebooks
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.progress import say
from gateau_lib.study.staleness import RunError, Step, inspect
from gateau_lib.study.store import TRACKED, results_root
from gateau_lib.study.whole_files import atomic_write

KERNEL = "gateau"
DEAD_KERNEL = 138  # exit status
RUNNING, KERNEL_LOG = "running.ipynb", "kernel.log"  # in the folder of a run that goes on


def execute(step: Step, parts: dict[str, str]) -> None:
    """Run a notebook whose `Step.parts` are ``parts``; record it if every cell ran, else raise RunError."""
    inspect(step.path)
    before, last = _evidence(step), manifest.begin(step)
    start, began = time.monotonic(), time.time()
    with tempfile.TemporaryDirectory(prefix="gateau-") as scratch, peak_memory() as peak:
        artefacts = _run_cells(step, Path(scratch), peak)
        executed = _cleaned(step, notebooks.read(Path(scratch) / RUNNING))
    for name in (n for n, seen in _evidence(step).items() if before.get(n) == seen):
        (step.study.root / name).unlink()  # an earlier version of the notebook wrote it, this one did not
    atomic_write(step.executed, executed)
    seconds = time.monotonic() - start
    manifest.finish(step, parts, artefacts, manifest.entry(step, last, artefacts, began, seconds, peak()))
    say(f"      done in {seconds:.0f} s, {peak() / 2**30:.1f} GB at most")


def _run_cells(step: Step, scratch: Path, peak: Callable[[], int]) -> list[str]:
    """Run the cells into a copy in ``scratch``; returns the names of the artefacts that they used."""
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    running, log = scratch / RUNNING, scratch / "artefacts"
    log.touch()
    try:
        with closing(Live()) as live, kernel(scratch, log, live.watched), quiet_when_stopped():
            how = {"kernel_name": KERNEL, "language": "python", "cwd": str(PACKAGE.parent)}
            files = (str(step.path), str(running))
            execute_notebook(*files, step.parameters, **how, progress_bar=False, stderr_file=live)
    except PapermillExecutionError as error:
        raise RunError(_left(step, running, f"{error.ename}: {error.evalue}".splitlines()[0])) from None
    except DeadKernelError:
        if said := (scratch / KERNEL_LOG).read_text(errors="replace").rstrip():
            say(said)
        held = f"likely out of memory (it held {peak() / 2**30:.1f} GB)"
        why = f"the kernel died, {held}; free some or lower the profile"
        raise RunError(_left(step, running, why), DEAD_KERNEL) from None
    return list(dict.fromkeys(log.read_text().split()))


def _evidence(step: Step) -> dict[str, tuple[int, int]]:
    """The notebook's files with what changes when a file is written again."""
    found = (p for folder in TRACKED for p in (step.study.root / folder).glob(f"{step.number}_*"))
    return {p.relative_to(step.study.root).as_posix(): (p.stat().st_mtime_ns, p.stat().st_ino) for p in found}


def _left(step: Step, running: Path, why: str) -> str:
    """Keep the failed copy; the message names cell, error and file."""
    executed = notebooks.read(running if running.exists() else step.path)
    atomic_write(step.failed, _cleaned(step, executed))
    where = "before its first cell"
    if place := notebooks.failed_cell(executed):
        first = notebooks.source(place[1]).strip().partition("\n")[0].strip()
        where = f"cell {place[0]} ({first[:60]})"
    shown = f"{step.study.root.name}/notebooks/{step.failed.name}"
    return f"{step.path.name}, {where}: {why}; the copy is {results_root().name}/{shown}"


def _cleaned(step: Step, executed: notebooks.Notebook) -> str:
    """The text of an executed copy, with other names for this machine's folders, longest first."""
    hidden = dict.fromkeys((str(results_root()), str(results_root().resolve())), "results")
    hidden |= {str(PACKAGE.parent): ".", sys.prefix: "<environment>", sys.base_prefix: "<python>"}
    hidden |= {tempfile.gettempdir(): "<tmp>", str(Path.home()): "~"}
    longest = sorted(((k, v) for k, v in hidden.items() if len(k) > 3), key=lambda pair: -len(pair[0]))
    return notebooks.write_text(notebooks.clean(executed, notebooks.read(step.path), longest))


@contextmanager
def kernel(scratch: Path, log: Path, watched: bool) -> Iterator[None]:
    """Make a kernel of the running interpreter findable, with the environment that notebooks see."""
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=40"]
    # What the kernel itself says, not its cells, is shown only when it dies: Ctrl-C makes it say a lot.
    command = ["/bin/sh", "-c", 'exec "$@" 2>>"$0"', str(scratch / KERNEL_LOG), *command]
    path = os.environ.get("PYTHONPATH")
    environment = {
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
    plain = {name: value.replace("$", "$$") for name, value in environment.items()}  # no templates
    spec = {"argv": command, "env": plain, "display_name": KERNEL, "language": "python"}
    atomic_write(scratch / "kernels" / KERNEL / "kernel.json", json.dumps(spec))
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = str(scratch)
    try:
        yield
    finally:
        del os.environ["JUPYTER_PATH"]
        if before is not None:
            os.environ["JUPYTER_PATH"] = before


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
            line = line.rstrip("\r").rpartition("\r")[2].rstrip()  # a redrawn bar's last state
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


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Give a function that tells the highest resident memory in bytes of all processes below this one."""
    import psutil

    me, stop, peak = psutil.Process(), threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.2):
            total = 0
            for child in me.children(recursive=True):
                with suppress(psutil.Error):  # it ended meanwhile
                    total += child.memory_info().rss
            peak = max(peak, total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        stop.set()
        thread.join()
