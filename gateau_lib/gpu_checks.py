"""Measure what a GPU does with this library, in minutes: each row is kept as soon as it is known."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from gateau_lib.experiments import gpu_card, gpu_record
from gateau_lib.study import devices
from gateau_lib.study.command import command, parser
from gateau_lib.study.errors import UserError
from gateau_lib.study.progress import say

# In order of worth: part -> the module that measures it and its seconds at most.
PARTS = {
    "card": ("gpu_card", 45),
    "passes": ("gpu_passes", 160),
    "agreement": ("gpu_agreement", 100),
    "training": ("gpu_training", 140),
    "study": ("gpu_study", 300),
}
SECONDS = 470  # of all parts together


class NoCard(UserError):
    """No GPU to measure."""


@command("rows measured so far are kept")
def main(words: Sequence[str] | None = None) -> int:
    """Run the parts one after the other; a part that fails or takes too long leaves its reason."""
    line = parser("gpu_checks", __doc__)
    line.add_argument("--tiny", action="store_true", help="tiny shapes, any machine: whether all of it runs")
    line.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all, in order")
    line.add_argument("--commit", default="", help="of a copy of the repository without its history")
    line.add_argument("--seconds", type=float, default=SECONDS, help=f"of all parts (default: {SECONDS})")
    # How a part is run in a process of its own, so that it can be stopped and takes its memory with it.
    line.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    given = line.parse_args(words)
    if given.record:
        _run(given.parts[0], given.record, given.tiny)
        return 0
    if not given.tiny and devices.device().type != "cuda":
        raise NoCard("no GPU that torch can use; on this machine give --tiny (make gpu-checks TINY=1)")
    begin, well = time.monotonic(), True
    said = " ".join(["python -m gateau_lib.gpu_checks", *(sys.argv[1:] if words is None else words)])
    path = gpu_record.start(said, given.tiny, given.parts, given.commit)
    for part in given.parts:
        left = given.seconds - (time.monotonic() - begin)
        limit = left if given.tiny else min(left, PARTS[part][1])  # a busy machine's time costs nothing
        outcome = _in_time(part, path, given.tiny, limit) if left > 5 else "no time was left"
        say(f"{part}: {outcome}")
        well &= outcome == "done"
    print(f"{time.monotonic() - begin:.0f} s, written: {path}")
    return 0 if well else 1


def _in_time(part: str, path: Path, tiny: bool, limit: float) -> str:
    """Run one part in a process of its own; ``done``, or why it did not come to its end."""
    begin, log = time.monotonic(), path.with_suffix(f".{part}.log")
    words = [sys.executable, "-m", "gateau_lib.gpu_checks", "--parts", part, "--record", str(path)]
    # Training asks for deterministic products, which torch makes only if this is said before its first one.
    surroundings = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    if tiny:
        surroundings["OMP_NUM_THREADS"] = "1"  # tiny work is slower on many threads
    with log.open("w", encoding="utf-8") as told:
        try:
            done = subprocess.run(
                [*words, *(["--tiny"] if tiny else [])],
                stdout=told,
                stderr=told,
                timeout=limit,
                check=False,
                env=surroundings,
            )
            outcome = "done" if done.returncode == 0 else f"failed ({done.returncode}): {_last_line(log)}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {limit:.0f} s"
    gpu_record.end_part(path, part, time.monotonic() - begin, outcome)
    if outcome == "done":
        log.unlink()
    return outcome


def _last_line(log: Path) -> str:
    """What a process said last."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _run(part: str, path: Path, tiny: bool) -> None:
    """Measure one part in this process."""
    measure: Callable[..., None] = import_module(f"gateau_lib.experiments.{PARTS[part][0]}").measure
    measure(path, gpu_card.TINY if tiny else gpu_card.SEVEN_B, devices.device())


if __name__ == "__main__":
    sys.exit(main())
