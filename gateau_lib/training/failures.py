"""What a failed training run says, and what to try next."""

from __future__ import annotations

import errno
import glob
from pathlib import Path

from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.study.errors import TrainingError
from gateau_lib.training import reports
from gateau_lib.training.recipe import FineTune


def next_try(job: FineTune, output: Path) -> str:
    """What the next try of a run does, in words."""
    checkpoint = f"{'[0-9a-f]' * 12}.checkpoints/checkpoint-*/trainer_state.json"
    if any(output.parent.glob(f"{glob.escape(job.name)}-{checkpoint}")):
        return "it goes on from the last checkpoint"
    return "it begins again, no checkpoint was written"


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
    if _is_disk_full(error):
        return TrainingError(f"{job.name}: the disk is full; free some space, {again}")
    return error


def reported(job: FineTune, output: Path, error: Exception) -> Exception:
    """The error `explained`, after the process that launched this one has been told."""
    known = explained(job, output, error)
    is_known = isinstance(known, TrainingError)
    text = str(known) if is_known else f"{type(known).__name__}: {known}"
    reports.add(reports.FAILURES, known=is_known, text=text)
    return known


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors and torch wrap the system's error and keep no more of it than words.
    return any(words in str(error) for words in ("No space left on device", "PytorchStreamWriter failed"))
