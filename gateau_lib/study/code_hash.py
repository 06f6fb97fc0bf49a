"""Content keys of code: hashes of what a piece of code depends on, wherever in the library that lies.

A top-level definition is read as its syntax tree without docstrings, comments and layout. A name that leads
to one of ours becomes a mark, so no place or name of a module, function or constant counts (CONTRIBUTING.md).
Not seen: a name put together at run time (``globals()``), and what another module does to a definition.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import gateau_lib
from gateau_lib.study import definitions
from gateau_lib.study.definitions import FILE, MARKED, ON_IMPORT, WHOLE, Library, Node, imported

CHANGES_NO_RESULT = True  # it says what a result is called, not what it is
PACKAGE = Path(gateau_lib.__file__).parent
# The shipped pair is an input of what is made from it; a study that trains its own must not depend on it.
NOT_COUNTED = {"tiny_pair", "__pycache__"}
KEPT = lru_cache(maxsize=4)(Library)
TAKE = {"source_hash": 0, "Build": 1, "_build": 1}  # where these are given what makes a key
CHOSEN = Node("methods", "METHODS")  # a scoring's key takes those of them that are asked for
HERE, SELF = "\0", "<self>"  # in a definition's text: something of ours is named here; its own name


def source_hash(code: Sequence[ModuleType | Any], package: Path = PACKAGE) -> str:
    """Key of code of the package and of all it depends on there, 64 hex digits; ValueError: other code."""
    roots = []
    for item in code:
        whole = isinstance(item, ModuleType)
        head, _, module = (item.__name__ if whole else item.__module__).partition(".")
        if head != (name := package.name):
            raise ValueError(f"{item!r} is not code of {name}; pass modules, functions or classes of {name}")
        roots.append(Node(module, WHOLE if whole else item.__qualname__.split(".")[0]))
    return definition_hash(roots, package)


def definition_hash(roots: Iterable[Node], package: Path = PACKAGE) -> str:
    """What `source_hash` gives for definitions, without importing them."""
    ours = library(package)
    found = [ours.find(root, set()) or Node(root.module, WHOLE) for root in roots]
    start = {node: definition(ours, node) for node in found if ours.counts(node)}
    return _key(start, _reach(start, ours))


def text_parts(source: str, package: Path = PACKAGE) -> dict[str, str]:
    """Hashes of what a notebook's code depends on: ``<key>`` of all, and of each part, to tell what changed.

    ``<code>``: the text's own; ``module.name``: a definition; ``module``: its import; ``<file> name``: file.
    """
    reader = Reader(ours := library(package))
    body, reader.bound = definitions.parse(source, "a notebook", package.name)
    reader.names = {}
    reached = _reach(start := {Node("", "<code>"): reader.read(body)}, ours)
    parts = {"<key>": _key(start, reached)}
    for node, each in reached.items():
        name = f"{FILE} {each.text.split()[0]}" if node.name == FILE else f"{node.module}.{node.name}"
        parts[name.strip(".")] = digest(json.dumps([each.text, *(named.name for named in each.named)]))
    return parts


def all_keys(notebooks: Mapping[str, str], package: Path = PACKAGE) -> list[str]:
    """Sorted lines ``name<TAB>key``: definitions that key what is kept, and ``notebooks`` (name: code)."""
    found = [f"{root.name}\t{definition_hash([root], package)}" for root in roots(library(package))]
    return sorted(found + [f"{k}\t{text_parts(code, package)['<key>']}" for k, code in notebooks.items()])


def digest(data: str | bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def path_hash(path: Path) -> str:
    """Hash of a file's bytes, or of the names and bytes of all files below a folder."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return digest(json.dumps([[p.relative_to(path).as_posix(), path_hash(p)] for p in files]))
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def library(package: Path) -> Library:
    """The package as its files are now; what was read of equal files before is not read again."""
    files = sorted(p for p in package.rglob("*") if p.is_file() and not NOT_COUNTED & {*p.parts})
    names = (p.relative_to(package).as_posix() for p in files)
    contents = (p.read_text(encoding="utf-8") if p.suffix == ".py" else path_hash(p) for p in files)
    return KEPT(package.name, tuple(zip(names, contents, strict=True)))


def _reach(start: Mapping[Node, Definition], ours: Library) -> dict[Node, Definition]:
    """All that a start leads to, itself among them; no module that does nothing on import."""
    reached, todo = dict(start), list(start.values())
    for each in todo:  # it grows
        new = {node: definition(ours, node) for node in (*each.named, *each.brings) if node not in reached}
        reached |= new
        todo += new.values()
    return {node: each for node, each in reached.items() if node in start or each.text or each.named}


def _key(start: Mapping[Node, Definition], reached: Mapping[Node, Definition]) -> str:
    """One hash of the content of definitions and of how they name each other, without a name or a place.

    A definition is told from others by what it says, by what those say that it names, and so on. Each round
    looks one step further; the last is the one that tells no more apart. So a circle needs no care.
    """
    hashes, apart = {node: digest(each.text) for node, each in reached.items()}, 0
    while len(set(hashes.values())) > apart:
        apart = len(set(hashes.values()))
        last = hashes
        hashes = {n: digest(" ".join(last[each] for each in (n, *reached[n].named))) for n in reached}
    return digest(json.dumps([sorted(hashes[node] for node in start), sorted(set(hashes.values()))]))


class Definition(NamedTuple):
    """What a definition says without its place, what it names there in order, whose import it needs."""

    text: str
    named: Sequence[Node] = ()
    brings: Sequence[Node] = ()


@lru_cache(maxsize=2**14)
def definition(library: Library, node: Node) -> Definition:
    """What a definition says and names; of a file its name and bytes."""
    if node.name == FILE:
        return Definition(f"{node.module.split('/')[-1]} {library.files[node.module]}")
    home, reader = library.module(node.module), Reader(library, node.module, node.name)
    if node.name in (WHOLE, ON_IMPORT):
        passed_on = {name: found for name, target in home.unnamed.items() if (found := reader.find(target))}
        if node.name == ON_IMPORT:  # of the package around too, and of what is imported and not used
            reader.modules |= {node.module.rpartition(".")[0], *(each.module for each in passed_on.values())}
            return reader.read(home.on_import)
        # What others can look up in it by name, and what it does as a script.
        own = {name: Node(node.module, name) for name in home.definitions if name != MARKED}
        parts = {name: each for name, each in sorted((passed_on | own).items()) if library.counts(each)}
        reader.named += parts.values()
        main = reader.read(home.main)
        return main._replace(text=json.dumps([*parts, main.text]))
    before = home.imports.get(node.name, "")  # and then bound again, from what it was
    first = reader.follow(before) if isinstance(before, Node) else before
    said = reader.read(home.definitions[node.name])
    return said._replace(text=first + said.text)


class Reader:
    """Reads statements of ``module`` that define the name ``own``: what they say and name (`HERE`)."""

    def __init__(self, library: Library, module: str = "", own: str = "") -> None:
        self.library, self.own, self.home = library, own, library.module(module)
        self.names = self.home.imports | {name: Node(module, name) for name in self.home.definitions}
        self.bound, self.local = self.home.bound, set[str]()
        self.named: list[Node] = []
        self.modules = {module}  # whose import it needs

    def read(self, statements: Sequence[ast.stmt]) -> Definition:
        """What the statements say."""
        items = (each for statement in statements for each in ast.walk(statement))
        for item in (each for each in items if isinstance(each, definitions.IMPORT)):
            for _, name, target in imported(item, self.library.package):
                if isinstance(target, Node):
                    self.local |= set() if item in statements else {name}
                    self.modules |= {found.module} if (found := self.find(target)) else set()
                    if name == WHOLE or self.names.setdefault(name, target) != target:
                        self.follow(target)
        text = self.write(list(statements))[1:-1]
        brings = (Node(name, ON_IMPORT) for name in sorted(self.modules))
        return Definition(text, self.named, [each for each in brings if self.library.counts(each)])

    def find(self, target: Node) -> Node | None:
        """Where a name leads; see `Library.find`."""
        return self.library.find(target, self.modules)

    def follow(self, target: Node) -> str:
        """Note where a name leads; "" if nowhere."""
        found = self.find(target)
        if not found and target.module in self.library.paths:
            found = Node(target.module, WHOLE)  # bound there in a way not seen here
        return self._mark(found) if found else ""

    def lead(self, node: ast.AST) -> Node | None:
        """The module or definition of ours that ``a`` or ``a.b.c`` stands for, or None."""
        if isinstance(node, ast.Attribute):
            base = self.lead(node.value)
            return self.find(Node(base.module, node.attr)) if base and base.name == WHOLE else None
        target = self._target(node) if isinstance(node, ast.Name) else None
        return self.find(target) if isinstance(target, Node) else None

    def write(self, node: Any) -> str:
        """A part of a syntax tree as text, "" for what changes nothing: docstrings, the package's imports."""
        if isinstance(node, list):
            return f"[{','.join(text for each in node if (text := self.write(each)))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        special = getattr(self, f"_{type(node).__name__}", self.fields)
        return "" if definitions.is_text(node) else str(special(node))

    def fields(self, node: ast.AST, **written: str) -> str:
        """A node's type and parts."""
        parts = (written.get(name) or self.write(getattr(node, name, None)) for name in node._fields)
        return f"{type(node).__name__}({','.join(parts)})"

    def _FunctionDef(self, node: definitions.FUNCTION) -> str:
        return self.fields(node, name=SELF if node.name == self.own else node.name)

    _AsyncFunctionDef = _FunctionDef

    def _Import(self, node: ast.Import | ast.ImportFrom) -> str:
        named = imported(node, self.library.package)
        kept = [alias for alias, _, target in named if not isinstance(target, Node)]
        return self.fields(node, names=self.write(kept)) if kept else ""

    _ImportFrom = _Import

    def _Attribute(self, node: ast.Attribute) -> str:
        found = self.lead(node)
        how = "" if isinstance(node.ctx, ast.Load) else type(node.ctx).__name__
        return self._mark(found) + how if found else self.fields(node)

    def _Name(self, node: ast.Name) -> str:
        target = self._target(node)
        if isinstance(target, Node):
            return self.follow(target) or node.id
        return target or (SELF if node.id == self.own and isinstance(node.ctx, ast.Store) else node.id)

    def _target(self, node: ast.Name) -> Node | str | None:
        """What a name stands for that is not bound around its place, or imported there."""
        bound = (node.lineno, node.col_offset) in self.bound and node.id not in self.local
        return None if bound or not isinstance(node.ctx, ast.Load) else self.names.get(node.id)

    def _Constant(self, node: ast.Constant) -> str:
        if not isinstance(node.value, str):
            return repr(node.value)

        def placeless(match: re.Match[str]) -> str:
            return "<module>" if match[1] is None else match[1] + self._mark(Node(match[2], WHOLE))

        text = self.library.told.sub(placeless, node.value)
        files = (path for path in self.library.files if f"/{path}".endswith(f"/{node.value}"))
        return repr(text) + "".join(self._mark(Node(path, FILE)) for path in files)

    def _mark(self, node: Node) -> str:
        """Note that something of ours is named here."""
        if not self.library.counts(node):
            return f"<{node.name}>"
        self.named.append(node)
        return HERE


def roots(ours: Library) -> set[Node]:
    """Definitions that a call names as ``code=``, or gives to what `TAKE` lists, and `CHOSEN`.

    ValueError: a name there that is neither a definition nor a parameter, so that its key would be missing.
    """
    found = {CHOSEN} if CHOSEN.module in ours.paths else set()

    class Calls(Reader):
        def _Call(self, node: ast.Call) -> str:
            place = TAKE.get(ast.unparse(node.func).split(".")[-1], len(node.args))
            given = [each.value for each in node.keywords if each.arg == "code"]
            for each in (*node.args[place : place + 1], *given):
                for item in each.elts if isinstance(each, ast.List) else [each]:
                    while isinstance(item, ast.Subscript):  # an entry of a table: all of the table
                        item = item.value
                    if root := self.lead(item):
                        found.add(root)
                    elif isinstance(item, ast.Name) and item.id not in passed_on:
                        told = f"give a definition by its name in place of {item.id!r}"
                        raise ValueError(f"{module}.{name}: {told}, or its key is not listed")
            return self.fields(node)

    for module in ours.paths:
        for name, statements in ours.module(module).definitions.items():
            nodes = (each for statement in statements for each in ast.walk(statement))
            passed_on = {each.arg for each in nodes if isinstance(each, ast.arg)}
            Calls(ours, module, name).read(statements)
    return found
