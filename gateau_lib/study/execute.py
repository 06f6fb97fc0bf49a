"""Execute one notebook with papermill: live progress, peak memory, a clean copy on success, a readable one on failure."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from gateau_lib.study import manifest, notebooks
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.staleness import RunError, Step, computing, finish, inspect, say
from gateau_lib.study.store import Study, built, results_root
from gateau_lib.study.whole_files import atomic_write

KERNEL = "gateau"
DEAD_KERNEL = 138  # exit status


def execute(step: Step) -> None:
    """Run a notebook; its executed copy, stamp and manifest entry appear only if every cell ran.

    Raises:
        RunError: a cell raised (the copy is left as ``NN_name.failed.ipynb``) or the kernel died.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    inspect(step.path)
    parts, before, last = step.parts(), evidence(step), manifest.last_cost(step.study, step.name, step.parameters)
    step.stamp.unlink(missing_ok=True)
    manifest.update(step.study, step.name, None, computing())
    start, began = time.monotonic(), time.time()
    with tempfile.TemporaryDirectory(prefix="gateau-") as scratch, PeakMemory() as memory, Live() as live:
        running, log = Path(scratch) / "running.ipynb", Path(scratch) / "artefacts"
        log.touch()
        try:
            with kernel(Path(scratch), log, live.watched):
                execute_notebook(
                    str(step.path), str(running), step.parameters, kernel_name=KERNEL, language="python",
                    cwd=str(PACKAGE.parent), progress_bar=False, stderr_file=live,
                )  # fmt: skip
        except PapermillExecutionError as error:
            live.close()
            why = f"{error.ename}: {error.evalue}".splitlines()[0]
            raise RunError(_left(step, running, why)) from None
        except DeadKernelError:
            live.close()
            why = f"the kernel died, likely out of memory (it held {memory.peak / 2**30:.1f} GB); free some or lower the profile"
            raise RunError(_left(step, running, why), DEAD_KERNEL) from None
        artefacts = list(dict.fromkeys(log.read_text().split()))
        executed = notebooks.clean(notebooks.read(running), notebooks.read(step.path), private_paths())
    for name in (n for n, seen in evidence(step).items() if before.get(n) == seen):
        (step.study.root / name).unlink()  # an earlier version of the notebook wrote it, this one did not
    atomic_write(step.executed, notebooks.write_text(executed))
    seconds, reused = time.monotonic() - start, reused_seconds(step, artefacts, began)
    cost = {"seconds": round(seconds + reused, 1), "peak_memory_mb": round(memory.peak / 2**20)}
    if reused:
        cost = {name: max(value, last.get(name, 0)) for name, value in cost.items()}
    finish(step, parts, artefacts, {"parameters": step.parameters, "reused_seconds": round(reused, 1)} | cost)
    say(f"      done in {seconds:.0f} s, {memory.peak / 2**30:.1f} GB at most")


def evidence(step: Step) -> dict[str, tuple[int, int]]:
    """The notebook's files with what changes when a file is written again."""
    found = (p for folder in manifest.TRACKED for p in (step.study.root / folder).glob(f"{step.number}_*"))
    return {p.relative_to(step.study.root).as_posix(): (p.stat().st_mtime_ns, p.stat().st_ino) for p in found}


def reused_seconds(step: Step, artefacts: Iterable[str], began: float) -> float:
    """What building took, in wall-clock seconds, for artefacts that a run found ready and that no notebook before it uses.

    Args:
        artefacts: names of those the run used. began: of the run, in seconds since the epoch.
    """
    earlier = {name for before in step.upstream for name in before.last().get("artefacts", ())}
    spans = [built(step.study.cache / name) for name in artefacts if name not in earlier]
    return covered(span for span in spans if span[0] < began)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Time inside at least one span: what was built side by side, or one inside the other, counts once."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _left(step: Step, running: Path, why: str) -> str:
    """Keep the failed copy; the message names cell, error and file."""
    executed = notebooks.read(running if running.exists() else step.path)
    place = notebooks.failed_cell(executed)
    atomic_write(step.failed, notebooks.write_text(notebooks.clean(executed, notebooks.read(step.path), private_paths())))
    line = next((x.strip() for x in notebooks.source(place[1]).splitlines() if x.strip()), "") if place else ""
    where = f"cell {place[0]} ({line[:60]})" if place else "before its first cell"
    shown = f"{step.study.root.name}/notebooks/{step.failed.name}"
    return f"{step.path.name}, {where}: {why}; the copy is {results_root().name}/{shown}"


def private_paths() -> list[tuple[str, str]]:
    """Folders of this machine and what stands for them in a saved copy, longest first."""
    hidden = {str(results_root()): "results", str(results_root().resolve()): "results", str(PACKAGE.parent): "."}
    hidden |= {sys.prefix: "<environment>", sys.base_prefix: "<python>", tempfile.gettempdir(): "<tmp>", str(Path.home()): "~"}
    return sorted(((k, v) for k, v in hidden.items() if len(k) > 3), key=lambda pair: -len(pair[0]))


@contextmanager
def kernel(scratch: Path, log: Path, watched: bool) -> Iterator[None]:
    """Make a kernel of the running interpreter findable, whatever is installed on the machine, and set what notebooks see."""
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=40"]
    spec = {"argv": command, "display_name": KERNEL, "language": "python"}
    atomic_write(scratch / "kernels" / KERNEL / "kernel.json", json.dumps(spec))
    path = os.environ.get("PYTHONPATH")
    new = {
        "JUPYTER_PATH": str(scratch),
        "IPYTHONDIR": str(scratch / "ipython"),  # no start-up files or history of the user's
        "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{path}" if path else str(PACKAGE.parent),
        "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm, about a widget that a saved copy could not show
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


class Live:
    """What the kernel writes to stderr, as it comes: one line in place on a terminal, whole lines elsewhere."""

    def __init__(self) -> None:
        self.watched = sys.stderr.isatty()
        self._rest = ""

    def write(self, text: str) -> None:
        """Take text as the kernel sent it, cut anywhere."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            line = line.rstrip("\r").rpartition("\r")[2].rstrip()  # a bar that redraws itself shows its last state
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
        if reasons := step.stale():
            say(f"[{place}/{len(todo)}] {step.name}: {reasons[0]}{f' (and {len(reasons) - 1} more)' if reasons[1:] else ''}")
            execute(step)
            ran += 1
        else:
            refresh_prose(step)
    return ran


def refresh_prose(step: Step) -> None:
    """Bring the executed copy's text up to date when only prose or comments changed: no code ran differently."""
    last, original = step.last(), notebooks.read(step.path)
    if last["text"] != notebooks.text_hash(original):
        copy = notebooks.with_outputs(original, notebooks.read(step.executed))
        atomic_write(step.executed, notebooks.write_text(copy))
        say(f"      {step.name}: text updated, nothing to compute")
        entry = manifest.read(step.study)["notebooks"].get(step.name, {})
        finish(step, last["parts"], last["artefacts"], entry)


@contextmanager
def only_run(study: Study) -> Iterator[None]:
    """Hold the study's folder; a second run of the same profile would write the same files."""
    with (study.cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"another run of profile {study.profile.name} is going on; wait for it or stop it") from None
        yield
