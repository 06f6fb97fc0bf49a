"""One process of a training run: ``python -m gateau_lib.train JOB.json OUT``, or of several, one after the other.

`gateau_lib.launch` starts as many as a job asks for. Over several machines, start it with ``torch.distributed.run`` or
``accelerate launch`` (their ``-m`` form) on each of them; ``JOB.json`` is what `recipe.to_json` writes, and both paths lie on a
file system that all machines see.
"""

from __future__ import annotations

import argparse
import errno
import glob
import os
import sys
import threading
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import record

from gateau_lib import recipe, sft, trainer
from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.study import devices
from gateau_lib.study.devices import release_gpu
from gateau_lib.study.outputs import same_file

LAUNCHED = "GATEAU_LAUNCHED"  # set by the launcher: standard input ends when it does


class TrainingError(RuntimeError):
    """A run that failed; the message says why and how to go on."""


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


def _end_with_launcher() -> None:
    """Leave at once when the launcher is gone: a run without one must not write beside the next try of the same."""
    while os.read(0, 1024):
        pass
    os._exit(1)


@record
def main(arguments: list[str] | None = None) -> None:
    """Train this process's part of each job."""
    parser = argparse.ArgumentParser(prog="python -m gateau_lib.train", description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, nargs="+", metavar="JOB.json OUT", help="a run as JSON, a folder for its model")
    places = parser.parse_args(arguments).work
    if len(places) % 2:
        parser.error(f"{places[-1]} has no folder for its model; give JOB.json OUT, once or several times")
    work = [(recipe.from_json(job.read_text(encoding="utf-8")), out) for job, out in zip(places[::2], places[1::2], strict=True)]
    for job, out in work:
        if same_file(out, Path(job.base)):
            parser.error(f"{out}: is the model that run {job.name} begins with; give another folder")
        if out.is_file():
            parser.error(f"{out}: is a file; give a folder")
    if os.environ.get(LAUNCHED):
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    if devices.device().type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    else:  # accelerate would otherwise take each process for the only one
        os.environ["ACCELERATE_USE_CPU"] = "true"
    for number, (job, out) in enumerate(work, 1):
        try:
            sft.fine_tune(job, out)
        except Exception as error:
            raise explained(job, out, error) from error
        if len(work) > 1 and trainer.world()[1] == 0:
            print(f"trained {number} of {len(work)}: {job.name}", file=sys.stderr, flush=True)
        release_gpu()  # the model of one run must not stand beside that of the next
    if distributed.is_initialized():  # or some runs abort at exit
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
