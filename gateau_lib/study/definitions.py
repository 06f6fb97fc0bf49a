"""What every definition of the library says and which others it names, wherever they lie.

A definition is read as its syntax tree without docstrings, comments and layout. The package's own imports
leave no trace: a name that stands for one of our definitions becomes a mark, and the mark leads to that
definition. So the form of an import, the name and place of a module, and the name of a function or a constant
count nowhere. Names of classes count, since messages and printed values hold them.

- Names are followed as Python binds them: a local variable with the name of a function is no call of it.
- A module that is used as a value (``getattr(figures, name)``) or named in a string (``python -m
  gateau_lib.score``) counts whole, with the names in it. ``globals()`` does so for its own module.
- Statements that run on import, such as a registration, are one part for each module. They count for all that
  names a definition of the module. In a split they stay where they are written: what has left the module no
  longer brings them, and a key that loses them so changes. A module without such statements adds nothing.
- A file that code names (``"claims.yml"``) is looked for beside the module, in the folders above, then in all
  folders of modules. It counts by name and bytes.
- ``CHANGES_NO_RESULT = True`` at the top of a module takes all of it out of every key, a tuple of names takes
  out those definitions: an edit there must not throw away what was computed.

Not seen: a name put together at run time, and what another module does to a definition.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from gateau_lib.study import bindings
from gateau_lib.study.bindings import FILE, IMPORT, MARKED, ON_IMPORT, WHOLE, Library, Names, Node, bound

CHANGES_NO_RESULT = True  # it says what a result is called, not what it is
HERE, SELF = "\0", "<self>"  # in a definition's text: something of ours is named here; its own name
PROSE = 500  # characters; so long a text tells of a module and does not start it


class Definition(NamedTuple):
    """What a definition says without its place, what it names there in order, what it makes run on import."""

    text: str
    named: tuple[Node, ...]
    brings: tuple[Node, ...]


@lru_cache(maxsize=2**14)
def definition(library: Library, node: Node) -> Definition:
    """What a definition says and names; of a file only its name."""
    if node.name == FILE:
        return Definition(PurePosixPath(node.module).name, (), ())
    module, reader = library.module(node.module), Reader(library, node.module, node.name)
    if node.name == WHOLE:
        return reader.read_whole()
    if node.name == ON_IMPORT:
        return reader.read(module.on_import)
    if node.name in module.imports:  # and then bound again, from what it was
        reader.follow(module.imports[node.name])
    return reader.read(module.definitions[node.name])


class Reader:
    """Reads statements of a module: what they say, with `HERE` for what they name, and what that is.

    Args:
        module: where they stand. own: the name that they define.
    """

    def __init__(self, library: Library, module: str = "", own: str = "") -> None:
        self.library, self.module, self.own = library, module, own
        home = library.module(module)
        self.top: Names = {**home.imports, **{name: Node(module, name) for name in home.definitions}}
        self.named: list[Node] = []
        self.through = {module}
        self._told = False  # reading what is said to a person, where a module's name starts nothing

    def read(self, statements: Sequence[ast.stmt]) -> Definition:
        """What the statements say."""
        text = self.write(list(statements), self.top)
        return Definition(text, tuple(self.named), self.library.running(self.through))

    def read_whole(self) -> Definition:
        """The module as what others can look up in it by name, and as a script."""
        home = self.library.module(self.module)
        own = (name for name, body in home.definitions.items() if not isinstance(body[-1], IMPORT))
        parts = {name: Node(self.module, name) for name in own if name != MARKED}
        passed_on = {name: self.library.find(target, self.through) for name, target in home.unnamed.items()}
        parts |= {name: found for name, found in passed_on.items() if found}
        names = [name for name in sorted(parts) if self.library.counts(parts[name])]
        self.named += [parts[name] for name in names]
        main = self.read(home.main)
        return main._replace(text=json.dumps([names, main.text]))

    def read_script(self, script: ast.Module) -> Definition:
        """What a text outside the package says, a notebook's code for example."""
        self.top = {name: node for name, node in bound(script.body, self.library.package, {}).items() if node}
        return self.read(script.body)

    def write(self, node: Any, names: Names) -> str:
        """A part of a syntax tree as text, "" for what changes nothing: docstrings, the package's imports."""
        if isinstance(node, list):
            return f"[{','.join(text for each in node if (text := self.write(each, names)))}]"
        if special := getattr(self, f"_{type(node).__name__}", None):
            written: str = special(node, names)
            return written
        return self._fields(node, names) if isinstance(node, ast.AST) else repr(node)

    def _fields(self, node: ast.AST, names: Names, /, **written: str) -> str:
        inner = {field: getattr(node, field, None) for field in node._fields}
        texts = (written[field] if field in written else self.write(inner[field], names) for field in inner)
        return f"{type(node).__name__}({','.join(texts)})"

    def _Raise(self, node: ast.Raise | ast.keyword, names: Names) -> str:
        before = self._told
        self._told = before or isinstance(node, ast.Raise) or node.arg == "prog"
        text = self._fields(node, names)
        self._told = before
        return text

    _keyword = _Raise

    def _Expr(self, node: ast.Expr, names: Names) -> str:
        return "" if isinstance(node.value, ast.Constant) else self._fields(node, names)

    def _FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, names: Names) -> str:
        given = node.args
        arguments = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
        body = node.body if isinstance(node.body, list) else [node.body]
        local = {each.arg: None for each in arguments if each} | bound(body, self.library.package, self.top)
        written = {"body": self.write(body, {**names, **local})}
        if names is self.top and getattr(node, "name", None) == self.own:
            written["name"] = SELF
        return self._fields(node, names, **written)  # decorators and defaults do not see what is bound inside

    _AsyncFunctionDef = _Lambda = _FunctionDef

    def _ClassDef(self, node: ast.ClassDef, names: Names) -> str:
        # Methods do not see what the body binds; the body may read that or what is around it, so both count.
        local = bound(node.body, self.library.package, self.top)
        imported = {name: target for name, target in local.items() if target}
        return self._fields(node, names, body=self.write(node.body, {**names, **imported}))

    def _ListComp(self, node: bindings.COMPREHENSION, names: Names) -> str:
        targets = (each for loop in node.generators for each in ast.walk(loop.target))
        inner = {**names, **{each.id: None for each in targets if bindings.stores(each)}}
        loops = [  # what the first runs over is read outside
            self._fields(loop, inner, iter=self.write(loop.iter, inner if place else names))
            for place, loop in enumerate(node.generators)
        ]
        return self._fields(node, inner, generators=",".join(loops))

    _SetComp = _DictComp = _GeneratorExp = _ListComp

    def _Import(self, node: IMPORT, names: Names) -> str:
        kept, marks = [], ""
        for alias in node.names:
            _, target = bindings.binds(node, alias, self.library.package)
            if target is None:
                kept.append(alias)
                continue
            unclear = bindings.is_unclear(node, alias)
            if unclear and isinstance(node, ast.Import):
                target = Node(alias.name.partition(".")[2], WHOLE)
            if found := self.library.find(target, self.through):
                self.through.add(found.module)
                marks += self._mark(found) if unclear else ""
        return (self._fields(node, names, names=self.write(kept, names)) if kept else "") + marks

    _ImportFrom = _Import

    def _Name(self, node: ast.Name, names: Names) -> str:
        if bindings.stores(node):
            return SELF if names is self.top and node.id == self.own else node.id
        if node.id == "globals" and node.id not in names:
            return node.id + self._mark(Node(self.module, WHOLE))
        target = names.get(node.id)
        return (target and self.follow(target)) or node.id

    def follow(self, target: Node) -> str:
        """Note where an imported or own name leads; "" if nowhere."""
        found = self.library.find(target, self.through)
        if not found and target.module in self.library.paths:
            found = Node(target.module, WHOLE)  # bound there in a way not seen here
        return self._mark(found) if found else ""

    def _Attribute(self, node: ast.Attribute, names: Names) -> str:
        found = self.lead(node, names)
        if not found:
            return self._fields(node, names)
        return self._mark(found) + ("" if isinstance(node.ctx, ast.Load) else type(node.ctx).__name__)

    def lead(self, node: ast.expr, names: Names) -> Node | None:
        """The module or definition of ours that ``a`` or ``a.b.c`` stands for, or None."""
        if isinstance(node, ast.Name):
            target = names.get(node.id)
            return self.library.find(target, self.through) if target else None
        if not isinstance(node, ast.Attribute):
            return None
        base = self.lead(node.value, names)
        if base is None or base.name != WHOLE:
            return None
        return self.library.find(Node(base.module, node.attr), self.through)

    def _Constant(self, node: ast.Constant, names: Names) -> str:
        if not isinstance(node.value, str):
            return repr(node.value)
        short = len(node.value) < PROSE

        def placeless(match: re.Match[str]) -> str:
            words = match[1].split(".")[1:]
            for end in range(len(words), 0, -1):
                if (module := ".".join(words[:end])) in self.library.paths:
                    starts = not self._told and short
                    mark = self._mark(Node(module, WHOLE)) if starts else "<module>"
                    return ".".join([mark, *words[end:]])
            return match[0]

        text = re.sub(rf"\b{self.library.package}((?:\.\w+)+)", placeless, node.value)
        return repr(text) + "".join(map(self._mark, self.library.beside(node.value, self.module)))

    def _mark(self, node: Node) -> str:
        """Note that something of ours is named here."""
        if not self.library.counts(node):
            return f"<{node.name}>"
        self.named.append(node)
        return HERE
