"""Content keys of code: hashes of what a piece of code depends on, wherever in the library that lies.

The unit is the top-level definition: an edit of one function changes the key of what calls it, directly or
not, and of nothing else. A move, a renaming, a comment change no key. `definitions` tells what counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import gateau_lib
from gateau_lib.study.bindings import FILE, WHOLE, Library, Node, library, tree
from gateau_lib.study.definitions import Definition, Reader, definition

CHANGES_NO_RESULT = True  # it says what a result is called, not what it is
PACKAGE = Path(gateau_lib.__file__).parent
SCRIPT = Node("", "<code>")


def source_hash(code: Sequence[ModuleType | Any], package: Path = PACKAGE) -> str:
    """Key of modules, functions or classes of the package and of all they depend on inside it; 64 hex digits.

    Raises:
        ValueError: an item of another package.
    """
    roots = []
    for item in code:
        is_module = isinstance(item, ModuleType)
        module = item.__name__ if is_module else item.__module__
        if module.split(".")[0] != package.name:
            raise ValueError(
                f"{item!r} is not code of {package.name}; pass modules, functions or classes of it"
            )
        roots.append(Node(module.partition(".")[2], WHOLE if is_module else item.__qualname__.split(".")[0]))
    return definition_hash(roots, package)


def definition_hash(roots: Sequence[Node], package: Path = PACKAGE) -> str:
    """What `source_hash` gives for definitions, without importing them."""
    ours = library(package)
    found = [ours.find(root, set()) or Node(root.module, WHOLE) for root in roots]
    start = {node: definition(ours, node) for node in found if ours.counts(node)}
    return _key(start, _reach(start, ours), package)


def text_parts(source: str, package: Path = PACKAGE) -> dict[str, str]:
    """What a script or a notebook's code depends on.

    Returns:
        ``<key>``: the hash of all. The others tell by the names of now where a change of it comes from:
        ``<code>`` is the text's own; then each definition (``module.name``), what runs on import of a module
        (``module``), each file (``<file> name``).
    """
    ours = library(package)
    start = {SCRIPT: Reader(ours).read_script(tree(source, "a notebook", package.name))}
    reached = _reach(start, ours)
    parts = {"<key>": _key(start, reached, package)}
    for node, each in reached.items():
        if node.name == FILE:
            parts[f"<file> {each.text}"] = path_hash(package / node.module)
        else:
            parts[f"{node.module}.{node.name}".strip(".")] = digest(
                json.dumps([each.text, *(n.name for n in each.named)])
            )
    return parts


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


def _reach(start: Mapping[Node, Definition], ours: Library) -> dict[Node, Definition]:
    """All that a start leads to, itself among them."""
    reached = dict(start)
    todo = list(reached.values())
    for each in todo:  # it grows
        new = [node for node in dict.fromkeys((*each.named, *each.brings)) if node not in reached]
        reached |= {node: definition(ours, node) for node in new}
        todo += [reached[node] for node in new]
    return reached


def _key(start: Mapping[Node, Definition], reached: Mapping[Node, Definition], package: Path) -> str:
    """One hash of the content of definitions and of how they name each other, without a name or a place.

    A definition is told from others by what it says, by what those say that it names, and so on. Each round
    looks one step further; the last is the one that tells no more apart. So a circle needs no care, and equal
    definitions that name equal ones are one. Then the set of all hashes stands for what is reached, and those
    of the start for where it begins.
    """
    hashes = {
        node: digest(f"{each.text} {path_hash(package / node.module)}" if node.name == FILE else each.text)
        for node, each in reached.items()
    }
    apart = 0
    while len(set(hashes.values())) > apart:
        apart = len(set(hashes.values()))
        hashes = {
            n: digest(" ".join([hashes[n], *(hashes[named] for named in each.named)]))
            for n, each in reached.items()
        }
    return digest(json.dumps([sorted(hashes[node] for node in start), sorted(set(hashes.values()))]))
