"""What processes tell the one that launched them: steps done and failures, as lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Set by `launch` for its processes, whose standard input ends when it does: the folder of their reports.
LAUNCHED = "GATEAU_LAUNCHED"
STEPS = "steps.jsonl"  # of the first process: ``run``; in a run's first line also the number of its ``steps``
# ``known`` (whether it is a `TrainingError`) and ``text``, the first failure first.
FAILURES = "failures.jsonl"


def launched() -> bool:
    """Whether this process is one that `launch` has started."""
    return LAUNCHED in os.environ


def add(file: str, **record: Any) -> None:
    """Append a record to a file of reports, if somebody waits for it."""
    if launched():
        with (Path(os.environ[LAUNCHED]) / file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")


def counted(steps: range, run: str) -> Iterator[int]:
    """The steps of a run; each is reported when the next one is asked for."""
    add(STEPS, run=run, steps=len(steps))
    for step in steps:
        yield step
        add(STEPS, run=run)


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, none if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
