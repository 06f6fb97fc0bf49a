"""What a command is about to write, checked before any work: never an input, never in a folder's place."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from gateau_lib.study.errors import DataError


def check_out(out: Path, inputs: Iterable[Path], beside: Sequence[Path], parts: Path | None = None) -> None:
    """Raise DataError if a command that is given ``--out`` would replace an input, or cannot write there.

    ``inputs``: files that it reads, links followed; ``beside``: files that it writes along with ``out``;
    ``parts``: a folder of its own that it keeps unfinished work in.
    """
    inputs = list(inputs)
    for path in (out, *beside):
        named = "this" if path == out else f"{path} beside it"
        if path.is_dir():
            raise DataError(f"--out {out}: {named} is a folder; give the name of a file")
        if any(same_file(path, each) for each in inputs):
            raise DataError(f"--out {out}: {named} is an input; give another name")
    if parts and parts.exists() and not parts.is_dir():
        raise DataError(
            f"--out {out}: {parts} beside it is a file where a folder is needed; give another name"
        )
    for inside in (each for each in inputs if parts and _real(parts) in _real(each).parents):
        why = f"the input {inside} lies in {parts}, which is for unfinished work"
        raise DataError(f"--out {out}: {why}; give another name")


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, through links or not; also where there is none yet."""
    return _real(a) == _real(b) or (a.exists() and b.exists() and a.samefile(b))


def _real(path: Path) -> Path:
    # Path.resolve raises for links that lead in a circle.
    return Path(os.path.realpath(path))
