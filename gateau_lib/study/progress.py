"""Progress of long loops: a bar on a terminal, a plain line now and then everywhere else."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from operator import length_hint
from typing import TypeVar

CHANGES_NO_RESULT = True  # it tells a waiting person how far the work is
QUIET_SECONDS = 3.0  # work shorter than this says nothing
log = logging.getLogger(__name__)
Item = TypeVar("Item")


def track(iterable: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of ``iterable`` and report on stderr how far the loop is.

    Work under three seconds is silent. Without a terminal (a notebook's kernel, a log file) a line appears
    every ten seconds, or every ``GATEAU_PROGRESS_SECONDS``.
    """
    total = length_hint(iterable) or None if total is None else total
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(iterable, desc=label, total=total, delay=QUIET_SECONDS, leave=False, file=sys.stderr)
        return
    pace = float(os.environ.get("GATEAU_PROGRESS_SECONDS", 10))
    start, said, done = time.monotonic(), 0.0, 0
    for done, item in enumerate(iterable, 1):
        yield item  # what the loop's body costs is seen when it asks for the next item
        spent = time.monotonic() - start
        if spent > QUIET_SECONDS and (not said or spent - said > pace):
            said = spent
            of = f"/{total}" if total else ""
            left = f", about {_clock(spent / done * (total - done))} left" if total and total > done else ""
            say(f"{label}: {done}{of}, {_clock(spent)} gone{left}")
    if said:
        say(f"{label}: {done} done in {_clock(time.monotonic() - start)}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def say(line: str) -> None:
    """One line for the person who waits: by logging where a command set it up, else on standard error."""
    if log.hasHandlers() and log.isEnabledFor(logging.INFO):
        log.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)
