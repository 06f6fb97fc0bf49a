"""The content keys of all code that makes results, to compare the library before and after it changes shape.

``python -m gateau_lib.run cpu --keys`` prints them. A move or a renaming leaves every key as it is; one that
differs tells what would be computed again.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from gateau_lib.study.code_hash import PACKAGE, Reader, definition_hash, library, text_parts
from gateau_lib.study.definitions import Library, Node

CHANGES_NO_RESULT = True
TAKE = {"source_hash": 0, "Build": 1, "_build": 1}  # where these are given what makes a key
CHOSEN = Node("methods", "METHODS")  # a scoring's key takes those of them that are asked for


def keys(notebooks: Mapping[str, str], package: Path = PACKAGE) -> list[str]:
    """Sorted lines ``name<TAB>key`` for definitions that key what is kept, by bare name, and for notebooks.

    Args:
        notebooks: name -> code.
    """
    found = [(root.name, definition_hash([root], package)) for root in roots(library(package))]
    found += [(name, text_parts(code, package)["<key>"]) for name, code in notebooks.items()]
    return sorted(f"{name}\t{key}" for name, key in found)


def roots(ours: Library) -> set[Node]:
    """Definitions that a call names as ``code=``, or gives to what `TAKE` lists, and `CHOSEN`."""
    found = {CHOSEN} if CHOSEN.module in ours.paths else set()

    class Calls(Reader):
        def _Call(self, node: ast.Call) -> str:
            place = TAKE.get(ast.unparse(node.func).split(".")[-1], len(node.args))
            given = [each.value for each in node.keywords if each.arg == "code"]
            for each in (*node.args[place : place + 1], *given):
                items = each.elts if isinstance(each, ast.List) else [each]
                found.update(root for item in items if (root := self.lead(item)))
            return self.fields(node)

    for module in ours.paths:
        for name, statements in ours.module(module).definitions.items():
            Calls(ours, module, name).read(statements)
    return found
