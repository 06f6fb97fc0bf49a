"""The course (`notebooks/course`): its data, checks that say what is wrong, stubs made of solutions.

Data are what notebook 06 left for the explorer, so nothing is trained and no model is read.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd

from gateau_lib.experiments import explorer
from gateau_lib.study.errors import UserError
from gateau_lib.study.store import results_root

BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
STUB = 'raise RuntimeError("your turn")'
Case = tuple[tuple[Any, ...], Any]  # arguments, expected


class CourseError(UserError):
    """The data of the course are missing; the message has the fix."""


def explored(results: Path | None = None) -> dict[str, Any]:
    """What the explorer shows, see `explorer.collect`; ``results``: by default this repository's."""
    path = (results or results_root()) / "cpu" / "tables" / f"{explorer.FILE}.json"
    if not path.exists():
        raise CourseError(f"{path}: not there; it comes with the repository, or from make reproduce")
    return json.loads(path.read_text(encoding="utf-8"))


def pool(results: Path | None = None) -> pd.DataFrame:
    """One scored pool, a row a sample, losses in nats a token.

    ``id, kind, far`` (needs far evidence), ``noise``; ``long`` (long model, everything), ``stretched`` (short
    model, window stretched), ``window`` (long model, last window only); ``nll, attention``: of each segment.
    """
    rows = explored(results)["pool"]
    return pd.DataFrame([{**row, **row.pop("readers")} for row in rows])


def check(function: Callable[..., Any], cases: Iterable[Case], hint: str = "") -> None:
    """Compare a function with what it should give; AssertionError: the first case that differs, a hint."""
    name = getattr(function, "__name__", "your function")
    tail = f"\n{hint}" if hint else ""
    for arguments, expected in cases:
        told = ", ".join(_told(each) for each in arguments)
        found = function(*arguments)
        if found is None:
            raise AssertionError(f"{name}({told}) returns nothing; does it end with a return?{tail}")
        if np.shape(found) != np.shape(expected):
            shapes = f"shape {np.shape(found)}, expected {np.shape(expected)}"
            raise AssertionError(f"{name}({told}) has {shapes}{tail}")
        if not same(found, expected):
            raise AssertionError(f"{name}({told}) gives {_told(found)}, expected {_told(expected)}{tail}")
    print(f"{name}: right")


def same(found: Any, expected: Any) -> bool:
    """Equal, numbers up to rounding."""
    try:
        return bool(np.allclose(found, expected, rtol=1e-4, atol=1e-6))
    except TypeError:
        return bool(np.all(np.asarray(found) == np.asarray(expected)))


def _told(value: Any) -> str:
    """A value in a message: numbers with four digits, of a long vector the first few."""
    if callable(value):
        return str(getattr(value, "__name__", value))
    if np.ndim(value) == 0:
        return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
    first = [_told(each) for each in list(value)[:6]]
    more = [f"... {len(value)} in all"] if len(value) > len(first) else []
    return f"[{', '.join([*first, *more])}]"


def stubs(solution: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The exercises of a notebook with solutions: from `BEGIN` to `END` it is the reader's turn."""
    made = nbformat.from_dict(solution)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.source = without_solution(cell.source)
    return made


def written(folder: Path) -> dict[Path, str]:
    """The exercises of a folder of solutions, path -> text: each beside that folder, under the same name."""
    made = {}
    for path in sorted(folder.glob("*.ipynb")):
        exercise = stubs(nbformat.read(path, as_version=4))
        made[folder.parent / path.name] = json.dumps(exercise, indent=1, ensure_ascii=False) + "\n"
    return made


def without_solution(source: str) -> str:
    """Code with each solution replaced by `STUB`, at its indentation; ValueError: marks that do not pair."""
    lines, kept, inside = source.split("\n"), [], False
    for line in lines:
        mark = line.strip()
        if mark in (BEGIN, END):
            if (mark == BEGIN) == inside:
                raise ValueError(f"{mark} without its other end: {source[:60]!r}")
            inside = mark == BEGIN
            if inside:
                kept.append(line[: len(line) - len(line.lstrip())] + STUB)
        elif not inside:
            kept.append(line)
    if inside:
        raise ValueError(f"{BEGIN} without {END}: {source[:60]!r}")
    return "\n".join(kept)


def beaten(scores: Mapping[str, float], mine: float) -> str:
    """Which published scores a value beats, in a sentence."""
    below = sorted(name for name, value in scores.items() if value < mine)
    return f"AUC {mine:.2f}: it beats {', '.join(below) or 'none of them'}."
