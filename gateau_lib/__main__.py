"""The library's commands by one name: ``gateau COMMAND``, the same as ``python -m gateau_lib.COMMAND``."""

import importlib
import sys

from gateau_lib.study.command import command
from gateau_lib.study.errors import UserError

# Name -> module and what it does. A module is loaded when its command is given: selecting needs no torch.
COMMANDS = {
    "score": ("score", "score the long samples of a data set"),
    "select": ("select", "select samples by their scores"),
    "export": ("export", "write a selection for LLaMA-Factory or TRL"),
    "synthesize": ("synthesis", "make long instruction samples from documents"),
    "run": ("run", "run the study's notebooks, as make does (in a clone of the repository)"),
    "evidence": ("evidence", "the study for many pairs of models, and its verdicts"),
    "jobs": ("jobs", "write a training run for another machine, or take its model into the study"),
    "train": ("train", "train such a run"),
    "bench": ("bench", "measure what scoring costs on this machine"),
    "gpu-checks": ("gpu_checks", "measure what a GPU does with the library, in minutes"),
}


@command()
def main(words: list[str] | None = None) -> int:
    """Give a command its words; alone, list the commands."""
    name, *rest = (sys.argv[1:] if words is None else words) or ["--help"]
    if name in COMMANDS:
        status: int = importlib.import_module(f"gateau_lib.{COMMANDS[name][0]}").main(rest)
        return status
    if name not in ("-h", "--help"):
        raise UserError(f"no command {name!r}: choose one of {', '.join(COMMANDS)}")
    print("gateau COMMAND --help tells what a command takes.\n")
    print(*(f"  gateau {each:10} {does}" for each, (_, does) in COMMANDS.items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
