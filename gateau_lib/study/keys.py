"""The content keys of all code that makes results, to compare the library before and after it changes shape.

``python -m gateau_lib.run cpu --keys`` prints them. A move or a renaming leaves every key as it is; one that
differs tells what would be computed again.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gateau_lib.study.bindings import Library, Names, Node, library
from gateau_lib.study.code_hash import PACKAGE, definition_hash, text_parts
from gateau_lib.study.definitions import Reader

CHANGES_NO_RESULT = True
KEYED = "source_hash"  # what it is given makes a key
CHOSEN = Node("methods", "METHODS")  # a scoring's key takes those of them that are asked for


class Call(NamedTuple):
    """A call of a definition of ours."""

    called: Node
    call: ast.Call
    within: Node
    names: Names  # in sight there


def keys(notebooks: Mapping[str, str], package: Path = PACKAGE) -> list[str]:
    """Sorted lines ``name<TAB>key`` for definitions that key what is kept, by bare name, and for notebooks.

    Args:
        notebooks: name -> code.
    """
    ours = library(package)
    chosen = {each for each in (CHOSEN,) if each.module in ours.paths}
    found = [(root.name, definition_hash([root], package)) for root in roots(ours) | chosen]
    found += [(name, text_parts(code, package)["<key>"]) for name, code in notebooks.items()]
    return sorted(f"{name}\t{key}" for name, key in found)


def roots(ours: Library) -> set[Node]:
    """Definitions given to `code_hash.source_hash`, or to what passes them on, such as `store.artefact`.

    Raises:
        ValueError: it is given something that cannot be told from the text.
    """
    calls = _calls(ours)
    found: set[Node] = set()
    takers = [(called, "code") for called in sorted({each.called for each in calls}) if called.name == KEYED]
    for taker, parameter in takers:  # it grows
        place = _parameters(ours, taker).index(parameter)
        for each in (call for call in calls if call.called == taker):
            for given in _given(each.call, place, parameter):
                if isinstance(
                    given, ast.Starred
                ):  # chosen as the program runs: what a scoring asks for, see CHOSEN
                    continue
                if root := Reader(ours, each.within.module).lead(given, each.names):
                    found.add(root)
                elif (passing := (each.within, _passed_on(given))) not in takers:
                    if passing[1] not in _parameters(ours, each.within):
                        where = f"{ours.paths[each.within.module]}, line {given.lineno}"
                        raise ValueError(
                            f"{where}: give a definition by its name in place of {ast.unparse(given)}"
                        )
                    takers.append(passing)
    return found


def _calls(ours: Library) -> list[Call]:
    found: list[Call] = []

    class Calls(Reader):
        def write(self, node: Any, names: Names) -> str:
            if isinstance(node, ast.Call) and (called := self.lead(node.func, names)):
                found.append(Call(called, node, Node(self.module, self.own), names))
            return super().write(node, names)

    for module in ours.paths:
        for name, statements in ours.module(module).definitions.items():
            Calls(ours, module, name).read(statements)
    return found


def _parameters(ours: Library, node: Node) -> list[str]:
    """Names of a function's arguments or a data class's fields, in order."""
    definition = ours.module(node.module).definitions[node.name][0]
    if isinstance(definition, ast.ClassDef):
        fields = [each.target for each in definition.body if isinstance(each, ast.AnnAssign)]
        return [each.id for each in fields if isinstance(each, ast.Name)]
    if not isinstance(definition, ast.FunctionDef):
        return []
    arguments = definition.args
    return [each.arg for each in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]


def _given(call: ast.Call, place: int, name: str) -> Iterator[ast.expr]:
    """What a call gives for a parameter; each of them, if it is a list."""
    by_name = [keyword.value for keyword in call.keywords if keyword.arg == name]
    for each in by_name or call.args[place : place + 1]:
        yield from each.elts if isinstance(each, ast.List | ast.Tuple) else [each]


def _passed_on(given: ast.expr) -> str:
    """The argument, or the field of its own class, that an expression is; "" if it is neither."""
    if isinstance(given, ast.Attribute) and isinstance(given.value, ast.Name) and given.value.id == "self":
        return given.attr
    return given.id if isinstance(given, ast.Name) else ""
