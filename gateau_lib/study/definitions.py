"""The library's modules: what each defines and imports, what runs when, and where names lead."""

import ast
import dis
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from types import CodeType
from typing import NamedTuple

from gateau_lib.study.errors import UserError

CHANGES_NO_RESULT = True  # it says what a result is called, not what it is
MARKED = "CHANGES_NO_RESULT"
WHOLE, ON_IMPORT, FILE = "*", "", "<file>"
LOCAL = {code for name, code in dis.opmap.items() if re.search("FAST|DEREF|CLOSURE", name)}
# Since Python 3.13: two names at once, of which only the first one's place is known.
TWO = {code for name, code in dis.opmap.items() if name.count("_FAST") == 2 and "CHECK" not in name}
OUTSIDE = {code for name, code in dis.opmap.items() if "GLOBAL" in name or name == "LOAD_NAME"}
IMPORT = ast.Import | ast.ImportFrom
Places = set[tuple[int | None, int | None]]  # line, column
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


class Node(NamedTuple):
    """A definition; ``*`` is all of the module, "" what runs on import, ``<file>`` the file ``module``."""

    module: str  # without the package's name; "" is the package itself
    name: str


class Module(NamedTuple):
    """A parsed module."""

    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, Node | str]  # text: full name of what is from elsewhere
    unnamed: dict[str, Node]  # imports of ours that it does not use: to run, or for others to find
    on_import: list[ast.stmt]
    main: list[ast.stmt]  # what runs as a script only
    bound: Places  # of names that Python does not look up in the module
    no_result: bool | tuple[str, ...]  # whether it is marked, or which of its definitions


class Library:
    """The modules of a package, and hashes of its other files, from pairs (path, text or hash)."""

    def __init__(self, package: str, contents: tuple[tuple[str, str], ...]) -> None:
        self.package, self._texts = package, {p: text for p, text in contents if p.endswith(".py")}
        self.files = {path: sha for path, sha in contents if path not in self._texts}
        rooms = {
            room for path in self._texts for room in PurePosixPath(path).parents
        }  # with __init__.py or not
        paths = {(room / "__init__.py").as_posix() for room in rooms} | {*self._texts}
        self.paths = {re.sub(r"(^|/)__init__$", "", path[:-3]).replace("/", "."): path for path in paths}
        names = sorted(map(re.escape, filter(None, self.paths)), reverse=True)  # the longest first
        self.told = re.compile(rf"(^\s*(?:python3? )?(?:-m )?)?\b{package}\.({'|'.join(names)})\b")
        self._modules: dict[str, Module] = {}

    def module(self, name: str) -> Module:
        """A module, parsed."""
        if name not in self._modules:
            path = self.paths[name]
            self._modules[name] = _module(self._texts.get(path, ""), path, self.package)
        return self._modules[name]

    def counts(self, node: Node) -> bool:
        """Whether a definition can change a result."""
        mark = self.module(node.module).no_result if node.name != FILE else False
        return not mark if isinstance(mark, bool) else node.name not in mark

    def find(self, node: Node, through: set[str]) -> Node | None:
        """The definition or module that a name leads to, or None; ``through`` gets the modules on the way."""
        seen = set()
        while node.name != WHOLE:
            module = self.module(node.module) if node.module in self.paths else None
            if module and node.name in module.definitions:
                return node
            target = module.imports.get(node.name) if module else None
            if isinstance(target, Node) and node not in seen:
                seen.add(node)
                through.add(node.module)
                node = target
            else:
                node = Node(f"{node.module}.{node.name}".strip("."), WHOLE)
        return node if node.module in self.paths else None


def parse(text: str, path: str, package: str) -> tuple[list[ast.stmt], Places]:
    """Statements, imports by full names; places of names not looked up there. UserError: it is no Python."""
    try:
        tree = ast.parse(text)
        # Without the future of annotations, so that the names in them are looked up.
        tree.body = [each for each in tree.body if getattr(each, "module", "") != "__future__"]
        code = compile(tree, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from None
    folders = [package, *path.split("/")[:-1]]
    for each in ast.walk(tree):
        if isinstance(each, ast.ImportFrom) and each.level:
            each.module = ".".join([*folders[: len(folders) - each.level + 1], *filter(None, [each.module])])
    local: Places = set()
    outside: Places = set()
    two: set[tuple[int | None, str]] = set()  # line, name
    for part in _codes(code):
        steps = zip(part.co_code[::2], part.co_code[1::2], part.co_positions(), strict=True)
        for step, which, (line, _, column, _) in steps:
            if step in LOCAL:
                local.add((line, column))
            if step in OUTSIDE:
                outside.add((line, column))
            if step in TWO:
                two |= {(line, part.co_varnames[place]) for place in (which >> 4, which & 15)}
    nodes = ast.walk(tree) if two else ()
    names = (each for each in nodes if isinstance(each, ast.Name) and (each.lineno, each.id) in two)
    local |= {(each.lineno, each.col_offset) for each in names}
    return tree.body, local - outside


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A code and all those inside it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _module(text: str, path: str, package: str) -> Module:
    """The parts of a module; raises ValueError if it marks as changing no result what it does not define."""
    body, bound = parse(text, path, package)
    nodes = (each for item in body for each in ast.walk(item) if isinstance(each, ast.Name))
    read = {each.id for each in nodes if isinstance(each.ctx, ast.Load)}
    found = Module({}, {}, {}, [], [], bound, False)
    for statement in body:  # it grows
        if named := {name: target for _, name, target in imported(statement, package)}:
            found.imports.update(named)
            found.on_import.extend([statement] if WHOLE in named else [])
        elif names := _defined(statement):
            for name in names:
                found.definitions.setdefault(name, []).append(statement)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            body += [*statement.body, *statement.orelse]
        elif isinstance(statement, ast.If) and "__main__" in ast.dump(statement.test):
            found.main.append(statement)
        elif not is_text(statement):
            found.on_import.append(statement)
    ours = {name: target for name, target in found.imports.items() if isinstance(target, Node)}
    unnamed = {name: target for name, target in ours.items() if name not in read and name != WHOLE}
    marking = found.definitions.get(MARKED, [None])[0]
    mark = ast.literal_eval(marking.value) if isinstance(marking, ast.Assign) else False
    if not isinstance(mark, bool) and (wrong := sorted(set(mark) - set(found.definitions))):
        raise ValueError(f"{path}: {MARKED} names {wrong[0]!r}; name definitions of this module")
    return found._replace(unnamed=unnamed, no_result=mark)


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or likewise does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _defined(statement: ast.stmt) -> list[str]:
    """The names of a module that a statement defines."""
    if isinstance(statement, FUNCTION | ast.ClassDef):
        return [statement.name]
    if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return []
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    inside = (each.target for each in ast.walk(statement) if isinstance(each, ast.NamedExpr))
    parts = (each for target in (*targets, *inside) for each in ast.walk(target))
    return [each.id for each in parts if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]


def imported(statement: ast.AST, package: str) -> Iterator[tuple[ast.alias, str, Node | str]]:
    """Names that an import binds and what they stand for; `WHOLE` where what is used cannot be told."""
    if not isinstance(statement, IMPORT):
        return
    origin = f"{statement.module}." if isinstance(statement, ast.ImportFrom) else ""
    for alias in statement.names:
        head, _, rest = (full := origin + alias.name).partition(".")
        name = alias.asname or (alias.name if origin else head)
        if head != package:
            yield alias, name, full
        elif origin:
            yield alias, name, Node(rest.rpartition(".")[0], alias.name)
        else:
            yield alias, name, Node(rest if alias.asname else "", WHOLE)
            if rest and not alias.asname:
                yield alias, WHOLE, Node(rest, WHOLE)
