"""Notebooks as data: their code for hashing, and executed copies without anything that differs
between two equal runs."""

from __future__ import annotations

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
NEXT_CELL = "\n__next_cell__\n"


class NotebookError(UserError):
    """A notebook that cannot be used as it is; the message names the file, the cell and the fix."""


def read(path: Path) -> Notebook:
    """A notebook file as plain JSON.

    Raises:
        NotebookError: missing, not JSON, or not a version 4 notebook.
    """
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
    found: list[str] = cell.get("metadata", {}).get("tags", [])
    return found


def code_cells(notebook: Notebook) -> list[Cell]:
    """Code cells as in the source notebook, so without the injected parameters."""
    return [c for c in notebook["cells"] if c["cell_type"] == "code" and INJECTED not in tags(c)]


def code(notebook: Notebook, name: str) -> str:
    """All code as one Python text in which cell borders still show and magics are plain assignments.

    Raises:
        NotebookError: a cell that is no valid Python.
    """
    texts = []
    for number, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] == "code" and INJECTED not in tags(cell):
            text = re.sub(
                r"^(\s*)([%!].*)$", lambda m: f"{m[1]}__magic__ = {m[2]!r}", source(cell), flags=re.M
            )
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

    No times, no random ids, no stderr, no memory addresses, no error banner of papermill's; metadata as in
    ``original``.

    Args:
        hide: (text, replacement) pairs for machine-specific paths in outputs.
    """
    kept = {c["id"]: c for c in original["cells"] if "id" in c}
    cells: list[Cell] = []
    tables: dict[str, str] = {}  # new names of styled tables
    for number, cell in enumerate(c for c in executed["cells"] if "papermill-error-cell-tag" not in tags(c)):
        cell = dict(cell)
        if INJECTED in tags(cell):
            cell |= {"id": INJECTED, "metadata": {"tags": [INJECTED]}}
        elif cell.get("id") in kept:
            cell["metadata"] = kept[cell["id"]].get("metadata", {})
        else:  # written before cells had ids
            cell["id"] = f"cell-{number}"
            cell["metadata"] = {"tags": tags(cell)} if tags(cell) else {}
        if cell["cell_type"] == "code":
            cell["outputs"] = _stable(_merge(cell["outputs"]), hide, tables)
        cells.append(cell)
    return {"cells": cells, "metadata": original["metadata"], "nbformat": 4, "nbformat_minor": 5}


def _merge(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs without stderr, printed text in one piece however the kernel cut it."""
    merged: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stderr":
            continue
        if output["output_type"] == "stream" and merged and merged[-1]["output_type"] == "stream":
            text = "".join(merged[-1]["text"]) + "".join(output["text"])
            merged[-1] = merged[-1] | {"text": text.splitlines(keepends=True)}
        else:
            merged.append(output)
    return merged


def _stable(value: Any, hide: Sequence[tuple[str, str]], tables: dict[str, str]) -> Any:
    """A value without what differs from run to run; random ids of styled tables become numbers,
    kept in ``tables``."""
    if isinstance(value, str):
        for text, replacement in hide:
            value = value.replace(text, replacement)
        # A number each, not one name for all: a page's style sheet colours every table of that name.
        value = re.sub(
            r"\bT_[0-9a-f]{5}(?=[_\s\"{])",
            lambda m: tables.setdefault(m[0], f"T_table{len(tables) + 1}"),
            value,
        )
        return re.sub(r"\bat 0x[0-9a-f]{6,}", "at 0x0", value)
    if isinstance(value, list):
        return [_stable(v, hide, tables) for v in value]
    if isinstance(value, dict):
        return {k: _stable(v, hide, tables) for k, v in value.items() if k != "transient"}
    return value


def with_outputs(original: Notebook, executed: Notebook) -> Notebook:
    """``original`` with the outputs of an executed copy of the same code,
    for when only prose or comments changed."""
    fresh = copy.deepcopy(original)
    for cell, done in zip(code_cells(fresh), code_cells(executed), strict=True):
        cell["outputs"], cell["execution_count"] = done["outputs"], done["execution_count"]
    for injected in (c for c in executed["cells"] if INJECTED in tags(c)):
        place = next(i for i, c in enumerate(fresh["cells"]) if "parameters" in tags(c))
        fresh["cells"].insert(place + 1, injected)
    return clean(fresh, original)


def failed_cell(executed: Notebook) -> tuple[int, Cell] | None:
    """Number (from 1, as in the source notebook) and content of the cell that raised or took the kernel
    with it, or None."""
    cells = [
        c for c in executed["cells"] if INJECTED not in tags(c) and "papermill-error-cell-tag" not in tags(c)
    ]
    begun = []
    for number, cell in enumerate(cells, 1):
        state = cell.get("metadata", {}).get("papermill", {})
        if cell["cell_type"] == "code" and state.get("status", "pending") != "pending":
            begun.append((number, cell))
            if state.get("exception"):
                return number, cell
    return begun[-1] if begun else None
