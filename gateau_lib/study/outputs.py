"""What a command is about to write, checked before any work: never an input, never in a folder's place."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from gateau_lib.study.errors import DataError
from gateau_lib.study.whole_files import part_of


def check_out(
    out: Path,
    inputs: Iterable[Path],
    beside: Sequence[Path],
    parts: Path | None = None,
    option: str = "--out",
) -> None:
    """Raise DataError if a command that is given ``option`` would replace an input, or cannot write there.

    ``inputs``: files and folders that it reads, links followed; ``beside``: files that it writes along with
    ``out``; ``parts``: a folder of its own that it keeps unfinished work in. Nothing is left, no folder made.
    """
    inputs, called = list(inputs), f"{option} {out}"
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise DataError(f"{called}: its name is no valid Unicode; give another name") from None
    for path in (out, *beside):
        named = "this" if path == out else f"{path} beside it"
        if path.is_dir():
            raise DataError(f"{called}: {named} is a folder; give the name of a file")
        if path.exists() and not path.is_file():
            raise DataError(f"{called}: {named} is a device or a pipe; give the name of a file")
        if any(same_file(path, each) for each in inputs):
            raise DataError(f"{called}: {named} is an input; give another name")
        if around := [each for each in inputs if each.is_dir() and _real(each) in _real(path).parents]:
            raise DataError(f"{called}: {named} lies in the input {around[0]}; give another folder")
    if parts and parts.exists() and not parts.is_dir():
        raise DataError(f"{called}: {parts} beside it is a file where a folder is needed; give another name")
    for inside in (each for each in inputs if parts and _real(parts) in _real(each).parents):
        why = f"the input {inside} lies in {parts}, which is for unfinished work"
        raise DataError(f"{called}: {why}; give another name")
    _check_place([out, *beside], called)


def _check_place(paths: Sequence[Path], called: str) -> None:
    """Raise DataError unless files of these names can be made, each where its folder is or will be."""
    for path in paths:
        there = next(folder for folder in path.absolute().parents if folder.exists())
        if not there.is_dir():
            raise DataError(f"{called}: {there} is a file where a folder is needed; give another name")
        trial = there / part_of(path).name
        try:
            trial.touch()
            trial.unlink()
        except OSError as error:
            why = f"{there} takes no file of that name ({error.strerror})"
            raise DataError(f"{called}: {why}; give another place") from None


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, through links or not; also where there is none yet."""
    return _real(a) == _real(b) or (a.exists() and b.exists() and a.samefile(b))


def _real(path: Path) -> Path:
    # Path.resolve raises for links that lead in a circle.
    return Path(os.path.realpath(path))
