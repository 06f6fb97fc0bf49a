"""One process of training runs, one after the other: ``python -m gateau_lib.train JOB.json OUT``.

`training.fine_tuning` starts as many as a job (`recipe.to_json`) asks for. Over several machines, start it on
each with ``torch.distributed.run`` or ``accelerate launch`` (``-m``); all of them must see both paths.
"""

import os
import sys
import threading
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import record

from gateau_lib.study import devices
from gateau_lib.study.command import command, parser
from gateau_lib.study.errors import TrainingError, reason
from gateau_lib.study.outputs import same_file
from gateau_lib.training import recipe, reports, sft


def _end_with_launcher() -> None:
    """Leave when the launcher is gone: a run without one must not write beside the next try of the same."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def _job(path: Path) -> recipe.FineTune:
    """The run that a file describes."""
    try:
        return recipe.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise TrainingError(
            f"{path}: no run as gateau_lib.jobs --write gives it ({reason(error)})"
        ) from error


@command(kept="checkpoints are kept")
@record
def main(line: list[str] | None = None) -> None:
    """Train this process's part of each job."""
    parse = parser("train", __doc__)
    what = "a run as JSON, a folder for its model"
    parse.add_argument("work", type=Path, nargs="+", metavar="JOB.json OUT", help=what)
    places = parse.parse_args(line).work
    if len(places) % 2:
        parse.error(f"{places[-1]} has no folder for its model; give JOB.json OUT, once or several times")
    work = [(_job(path), out) for path, out in zip(places[::2], places[1::2], strict=True)]
    for job, out in work:
        if same_file(out, Path(job.base)):
            parse.error(f"{out}: is the model that run {job.name} begins with; give another folder")
        if out.is_file():
            parse.error(f"{out}: is a file; give a folder")
    if reports.launched():
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    if devices.device().type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    else:  # accelerate would otherwise take each process for the only one
        os.environ["ACCELERATE_USE_CPU"] = "true"
    for job, out in work:
        try:
            sft.fine_tune(job, out)
        except Exception as error:
            raise reports.failed(job, out, error) from error
        devices.release_gpu()  # the model of one run must not stand beside that of the next
    if distributed.is_initialized():  # or some runs abort at exit
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
