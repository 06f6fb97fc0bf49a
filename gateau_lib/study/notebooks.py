"""Notebooks as data: their code for hashing, and executed copies without what differs between equal runs."""

import ast
import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateau_lib.study.code_hash import digest
from gateau_lib.study.errors import UserError

Notebook = dict[str, Any]
Cell = dict[str, Any]

INJECTED = "injected-parameters"  # papermill's tag on the cell that sets this run's parameters
BANNER = "papermill-error-cell-tag"
NEXT_CELL = "\n__next_cell__\n"


class NotebookError(UserError):
    """A notebook that cannot be used as it is; the message names the file, the cell and the fix."""


def read(path: Path) -> Notebook:
    """A notebook file as plain JSON; NotebookError if missing, not JSON, or not a version 4 notebook."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise NotebookError(f"{path.name}: cannot be read ({error}); restore it from git") from None
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4:
        raise NotebookError(f"{path.name}: not a version 4 notebook; open it in JupyterLab and save it")
    return notebook


def write_text(notebook: Notebook) -> str:
    """The file content that nbformat would write."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def source(cell: Cell) -> str:
    """A cell's text."""
    return "".join(cell["source"])


def tags(cell: Cell) -> list[str]:
    """A cell's tags."""
    return list(cell.get("metadata", {}).get("tags", []))


def _code(notebook: Notebook) -> list[tuple[int, Cell]]:
    """Code cells and their numbers, from 1, as in the source: without what papermill adds."""
    written = (c for c in notebook["cells"] if not {INJECTED, BANNER} & set(tags(c)))
    return [(number, c) for number, c in enumerate(written, 1) if c["cell_type"] == "code"]


def code_cells(notebook: Notebook) -> list[Cell]:
    """Code cells as in the source notebook, so without the injected parameters."""
    return [cell for _, cell in _code(notebook)]


def code(notebook: Notebook, name: str) -> str:
    """All code as one text, with cell borders, magics as assignments; NotebookError: a cell is no Python."""
    texts = []
    for number, cell in _code(notebook):
        text = re.sub(r"(?m)^(\s*)([%!].*)$", lambda m: f"{m[1]}__magic__ = {m[2]!r}", source(cell))
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise NotebookError(f"{name}: cell {number}, line {error.lineno}: {error.msg}") from None
        texts.append(text)
    return NEXT_CELL.join(texts)


def text_hash(notebook: Notebook) -> str:
    """Hash of everything a reader sees of a source notebook."""
    return digest(json.dumps([[c["cell_type"], source(c), tags(c)] for c in notebook["cells"]]))


def clean(executed: Notebook, original: Notebook, hide: Sequence[tuple[str, str]] = ()) -> Notebook:
    """An executed copy that two equal runs write byte for byte alike.

    No times, random ids, stderr, memory addresses or papermill's banner; metadata as in ``original``; in
    outputs the pairs ``hide`` of (text, replacement) are replaced: paths of this machine.
    """
    kept = {c["id"]: c for c in original["cells"] if "id" in c}
    cells: list[Cell] = []
    tables: dict[str, str] = {}  # new names of styled tables
    for number, cell in enumerate(c for c in executed["cells"] if BANNER not in tags(c)):
        cell = dict(cell)
        if INJECTED in tags(cell):
            cell |= {"id": INJECTED, "metadata": {"tags": [INJECTED]}}
        elif cell.get("id") in kept:
            cell["metadata"] = kept[cell["id"]].get("metadata", {})
        else:  # written before cells had ids
            cell |= {"id": f"cell-{number}", "metadata": {"tags": tags(cell)} if tags(cell) else {}}
        if cell["cell_type"] == "code":
            cell["outputs"] = _stable(_merge(cell["outputs"]), hide, tables)
        cells.append(cell)
    return {"cells": cells, "metadata": original["metadata"], "nbformat": 4, "nbformat_minor": 5}


def _merge(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs without stderr, printed text in one piece however the kernel cut it."""
    merged: list[dict[str, Any]] = []
    for output in (each for each in outputs if each.get("name") != "stderr"):
        if merged and merged[-1]["output_type"] == output["output_type"] == "stream":
            text = "".join(merged[-1]["text"]) + "".join(output["text"])
            merged[-1] = merged[-1] | {"text": text.splitlines(keepends=True)}
        else:
            merged.append(output)
    return merged


def _stable(value: Any, hide: Sequence[tuple[str, str]], tables: dict[str, str]) -> Any:
    """A value without what differs from run to run; ``tables`` keeps the numbers of styled tables."""
    if isinstance(value, str):
        for text, replacement in hide:
            value = value.replace(text, replacement)
        # A number each, not one name for all: a page's style sheet colours every table of that name.
        for name in re.findall(r"\bT_[0-9a-f]{5}(?=[_\s\"{])", value):
            value = value.replace(name, tables.setdefault(name, f"T_table{len(tables) + 1}"))
        return re.sub(r"\bat 0x[0-9a-f]{6,}", "at 0x0", value)
    if isinstance(value, list):
        return [_stable(v, hide, tables) for v in value]
    if isinstance(value, dict):
        return {k: _stable(v, hide, tables) for k, v in value.items() if k != "transient"}
    return value


def with_outputs(original: Notebook, executed: Notebook) -> Notebook:
    """``original`` with the outputs of an executed copy of the same code: only prose or comments changed."""
    fresh = copy.deepcopy(original)
    for cell, done in zip(code_cells(fresh), code_cells(executed), strict=True):
        cell["outputs"], cell["execution_count"] = done["outputs"], done["execution_count"]
    for injected in (c for c in executed["cells"] if INJECTED in tags(c)):
        place = next(i for i, c in enumerate(fresh["cells"]) if "parameters" in tags(c))
        fresh["cells"].insert(place + 1, injected)
    return clean(fresh, original)


def failed_cell(executed: Notebook) -> tuple[int, Cell] | None:
    """Number (from 1, as in the source) and content of the cell that raised or took the kernel with it."""
    states = [(cell[1].get("metadata", {}).get("papermill", {}), cell) for cell in _code(executed)]
    begun = [(state, cell) for state, cell in states if state.get("status", "pending") != "pending"]
    raised = [cell for state, cell in begun if state.get("exception")]
    return next(iter(raised or [cell for _, cell in begun[-1:]]), None)
