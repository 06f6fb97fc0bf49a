"""The house: who may import whom, how long a module may be, where its tests stand.

import-linter checks the same direction in `make lint`; here it is read from the sources, without any package.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LIBRARY, TESTS = ROOT / "gateau_lib", ROOT / "tests"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINES, COLUMNS = 300, 110

# What a rule does not hold for, each with its reason; an entry that is not needed any more fails too.
EXCEPTIONS = yaml.safe_load(Path(__file__).with_name("exceptions.yml").read_text(encoding="utf-8"))
LATE = {(name, other) for name, given in EXCEPTIONS["imported_late"].items() for other in given["modules"]}
TESTED_BY: dict[str, str] = EXCEPTIONS["tested_by"]
PACKAGES = {
    "data_juicer": "py-data-juicer"
}  # of other names than what is imported, where they may be missing


def modules() -> dict[str, Path]:
    """Every module by its name inside the package; a room's `__init__` by the room's name."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        assert name not in found, f"a module beside the room of its name: {path}"
        found[name] = path
    del found[""]
    return found


MODULES = modules()


(CONTRACT,) = SETTINGS["tool"]["importlinter"]["contracts"]


def layers() -> dict[str, int]:
    """Rooms and commands by height, 0 the ground; side by side means that neither imports the other."""
    rows = [[name.strip() for name in row.split("|")] for row in CONTRACT["layers"]]
    return {name: height for height, row in enumerate(reversed(rows)) for name in row}


HEIGHT = layers()


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> list[str]:
    """Our own modules that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "write the whole name of the package"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    own = [name.removeprefix("gateau_lib.") for name in names if name.startswith("gateau_lib.")]
    # "room.module.function" is an import of room.module, "room.module" too.
    return [name if name in MODULES else name.rpartition(".")[0] for name in own]


def top(module: str) -> str:
    """The room of a module, or the command itself."""
    return module.partition(".")[0]


@cache
def arrows() -> set[tuple[str, str]]:
    """Pairs (importer, imported), wherever in the file the import stands."""
    found = set()
    for name, path in MODULES.items():
        for node in ast.walk(tree(path)):
            found |= {(name, other) for other in imported(node) if other != name}
    return found


def late() -> set[tuple[str, str]]:
    """The pairs of which the import stands inside a function."""
    found = set()
    for name, path in MODULES.items():
        for function in ast.walk(tree(path)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found |= {(name, other) for node in ast.walk(function) for other in imported(node)}
    return found


def test_every_room_and_command_has_its_place():
    assert {top(name) for name in MODULES} - set(HEIGHT) == set(), (
        "pyproject.toml, [tool.importlinter]: layers"
    )


def test_a_room_imports_only_rooms_below_it():
    upward = {
        f"gateau_lib.{name} -> gateau_lib.{other}"
        for name, other in arrows()
        if top(name) != top(other) and HEIGHT[top(other)] >= HEIGHT[top(name)]
    }
    assert upward == set(CONTRACT.get("ignore_imports", []))


def test_no_circle():
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for name, other in arrows():
        graph[name].add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("circle: " + " <- ".join(error.args[1]))


def test_own_modules_are_imported_at_the_top():
    found = late()
    assert sorted(found - LATE) == [], "move these imports to the top, or give the reason in exceptions.yml"
    assert sorted(LATE - found) == [], "delete these from exceptions.yml"


def own_test(module: str) -> bool:
    """Whether a file of tests has the module's name, in its room's folder; a command's may lie anywhere."""
    room, _, name = module.rpartition(".")
    return bool(list((TESTS / room).rglob(f"test_{name}.py")))


def is_public(module: str) -> bool:
    """Whether a module defines anything that others use."""
    definitions = tree(MODULES[module]).body
    return any(
        isinstance(d, ast.FunctionDef | ast.ClassDef) and not d.name.startswith("_") for d in definitions
    )


def test_every_module_has_a_test_file():
    public = [name for name in MODULES if MODULES[name].name != "__init__.py" and is_public(name)]
    lacking = {name for name in public if not own_test(name)}
    excused = TESTED_BY.keys() | EXCEPTIONS["untested"]
    assert sorted(lacking - excused) == [], (
        "add tests/ROOM/test_MODULE.py, or say in exceptions.yml what tests it"
    )
    assert sorted(excused - lacking) == [], "delete these from exceptions.yml"


@pytest.mark.parametrize("module", sorted(TESTED_BY))
def test_the_file_that_tests_it_imports_the_module(module):
    """Or a command that does."""
    direct = {other for node in ast.walk(tree(TESTS / TESTED_BY[module])) for other in imported(node)}
    below = {other for name, other in arrows() if name in direct}
    assert module in direct | below, f"{TESTED_BY[module]} does not import {module}"


def test_modules_are_short():
    length = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name for name, n in length.items() if n > LINES} == set(EXCEPTIONS["long_modules"])


def test_lines_are_short():
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*LIBRARY.rglob("*.py"), *TESTS.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > COLUMNS
    ]
    assert long == [], f"at most {COLUMNS} columns"


def test_tests_import_no_tests():
    """What two test files share stands in a helper: tests/*.py, tests/reference, tests/servers."""
    names = {path.stem for path in TESTS.rglob("test_*.py")}
    found = []
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(tree(path)):
            asked = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            asked += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [f"{path.name} imports {name}" for name in asked if name.rpartition(".")[2] in names]
    assert found == []


def test_slow_tests_exist():
    """Else a test that got another name would be in the fast loop again."""
    listed = re.findall(r"^\w+", (TESTS / "slow.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    there = {path.stem for path in TESTS.rglob("test_*.py")}
    for path in TESTS.rglob("test_*.py"):
        there |= {node.name for node in tree(path).body if isinstance(node, ast.FunctionDef)}
    assert listed and sorted(set(listed) - there) == []


@pytest.mark.parametrize("module", ["select", "study"])
def test_no_torch_where_none_is_needed(module):
    """Selecting reads a table, and `make status` answers in a second: neither loads torch or transformers."""
    inside = [name for name in MODULES if name == module or name.startswith(f"{module}.")]
    lines = [f"import gateau_lib.{name}" for name in inside]
    lines += ["import sys", "print(sorted({'torch', 'transformers'} & set(sys.modules)))"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def third_party() -> set[str]:
    """Names of packages that the library imports and Python does not bring."""
    names = set()
    for path in MODULES.values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names - sys.stdlib_module_names - {"gateau_lib"}


def test_what_is_imported_is_listed():
    project = SETTINGS["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    listed = {canonicalize_name(Requirement(text).name) for group in groups for text in group}
    brought_by = packages_distributions()
    for name in third_party():
        distributions = {canonicalize_name(each) for each in brought_by.get(name, [PACKAGES.get(name, name)])}
        assert distributions & listed, f"{name} is imported; list its package in pyproject.toml"
