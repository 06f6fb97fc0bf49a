"""What a failed training run says, and what to try next."""

from __future__ import annotations

import errno
import glob
from pathlib import Path

from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.study.errors import TrainingError
from gateau_lib.training import recipe


def way_on(job: recipe.FineTune, output: Path) -> str:
    """What the next try of a run does, in words."""
    saved = output.parent.glob(f"{glob.escape(job.name)}-{'[0-9a-f]' * 12}.checkpoints/checkpoint-*/trainer_state.json")
    return "it goes on from the last checkpoint" if any(saved) else "it begins again, no checkpoint was written"


def explained(job: recipe.FineTune, output: Path, error: Exception) -> Exception:
    """The error as a `TrainingError` that names the run and the way to go on, if it is of a kind that is known here."""
    text, again = str(error), f"then run the same again: {way_on(job, output)}"
    if is_out_of_memory(error):
        now = job.micro_tokens or "a process's whole share"
        ways = [f"lower micro_tokens (now {now})"] + ["set gradient_checkpointing"] * (not job.gradient_checkpointing)
        ways += ["share the model over GPUs (sharding 'fsdp')"] * (job.sharding == "ddp" and job.tuning == "full")
        return TrainingError(f"{job.name}: out of memory; {', or '.join(ways)}; {again}")
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in text or "PytorchStreamWriter failed" in text:
        return TrainingError(f"{job.name}: the disk is full; free some space, {again}")
    return error
