"""The library's reference: a page a room, from the docstrings, read without importing anything."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import gateau_lib

PACKAGE = Path(gateau_lib.__file__).parent


def write(folder: Path) -> None:
    """One page for each room, one for the commands, and the index with the formulas."""
    folder.mkdir(parents=True)
    rooms = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    for room in rooms:
        (folder / f"{room.name}.md").write_text(page(room, f"gateau_lib.{room.name}"), encoding="utf-8")
    (folder / "commands.md").write_text(page(PACKAGE, "gateau_lib", "Commands"), encoding="utf-8")
    (folder / "index.md").write_text(index([room.name for room in rooms]), encoding="utf-8")


def index(rooms: list[str]) -> str:
    """The package's own docstring, which has the index of formulas, and the pages."""
    listed = "\n".join(f"- [`gateau_lib.{room}`]({room}.md)" for room in rooms)
    text = f"# Library\n\n{_block(gateau_lib.__doc__ or '')}\n\n{listed}\n- [the commands](commands.md)\n"
    return text + "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def page(folder: Path, name: str, title: str = "") -> str:
    """All public modules of a folder, with what they define."""
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    parts = [f"# {title or name}", _block(about) if not title else ""]
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("_"):
            parts += module(ast.parse(path.read_text(encoding="utf-8")), path.stem)
    return "\n\n".join(part for part in parts if part) + "\n"


def module(tree: ast.Module, name: str) -> list[str]:
    """A module: its docstring, then each public function and class."""
    parts = [f"## {name}", _block(ast.get_docstring(tree) or "")]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            parts += [
                f"### {node.name}",
                f"```python\n{signature(node)}\n```",
                _block(ast.get_docstring(node) or ""),
            ]
    return parts


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The head of a definition, a parameter a line where it is long."""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}({', '.join(map(ast.unparse, node.bases))})".removesuffix("()")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = ast.unparse(node.args)
    line = f"{node.name}({arguments}){returns}"
    if len(line) <= 90:
        return line
    return f"{node.name}(\n    " + re.sub(r", (?=\*|\w+:)", ",\n    ", arguments) + f"\n){returns}"


def _block(text: str) -> str:
    """A docstring as it stands, since its lines are laid out by hand."""
    return f"```text\n{text}\n```" if text else ""
