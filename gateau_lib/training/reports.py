"""What processes tell the one that launched them, as lines of JSON; what a failed run says."""

from __future__ import annotations

import errno
import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.study.errors import TrainingError
from gateau_lib.training.recipe import FineTune

# Set by `fine_tuning` for its processes, whose standard input ends when it does: the folder of their reports.
LAUNCHED = "GATEAU_LAUNCHED"
STEPS = "steps.jsonl"  # of the first process: ``run``; in a run's first line also the number of its ``steps``
# ``known`` (whether it is a `TrainingError`) and ``text``, the first failure first.
FAILURES = "failures.jsonl"


def launched() -> bool:
    """Whether this process is one that `fine_tuning` has started."""
    return LAUNCHED in os.environ


def _add(file: str, **record: Any) -> None:
    """Append a record to a file of reports, if somebody waits for it."""
    if launched():
        with (Path(os.environ[LAUNCHED]) / file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")


def counted(steps: range, run: str) -> Iterator[int]:
    """The steps of a run; each is reported when the next one is asked for."""
    _add(STEPS, run=run, steps=len(steps))
    for step in steps:
        yield step
        _add(STEPS, run=run)


def failed(job: FineTune, output: Path, error: Exception) -> Exception:
    """The error `explained`, after the process that launched this one has been told."""
    known = explained(job, output, error)
    is_known = isinstance(known, TrainingError)
    _add(FAILURES, known=is_known, text=str(known) if is_known else f"{type(known).__name__}: {known}")
    return known


def explained(job: FineTune, output: Path, error: Exception) -> Exception:
    """The error as a `TrainingError` that names the run and what to do, if its kind is known here."""
    again = f"then run the same again: {next_try(job, output)}"
    if is_out_of_memory(error):
        now = job.micro_tokens or "a process's whole share"
        ways = [f"lower micro_tokens (now {now})"]
        if not job.gradient_checkpointing:
            ways.append("set gradient_checkpointing")
        if job.sharding == "ddp" and job.tuning == "full":
            ways.append("share the model over GPUs (sharding 'fsdp')")
        return TrainingError(f"{job.name}: out of memory; {', or '.join(ways)}; {again}")
    # safetensors and torch wrap the system's error and keep no more of it than words.
    words = ("No space left on device", "PytorchStreamWriter failed")
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_full or any(each in str(error) for each in words):
        return TrainingError(f"{job.name}: the disk is full; free some space, {again}")
    return error


def next_try(job: FineTune, output: Path) -> str:
    """What the next try of a run does, in words."""
    checkpoint = f"{'[0-9a-f]' * 12}.checkpoints/checkpoint-*/trainer_state.json"
    if any(output.parent.glob(f"{glob.escape(job.name)}-{checkpoint}")):
        return "it goes on from the last checkpoint"
    return "it begins again, no checkpoint was written"
