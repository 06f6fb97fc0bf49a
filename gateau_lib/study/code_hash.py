"""Which library code a piece of code depends on, hashed without comments, docstrings and layout.

The unit is the top-level definition: editing one function changes the hash of what calls it, directly or not, and of nothing
else. Names that are looked up at run time cannot be followed, so a module that is used as a value (``getattr(figures, name)``)
or named in a string (``python -m gateau_lib.score``) counts whole. Files of the package that code names (``"claims.yml"``) count
with their bytes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parent.parent
WHOLE, ON_IMPORT = "*", ""
# Modules and definitions that change no result: an edit there must not throw away what was computed. Profiles enter every key by
# their values; `source` and `store.artefact` say what a result is called and when it is made; what `hub` fetches
# counts by its revision.
NOT_FOLLOWED = ("profiles", "progress", "source", "store.artefact", "store.artefact_folder", "hub", "registry")
# The shipped pair enters the keys of what is made from it as an input; a study that trains its own must not depend on it.
NOT_COUNTED = ("tiny_pair",)


class Node(NamedTuple):
    """One definition of one module of the package; "*" is all of the module, "" what runs when it is imported."""

    module: str
    name: str


class Module(NamedTuple):
    """A parsed module: definitions by name, statements that run on import, imported names of this package."""

    definitions: dict[str, list[ast.stmt]]
    on_import: list[ast.stmt]
    aliases: dict[str, Node]


def source_hash(code: Sequence[ModuleType | Any], package: Path = PACKAGE) -> str:
    """Hash of modules, functions or classes of the package and of all they depend on inside it; 64 hex digits.

    Raises:
        ValueError: an item of another package.
    """
    roots = []
    for item in code:
        is_module = isinstance(item, ModuleType)
        module = (item.__name__ if is_module else item.__module__).removeprefix(package.name + ".")
        if _file(module, package) is None:
            raise ValueError(f"{item!r} is not code of {package.name}; pass modules, functions or classes of the package")
        roots.append(Node(module, WHOLE if is_module else item.__qualname__.split(".")[0]))
    return combine(_reach(roots, package))


def text_parts(source: str, package: Path = PACKAGE) -> dict[str, str]:
    """Hashes of a script's or notebook's own code (``"<code>"``) and of each library definition it depends on."""
    tree = _without_docstrings(source)
    roots, files = _uses(tree.body, Module({}, [], _aliases(tree, "", package)), "", package)
    return {"<code>": digest(_plain(tree.body))} | _reach(roots, package) | _hashes(files, package)


def combine(parts: dict[str, str]) -> str:
    """One hash of many named ones."""
    return digest(json.dumps(sorted(parts.items())))


def digest(data: str | bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def path_hash(path: Path) -> str:
    """Hash of a file's bytes, or of the names and bytes of all files below a folder."""
    if not path.is_dir():
        with path.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return digest(json.dumps([[p.relative_to(path).as_posix(), path_hash(p)] for p in files]))


def _file(module: str, package: Path) -> Path | None:
    """The file of a module given without the package's name."""
    base = package.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if module and p.is_file()), None)


def _reach(roots: Iterable[Node], package: Path) -> dict[str, str]:
    """Hashes of every definition and package file that the roots lead to."""
    parts: dict[str, str] = {}
    todo, seen = list(roots), set()
    while todo:
        node = todo.pop()
        file = _file(node.module, package)
        if node in seen or file is None or {node.module, f"{node.module}.{node.name}"} & set(NOT_FOLLOWED):
            continue
        seen.add(node)
        part, nodes, files = _definition(file.read_text(encoding="utf-8"), node, package)
        if part:
            parts[f"{node.module}.{node.name}".rstrip(".")] = part
        todo += nodes
        parts |= _hashes(files, package)
    return parts


@lru_cache(maxsize=4096)  # eight notebooks lead to the same definitions
def _definition(text: str, node: Node, package: Path) -> tuple[str, list[Node], list[str]]:
    """Hash of one definition, the definitions it leads to, and the package files it names."""
    module = _parse(text, node.module, package)
    if node.name == ON_IMPORT:
        statements, leads = module.on_import, []
    elif node.name in module.definitions:
        statements, leads = module.definitions[node.name], [Node(node.module, ON_IMPORT)]
    elif node.name in module.aliases:
        return "", [module.aliases[node.name], Node(node.module, ON_IMPORT)], []
    else:  # the whole module, or a name that it binds in a way not seen here
        statements, leads = [s for body in module.definitions.values() for s in body], [Node(node.module, ON_IMPORT)]
    part = digest(_plain(statements))
    nodes, files = _uses(statements, module, node.module, package)
    return part, leads + nodes, files


def _hashes(files: Iterable[str], package: Path) -> dict[str, str]:
    return {f"<file> {name}": path_hash(package / name) for name in files}


@lru_cache(maxsize=256)
def _parse(text: str, name: str, package: Path) -> Module:
    tree = _without_docstrings(text)
    definitions: dict[str, list[ast.stmt]] = {}
    on_import: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            ours = _aliases(statement, name, package)
            if any("." in bound or bound == "*" for bound in ours):
                on_import.append(statement)
            for alias in statement.names:  # one by one, so that a new name on the line touches only its users
                bound = alias.asname or alias.name.split(".")[0]
                if bound not in ours:
                    definitions[bound] = [_single(statement, alias)]
        elif names := _bound(statement):
            for bound in names:
                definitions.setdefault(bound, []).append(statement)
        elif not (isinstance(statement, ast.If) and "__main__" in ast.dump(statement.test)):
            on_import.append(statement)
    return Module(definitions, on_import, _aliases(tree, name, package))


def _single(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.stmt:
    if isinstance(statement, ast.Import):
        return ast.Import(names=[alias])
    return ast.ImportFrom(module=statement.module, names=[alias], level=statement.level)


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a top-level statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return []


def _aliases(tree: ast.AST, name: str, package: Path) -> dict[str, Node]:
    """What the names imported anywhere in ``tree`` stand for, as far as they belong to the package."""
    found: dict[str, Node] = {}
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            for alias in item.names:
                head, _, rest = alias.name.partition(".")
                if head == package.name:
                    found[alias.asname or f"{head}.{rest}"] = Node(rest, WHOLE)
        elif isinstance(item, ast.ImportFrom):
            if item.level:
                base = ".".join([*name.split(".")[: -item.level], item.module or ""]).strip(".")
            elif (item.module or "").split(".")[0] == package.name:
                base = item.module.partition(".")[2]  # type: ignore[union-attr]
            else:
                continue
            for alias in item.names:
                inner = f"{base}.{alias.name}".strip(".")
                module = Node(inner, WHOLE) if _file(inner, package) else Node(base, alias.name)
                found[alias.asname or alias.name] = module
    return found


def _uses(body: Sequence[ast.stmt], module: Module, name: str, package: Path) -> tuple[list[Node], list[str]]:
    """Definitions and package files that statements refer to."""
    nodes: list[Node] = []
    files: list[str] = []
    qualified: set[int] = set()  # names already read as `module.attribute`; ast.walk visits parents first
    for item in (n for statement in body for n in ast.walk(statement)):
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name):
            target = module.aliases.get(item.value.id)
            if target and target.name == WHOLE:
                qualified.add(id(item.value))
                nodes.append(Node(target.module, item.attr))
        if isinstance(item, ast.Name) and id(item) not in qualified:
            if item.id in module.definitions:
                nodes.append(Node(name, item.id))
            elif item.id in module.aliases:
                nodes.append(module.aliases[item.id])
            elif item.id == "globals":
                nodes.append(Node(name, WHOLE))
        elif isinstance(item, ast.Import | ast.ImportFrom):
            bound = _aliases(item, name, package)
            nodes += [node for key, node in bound.items() if "." in key or key == "*"]
        elif isinstance(item, ast.Constant) and isinstance(item.value, str):
            named = re.findall(rf"\b{package.name}\.(\w+)", item.value) if len(item.value) < 500 else []
            nodes += [Node(word, WHOLE) for word in named]
            path = package / item.value if re.fullmatch(r"\w[\w/-]*(\.\w+)?", item.value) else None
            if path and path.suffix != ".py" and item.value not in NOT_COUNTED and path.exists():
                files.append(item.value)
    return nodes, files


def _without_docstrings(source: str) -> ast.Module:
    """The parsed source without texts that stand alone: a module that a docstring names is not used by the code below it."""
    tree = ast.parse(source)
    tree.body = [statement for statement in tree.body if not _is_text(statement)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _is_text(node.body[0]):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _plain(statements: Sequence[ast.stmt]) -> str:
    """The statements as text that comments and layout do not change."""
    return "\n".join(map(ast.dump, statements))


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
