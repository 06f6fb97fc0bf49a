"""Where names in the library's modules lead, as Python binds them; `definitions` reads with it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeGuard

from gateau_lib.study.errors import UserError

CHANGES_NO_RESULT = True  # it says what a result is called, not what it is
MARKED = "CHANGES_NO_RESULT"
WHOLE, ON_IMPORT, FILE = "*", "", "<file>"

# The shipped pair is an input of what is made from it; a study that trains its own must not depend on it.
NOT_COUNTED = ("tiny_pair",)
TYPES_ONLY = r"(typing\.)?TYPE_CHECKING"
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
DEFINING = FUNCTION | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.AugAssign
IMPORT = ast.Import | ast.ImportFrom
COMPREHENSION = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
# What the names in sight stand for; None: something that is not the package's.
Names = Mapping[str, "Node | None"]


class Node(NamedTuple):
    """A definition; ``*`` is all of the module, "" what runs on import, ``<file>`` the file ``module``."""

    module: str  # without the package's name; "" is the package itself
    name: str


class Module(NamedTuple):
    """A parsed module."""

    definitions: dict[str, list[ast.stmt]]  # what it imports from elsewhere is among them
    imports: dict[str, Node]  # what it imports of the package
    unnamed: dict[str, Node]  # of these what it does not name: imported to run, or for others to find
    on_import: list[ast.stmt]
    main: list[ast.stmt]  # what runs as a script only
    no_result: bool | tuple[str, ...]  # whether it is marked, or which of its definitions


def library(package: Path) -> Library:
    """The package as its files are now; what was read of equal files before is not read again."""
    found = [path for path in sorted(package.rglob("*")) if "__pycache__" not in path.parts]
    texts = [path.read_text(encoding="utf-8") if path.suffix == ".py" else None for path in found]
    names = [path.relative_to(package).as_posix() for path in found]
    return _library(package.name, tuple(zip(names, texts, strict=True)))


@lru_cache(maxsize=4)
def _library(package: str, files: tuple[tuple[str, str | None], ...]) -> Library:
    return Library(package, {PurePosixPath(path): text for path, text in files})


class Library:
    """The modules and files of a package.

    Args:
        package: its name.
        files: by path below its folder: the text of a module, None for anything else.
    """

    def __init__(self, package: str, files: Mapping[PurePosixPath, str | None]) -> None:
        self.package = package
        self._texts = {path: text for path, text in files.items() if text is not None}
        self.rooms = sorted({folder for path in self._texts for folder in path.parents})  # folders of modules
        self.files = {path.as_posix() for path in files.keys() - self._texts.keys() - set(self.rooms)}
        packages = [room / "__init__.py" for room in self.rooms]  # whether there is such a file or not
        self.paths = {_dotted(path): path for path in [*packages, *self._texts]}
        self._modules: dict[str, Module] = {}

    def module(self, name: str) -> Module:
        """A module, parsed; raises as `parse` does."""
        if name not in self._modules:
            path = self.paths[name]
            self._modules[name] = parse(self._texts.get(path, ""), path, self.package)
        return self._modules[name]

    def counts(self, node: Node) -> bool:
        """Whether a definition can change a result."""
        mark = self.module(node.module).no_result if node.name != FILE else False
        return not mark if isinstance(mark, bool) else node.name not in mark

    def find(self, node: Node, through: set[str]) -> Node | None:
        """The definition or module that a name of a module leads to; None if to neither.

        Args:
            through: gets the modules that import the name from the next one.
        """
        seen = set()
        while node.name != WHOLE:
            module = self.module(node.module) if node.module in self.paths else None
            if module and node.name in module.definitions:
                return node
            if module and node.name in module.imports and node not in seen:
                seen.add(node)
                through.add(node.module)
                node = module.imports[node.name]
            else:
                node = Node(f"{node.module}.{node.name}".strip("."), WHOLE)
        return node if node.module in self.paths else None

    def beside(self, name: str, module: str) -> list[Node]:
        """Files that a module may mean by a name: the nearest in or above its folder, else in any."""
        if name.split("/")[0] in NOT_COUNTED:
            return []
        above = [(folder / name).as_posix() for folder in self.paths[module].parents]
        nearest = [path for path in above if path in self.files][:1]
        paths = nearest or [(room / name).as_posix() for room in self.rooms]
        return [Node(path, FILE) for path in paths if path in self.files]

    def running(self, modules: Iterable[str]) -> tuple[Node, ...]:
        """What runs on import of modules, of packages around them, of what they import and do not name."""
        todo, seen = set(modules), set()
        while todo:
            name = todo.pop()
            if name not in seen and self.module(name).no_result is not True:
                seen.add(name)
                todo.add(name.rpartition(".")[0])
                found = [self.find(each, todo) for each in self.module(name).unnamed.values()]
                todo |= {each.module for each in found if each}
        return tuple(Node(name, ON_IMPORT) for name in sorted(seen) if self.module(name).on_import)


def tree(text: str, path: PurePosixPath | str, package: str) -> ast.Module:
    """The syntax tree of a text that lies at ``path`` below the package's folder, with imports by full names.

    Raises:
        UserError: it is no Python.
    """
    try:
        parsed = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from None
    folders = [package, *PurePosixPath(path).parent.parts]
    for item in ast.walk(parsed):
        if isinstance(item, ast.ImportFrom) and item.level:
            item.module = ".".join([*folders[: len(folders) - item.level + 1], *filter(None, [item.module])])
            item.level = 0
    return parsed


def parse(text: str, path: PurePosixPath, package: str) -> Module:
    """The parts of a module.

    Raises:
        ValueError: it is no Python, or marks as changing no result what it does not define.
    """
    parsed = tree(text, path, package)
    imports = {name: target for name, target in bound(parsed.body, package, {}).items() if target}
    found = Module({}, imports, {}, [], [], False)
    read = {node.id for node in ast.walk(parsed) if isinstance(node, ast.Name) and not stores(node)}
    for statement in _executed(parsed.body):
        if isinstance(statement, IMPORT):
            for alias in statement.names:  # one by one, so that a new name on the line touches only its users
                single = _single(statement, alias)
                name, target = binds(single, alias, package)
                if target is None:
                    found.definitions[name] = [single]
                elif is_unclear(single, alias):
                    found.on_import.append(single)
                elif name not in read:
                    found.unnamed[name] = target
        elif isinstance(statement, DEFINING) and (names := bound([statement], package, {})):
            for name in names:
                found.definitions.setdefault(name, []).append(statement)
        elif isinstance(statement, ast.If) and "__main__" in ast.dump(statement.test):
            found.main.append(statement)
        else:
            found.on_import.append(statement)
    marking = found.definitions[MARKED][0] if MARKED in found.definitions else None
    mark = ast.literal_eval(marking.value) if isinstance(marking, ast.Assign) else False
    if not isinstance(mark, bool) and (wrong := sorted(set(mark) - set(found.definitions))):
        raise ValueError(f"{path}: {MARKED} names {wrong[0]!r}; name definitions of this module")
    return found._replace(no_result=mark)


def binds(statement: IMPORT, alias: ast.alias, package: str) -> tuple[str, Node | None]:
    """The name that an import binds, and what of the package it stands for; None if it is from elsewhere."""
    plain = isinstance(statement, ast.Import)
    head, _, rest = (alias.name if isinstance(statement, ast.Import) else statement.module or "").partition(
        "."
    )
    name = alias.asname or (head if plain else alias.name)
    if head != package:
        return name, None
    if plain:
        return name, Node(rest if alias.asname else "", WHOLE)
    return name, Node(rest, alias.name)  # "*" is all of the module there too


def is_unclear(statement: IMPORT, alias: ast.alias) -> bool:
    """Whether what is used of an import cannot be told: ``import package.module`` and ``import *``."""
    return alias.name == "*" or (isinstance(statement, ast.Import) and "." in alias.name and not alias.asname)


def bound(body: Iterable[ast.AST], package: str, top: Names) -> dict[str, Node | None]:
    """What the names stand for that a body binds in its own scope: what it imports of the package, else None.

    Args:
        top: names of the module, for those that the body declares global.
    """
    found: dict[str, Node | None] = {}
    of_module: dict[str, Node | None] = {}
    outside: set[str] = set()  # of the function around
    todo = list(body)
    for node in todo:  # it grows
        if isinstance(node, FUNCTION | ast.ClassDef):
            found.setdefault(node.name, None)
        elif isinstance(node, COMPREHENSION):
            found |= {each.target.id: None for each in ast.walk(node) if isinstance(each, ast.NamedExpr)}
        elif isinstance(node, IMPORT):
            for name, target in (binds(node, alias, package) for alias in node.names):
                found[name] = found.get(name) or target
        elif isinstance(node, ast.Global):
            of_module |= {name: top.get(name) for name in node.names}
        elif isinstance(node, ast.Nonlocal):
            outside |= set(node.names)
        elif not isinstance(node, ast.Lambda):
            names = [node.id] if stores(node) else [getattr(node, "rest", None)]  # rest: of a pattern
            names += [node.name] if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) else []
            for name in filter(None, names):
                found.setdefault(name, None)
            todo += ast.iter_child_nodes(node)
    return {name: target for name, target in found.items() if name not in outside} | of_module


def stores(node: ast.AST) -> TypeGuard[ast.Name]:
    """Whether a node is a name that is bound there, or deleted."""
    return isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)


def _executed(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module; what only a type checker reads is as good as any other."""
    for statement in body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        if isinstance(statement, ast.If) and re.fullmatch(TYPES_ONLY, ast.unparse(statement.test)):
            yield from [*statement.body, *statement.orelse]
        else:
            yield statement


def _single(statement: IMPORT, alias: ast.alias) -> IMPORT:
    if isinstance(statement, ast.Import):
        return ast.Import(names=[alias])
    return ast.ImportFrom(module=statement.module, names=[alias], level=0)


def _dotted(path: PurePosixPath) -> str:
    """A module's name."""
    words = path.with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)
