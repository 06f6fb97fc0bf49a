"""Keys of code see every edit that can change a result, and no move, no renaming, no other way to import."""

from __future__ import annotations

import ast
import re
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from gateau_lib.data import samples
from gateau_lib.study import code_hash, notebooks
from gateau_lib.study.code_hash import library
from gateau_lib.study.definitions import Node
from gateau_lib.training import pretrain

FILES = {
    "__init__": "",
    "a": """
        '''Doc.'''
        import math
        from os import sep, path
        from pathlib import Path
        from pack import b
        from pack.c import helper as h
        LIMIT = 3
        def uses_b(x):
            '''Doc.'''
            return b.one(x) + LIMIT  # why
        def uses_c(x):
            return h(x)
        def alone(x):
            return math.sqrt(x)
        def by_name(name):
            return getattr(b, name)
        def reads():
            return Path(__file__).with_name("words.yml"), sep
        def starts():
            return ["-m", "pack.d", "--quick"]
        def around(x):
            return back(x - 1) if x else 0
        def back(x):
            return around(x - 2)
    """,
    "b": """
        def one(x):
            return two(x)
        def two(x):
            return x
        def three(x):
            return x
    """,
    "c": "def helper(x):\n    return x\nprint\nif __name__ == '__main__':\n    helper(1)\n",
    "d": "def main():\n    return 1\nif __name__ == '__main__':\n    main()\n",
    "sizes": "CHANGES_NO_RESULT = True\nSIZE = 1\n",
}
FUNCTIONS = ("uses_b", "uses_c", "alone", "by_name", "reads", "starts", "around")
NOTEBOOK = "from pack import a, sizes\nprint(a.{}(sizes.SIZE))"


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "pack"
    write(root, **FILES)
    (root / "words.yml").write_text("a: 1\n")
    return root


def write(package: Path, **files: str) -> None:
    """Modules by name; ``room__c`` is ``room/c.py``, ``room____init__`` is ``room/__init__.py``."""
    for name, text in files.items():
        inner = name.removesuffix("__init__")
        path = package / f"{inner.replace('__', '/')}{name.removeprefix(inner)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())


def edit(package: Path, name: str, old: str, new: str) -> None:
    path = package / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def key(package: Path, text: str) -> str:
    return code_hash.text_parts(text, package)["<key>"]


def found(package: Path, *names: str) -> list[str]:
    """Keys of definitions ``module.name``."""
    return [code_hash.definition_hash([Node(*name.rsplit(".", 1))], package) for name in names]


def move(package: Path, places: dict[str, str], *texts: str) -> list[str]:
    """Move and rename modules (old -> new dotted name) with all imports and strings;
    returns texts likewise."""

    def rewritten(text: str) -> str:
        lines = text.split("\n")
        imports = [
            n
            for n in ast.walk(ast.parse(text))
            if isinstance(n, ast.ImportFrom) and (n.module or "").split(".")[0] == package.name
        ]
        for item in sorted(imports, key=lambda n: -n.lineno):
            new = []
            for alias in item.names:
                full = f"{item.module}.{alias.name}".removeprefix(package.name + ".")
                room, _, name = places.get(full, full).rpartition(".")
                bound = alias.asname or alias.name
                whole = ".".join(filter(None, [package.name, room]))
                new.append(f"from {whole} import {name}{'' if bound == name else ' as ' + bound}")
            lines[item.lineno - 1 : item.end_lineno] = [" " * item.col_offset + "; ".join(new)]
        pattern = rf"\b{package.name}\.({'|'.join(map(re.escape, sorted(places, key=len, reverse=True)))})\b"
        return re.sub(pattern, lambda m: f"{package.name}.{places[m[1]]}", "\n".join(lines))

    for path in package.rglob("*.py"):
        path.write_text(rewritten(path.read_text()))
    for old, new in places.items():
        target = package / f"{new.replace('.', '/')}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        (package / f"{old.replace('.', '/')}.py").rename(target)
    return [rewritten(text) for text in texts]


# What matters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "file", "old", "new", "changes"),
    [
        ("uses_b", "b.py", "return x\ndef three", "return x + 1\ndef three", True),  # two steps away
        (
            "uses_b",
            "b.py",
            "def three(x):\n    return x",
            "def three(x):\n    return 2 * x",
            False,
        ),  # not called
        (
            "by_name",
            "b.py",
            "def three(x):\n    return x",
            "def three(x):\n    return 2 * x",
            True,
        ),  # looked up at run time
        ("by_name", "b.py", "def three(", "def drei(", True),  # by this name
        ("uses_b", "a.py", "LIMIT = 3", "LIMIT = 4", True),
        ("alone", "a.py", "LIMIT = 3", "LIMIT = 4", False),
        ("uses_b", "a.py", "'''Doc.'''", "'''Other.'''", False),
        ("uses_b", "a.py", "# why", "# because", False),
        ("uses_b", "a.py", "return b.one(x) + LIMIT", "return (b.one(x)\n            + LIMIT)", False),
        ("uses_c", "c.py", "return x", "return -x", True),  # imported under another name
        ("uses_c", "c.py", "helper(1)", "helper(2)", False),  # only as a script
        ("uses_c", "c.py", "print\n", "print('hello')\n", True),  # on import
        ("alone", "a.py", "import math", "import cmath as math", True),
        ("alone", "a.py", "from os import sep, path", "from os import sep", False),
        ("reads", "words.yml", "a: 1", "a: 2", True),
        ("alone", "words.yml", "a: 1", "a: 2", False),
        ("starts", "d.py", "return 1", "return 2", True),
        ("starts", "d.py", "    main()", "    main(), main()", True),  # as a script
        ("starts", "a.py", "--quick", "--slow", True),
        ("around", "a.py", "around(x - 2)", "around(x - 3)", True),  # in a circle
        ("around", "a.py", "return around(x - 2)", "return back(x - 2)", True),
        ("alone", "sizes.py", "1", "2", False),  # marked
    ],
)
def test_source_parts_see_what_matters(package, function, file, old, new, changes):
    before = key(package, NOTEBOOK.format(function))
    edit(package, file, old, new)
    assert (key(package, NOTEBOOK.format(function)) != before) is changes


def test_notebook_code_counts_without_its_comments(package):
    parts = code_hash.text_parts("x = 1", package)
    assert parts == code_hash.text_parts("x = 1  # one", package)
    assert key(package, "x = 1") != key(package, "x = 2")


def test_parts_tell_by_name_where_a_change_comes_from(package):
    before = code_hash.text_parts(NOTEBOOK.format("uses_b"), package)
    edit(package, "b.py", "return x\ndef three", "return x + 1\ndef three")
    after = code_hash.text_parts(NOTEBOOK.format("uses_b"), package)
    assert before.keys() == after.keys() == {"<key>", "<code>", "a.uses_b", "a.LIMIT", "b.one", "b.two"}
    assert {name for name in before if before[name] != after[name]} == {"<key>", "b.two"}


def test_a_module_that_a_docstring_names_is_not_used(package):
    edit(package, "a.py", "'''Doc.'''\nimport", "'''See pack.b.'''\nimport")
    edit(package, "a.py", "def alone(x):", "def alone(x):\n    '''Like pack.b.'''")
    text = "'''As pack.b.'''\n" + NOTEBOOK.format("alone")
    before = key(package, text)
    edit(package, "b.py", "def three(x):\n    return x", "def three(x):\n    return 2 * x")
    assert key(package, text) == before


@pytest.mark.parametrize(
    "statement",
    ["import pack.b", "from pack.b import *", "run('python -m pack.b --x')", "import pack\nlook(pack.b)"],
)
def test_unclear_use_counts_the_whole_module(package, statement):
    before = key(package, statement)
    edit(package, "b.py", "def three(x):\n    return x", "def three(x):\n    return 2 * x")
    assert key(package, statement) != before


def test_a_module_that_an_error_names_is_not_started(package):
    write(package, e="def f(x):\n    raise ValueError(f'{x}: write it with python -m pack.b')\n")
    before = found(package, "e.f")
    edit(package, "b.py", "def three(x):\n    return x", "def three(x):\n    return 2 * x")
    assert found(package, "e.f") == before
    move(package, {"b": "room.bb"})
    assert found(package, "e.f") == before


def test_source_hash_of_modules_and_functions(package, monkeypatch):
    monkeypatch.syspath_prepend(str(package.parent))
    import pack.a
    import pack.b

    try:
        before = [code_hash.source_hash([x], package) for x in (pack.a, pack.b.one, pack.b.three)]
        assert before[1:] == found(package, "b.one", "b.three")
        edit(package, "b.py", "def three(x):\n    return x", "def three(x):\n    return 2 * x")
        after = [code_hash.source_hash([x], package) for x in (pack.a, pack.b.one, pack.b.three)]
        assert [x == y for x, y in zip(before, after, strict=True)] == [False, True, False]
        with pytest.raises(ValueError, match="not code of pack"):
            code_hash.source_hash([textwrap], package)
    finally:
        for name in [n for n in sys.modules if n == "pack" or n.startswith("pack.")]:
            del sys.modules[name]


# Which definition a name is ---------------------------------------------------------------------------------


def test_functions_that_change_places_are_seen(package):
    write(
        package,
        e="from pack import f, g\ndef first(x):\n    return f.run(x)\ndef second(x):\n    return g.run(x)\n",
        f="from pack.h import step\ndef run(x):\n    return step(x)\n",
        g="from pack.i import step\ndef run(x):\n    return step(x)\n",  # the same text, another step
        h="def step(x):\n    return x + 1\n",
        i="def step(x):\n    return x - 1\n",
    )
    text = "from pack import e\ne.first(e.second(1))"
    before = key(package, text)
    assert len(set(found(package, "e.first", "e.second", "f.run", "g.run"))) == 4
    edit(
        package,
        "e.py",
        "f.run(x)\ndef second(x):\n    return g.run(x)",
        "g.run(x)\ndef second(x):\n    return f.run(x)",
    )
    assert key(package, text) != before
    assert key(package, text.replace("e.first(e.second(1))", "e.second(e.first(1))")) == before


def test_names_that_one_statement_binds_are_told_apart(package):
    write(package, e="LOW, HIGH = 1, 2\ndef f(x):\n    return x - LOW\n")
    before = found(package, "e.f")
    edit(package, "e.py", "x - LOW", "x - HIGH")
    assert found(package, "e.f") != before


def test_a_name_inside_a_constant_is_none_of_the_module(package):
    write(
        package,
        e="from pack import b\nBOTH = [b for b in 'xy'], (DEEP := 1)\ndef f():\n    return DEEP, b.one\n",
    )
    before = found(package, "e.f", "e.BOTH")
    edit(package, "b.py", "def three(x):\n    return x", "def three(x):\n    return 2 * x")
    assert found(package, "e.f", "e.BOTH") == before
    edit(package, "e.py", ":= 1", ":= 2")
    assert found(package, "e.f") != before[:1]


def test_a_name_that_is_imported_and_bound_again_is_both(package):
    write(package, e="from pack.b import one\none = cached(one)\n", f="from os import sep\nsep = 2 * sep\n")
    texts = ["from pack import e\ne.one(1)", "from pack import f\ngetattr(f, name)"]
    before = [key(package, text) for text in texts]
    edit(package, "b.py", "return two(x)", "return -two(x)")
    edit(package, "f.py", "2 * sep", "3 * sep")
    after = [key(package, text) for text in texts]
    assert before[0] != after[0] and before[1] != after[1]


def test_each_function_has_its_own_imports(package):
    write(
        package,
        e="""
            def f(x):
                from pack.b import two as g
                return g(x)
            def h(x):
                from pack.c import helper as g
                return g(x)
        """,
    )
    before = found(package, "e.f", "e.h")
    edit(package, "c.py", "return x", "return -x")
    after = found(package, "e.f", "e.h")
    assert before[0] == after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        ("size = 1\n    return size", False),
        ("return [size for size in x]", False),
        ("return [size for size in size(x)]", True),
        ("return [y for y in x if size(y)]", True),
        ("return [size for size in x], size", True),
        ("return lambda size: size", False),
        ("return lambda y=size: y", True),
        ("return (lambda size: size), size", True),
        ("for size in x:\n        return size", False),
        ("with x as size:\n        return size", False),
        ("try:\n        return x\n    except ValueError as size:\n        return size", False),
        ("def size():\n        return 1\n    return size()", False),
        ("def inner():\n        return size(x)\n    return inner", True),
        ("def inner(size):\n        return size\n    return inner", False),
        (
            "size = 1\n    def inner():\n        nonlocal size\n        size = 2\n    return inner, size",
            False,
        ),
        ("size = 1\n    def inner():\n        global size\n        return size\n    return inner", True),
        ("global size\n    size = x\n    return size", True),
        ("match x:\n        case [1, *size]:\n            return size", False),
        ("match x:\n        case {1: 2, **size}:\n            return size", False),
        ("[size := y for y in x]\n    return size", False),
        ("return x.size", False),
        ("class size:\n        pass\n    return size", False),
        (
            "class Local:\n        size = 1\n        def f(self):\n            return size\n    return Local",
            True,
        ),
    ],
)
def test_a_local_name_is_no_call_of_a_function_with_that_name(package, body, calls):
    write(package, e=f"def size(x):\n    return 1\ndef f(x):\n    {body}\n")
    before = found(package, "e.f")
    edit(package, "e.py", "return 1\ndef f", "return 2\ndef f")
    assert (found(package, "e.f") != before) is calls
    # Without the other function, as after a move: only what calls it is another.
    after = found(package, "e.f")
    write(package, e=f"def f(x):\n    {body}\n")
    assert (found(package, "e.f") != after) is calls


def test_methods_and_fields_do_not_hide_a_function_from_the_methods(package):
    write(
        package,
        e="""
            def size(x):
                return 1
            class A:
                def size(self):
                    return size(self)
            class B:
                size: int
        """,
    )
    before = found(package, "e.A", "e.B")
    edit(package, "e.py", "return 1", "return 2")
    after = found(package, "e.A", "e.B")
    assert before[0] != after[0] and before[1] == after[1]


def test_the_name_of_a_class_counts(package):
    write(package, e="class A:\n    pass\n")
    before = found(package, "e.A")
    write(package, e="class B:\n    pass\n")
    assert found(package, "e.B") != before


# What does not matter: place, name and import ---------------------------------------------------------------


@pytest.mark.parametrize(
    "places",
    [
        {"b": "bb"},
        {"b": "room.b"},
        {"a": "room.a"},
        {"a": "room.inner.a", "b": "room.b", "c": "other.see", "d": "room.inner.run", "sizes": "other.sizes"},
    ],
)
@pytest.mark.parametrize("packages", [False, True])
def test_a_moved_or_renamed_module_changes_no_key(package, places, packages):
    texts = [NOTEBOOK.format(function) for function in FUNCTIONS]
    before = [key(package, text) for text in texts]
    texts = move(package, places, *texts)
    for room in {path.parent for path in package.rglob("*.py")} if packages else ():
        (room / "__init__.py").write_text('"""Doc."""\n')
    assert [key(package, text) for text in texts] == before
    assert "words.yml" in str(code_hash.text_parts(texts[FUNCTIONS.index("reads")], package).keys())


@pytest.mark.parametrize(
    "form",
    [
        "from pack.b import one\ndef f(x):\n    return one(x)",
        "from pack.b import one as uno\ndef f(x):\n    return uno(x)",
        "import pack.b as q\ndef f(x):\n    return q.one(x)",
        "from . import b\ndef f(x):\n    return b.one(x)",
        "from .b import one\ndef f(x):\n    return one(x)",
        "def f(x):\n    from pack import b\n    return b.one(x)",
        "def f(x):\n    '''Doc.'''\n    from pack.b import one\n    return one(x)",
        "import typing\nif typing.TYPE_CHECKING:\n    from pack import b\ndef f(x):\n    return b.one(x)",
        "from pack.r import one\ndef f(x):\n    return one(x)",  # by way of another module
        "from pack import room\ndef f(x):\n    return room.one(x)",  # by way of a package
        "import pack\ndef f(x):\n    return pack.b.one(x)",
        "def g(x):\n    return h(x)\ndef h(x):\n    return x\ndef f(x):\n    return g(x)",  # at home
    ],
)
def test_the_form_of_an_import_changes_no_key(package, form):
    write(
        package,
        e="from pack import b\ndef f(x):\n    return b.one(x)",
        r="from pack.b import one",
        room____init__="from ..r import one",
    )
    before = found(package, "e.f")
    write(package, e=form)
    assert found(package, "e.f") == before


def test_a_moved_or_renamed_definition_changes_no_key(package):
    before = key(package, NOTEBOOK.format("uses_b"))
    edit(package, "b.py", "def two(x):\n    return x\n", "")
    write(package, room__e="def zwei(x):\n    '''Moved.'''\n    return x\ndef other():\n    return 1\n")
    edit(
        package,
        "b.py",
        "def one(x):\n    return two(x)",
        "from pack.room.e import zwei as two\ndef one(x):\n    return two(x)",
    )
    edit(package, "a.py", "LIMIT", "MOST")
    assert key(package, NOTEBOOK.format("uses_b")) == before
    edit(package, "room/e.py", "return x", "return x + 1")
    assert key(package, NOTEBOOK.format("uses_b")) != before


def test_a_circle_over_modules_changes_no_key(package):
    before = key(package, NOTEBOOK.format("around"))
    edit(package, "a.py", "def back(x):\n    return around(x - 2)\n", "")
    edit(package, "a.py", "import math\n", "import math\nfrom pack.e import back\n")
    write(package, e="def back(x):\n    from pack import a\n    return a.around(x - 2)\n")
    assert key(package, NOTEBOOK.format("around")) == before
    edit(package, "e.py", "x - 2", "x - 3")
    assert key(package, NOTEBOOK.format("around")) != before


def test_two_equal_definitions_count_as_one(package):
    write(
        package,
        e="def f(x):\n    return _p(x)\ndef _p(x):\n    return x\n",
        g="def h(x):\n    return _p(x + 1)\ndef _p(x):\n    return x\n",
    )
    text = "from pack import e, g\ne.f(g.h(1))"
    before = key(package, text)
    write(package, g="from pack.e import _p\ndef h(x):\n    return _p(x + 1)\n")
    assert key(package, text) == before


# Strings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["run('-m', 'pack.room.c')", "run('python -m pack.room.c --x')", "x = f'{y} -m pack.room.c.main'"]
)
@pytest.mark.parametrize("packages", [False, True])
def test_a_string_names_the_longest_module_that_there_is(package, text, packages):
    write(package, room__c="def main():\n    return 1\n", **({"room____init__": ""} if packages else {}))
    before = key(package, text)
    edit(package, "room/c.py", "return 1", "return 2")
    after = key(package, text)
    assert after != before
    (package / "room" / "c.py").rename(package / "e.py")
    assert key(package, text.replace("room.c", "e")) == after


def test_a_file_counts_wherever_its_module_lies(package):
    text = NOTEBOOK.format("reads")
    first = key(package, text)
    (text,) = move(package, {"a": "room.inner.a"}, text)
    for folder in ("room/inner", "room", "", "elsewhere"):
        (package / "words.yml").unlink(missing_ok=True)
        target = package / folder
        target.mkdir(exist_ok=True)
        if folder == "elsewhere":
            (target / "other.py").write_text("")
        (target / "words.yml").write_text("a: 1\n")
        assert key(package, text) == first, folder
        (target / "words.yml").write_text("a: 2\n")
        assert key(package, text) != first, folder
        (target / "words.yml").unlink()
    assert key(package, text) != first


def test_a_folder_of_modules_is_no_file(package):
    write(package, room__c="x = 1\n", e="def f():\n    return 'room'\n")
    before = found(package, "e.f")
    edit(package, "room/c.py", "1", "2")
    assert found(package, "e.f") == before


# On import, and what changes no result ----------------------------------------------------------------------


def test_what_runs_on_import_counts_for_all_that_names_definitions_of_the_module(package):
    write(package, e="def f(x):\n    return x\ndef g(x):\n    return -x\n")
    plain = found(package, "e.f", "e.g")
    edit(package, "e.py", "def f", "register(1)\ndef f")
    first = found(package, "e.f", "e.g")
    assert first[0] != plain[0] and first[1] != plain[1]
    # A split: what leaves the module leaves it behind; what calls both has it as before.
    text = "from pack.{} import f\nfrom pack.e import g\nf(g(1))"
    before = key(package, text.format("e"))
    edit(package, "e.py", "def f(x):\n    return x\n", "")
    write(package, room__h="def f(x):\n    return x\n")
    assert key(package, text.format("room.h")) == before
    assert found(package, "room.h.f")[0] == plain[0] and found(package, "e.g")[0] == first[1]


@pytest.mark.parametrize(
    "imports",
    [
        "from pack import e",
        "from pack.e import f",
        "def g():\n    from pack import e",
        "from pack.e import f as f",
    ],
)
def test_a_module_that_is_imported_for_its_effect_runs(package, imports):
    write(package, e="register(1)\ndef f():\n    return 1\n", i=f"{imports}\ndef h(x):\n    return x\n")
    name = "i.g" if "def g" in imports else "i.h"
    before = found(package, name)
    edit(package, "e.py", "register(1)", "register(2)")
    changed = found(package, name)
    assert changed != before
    edit(package, "e.py", "return 1", "return 2")
    assert found(package, name) == changed


def test_the_package_around_a_module_runs_too(package):
    write(package, room__c="def f():\n    return 1\n", room____init__="'''Doc.'''\n")
    before = found(package, "room.c.f")
    write(package, room____init__="'''Other.'''\nregister(1)\n")
    assert found(package, "room.c.f") != before


def test_marked_definitions_and_modules_change_no_key(package):
    write(
        package,
        e="""
            from pack import sizes
            from pack.f import show, work
            def run(x):
                return show(work(x + sizes.SIZE))
        """,
        f="""
            CHANGES_NO_RESULT = ('show',)
            def show(x):
                return helper(x)
            def work(x):
                return x
            def helper(x):
                return x
        """,
    )
    before = found(package, "e.run")
    edit(package, "f.py", "return helper(x)", "return helper(-x)")
    edit(package, "f.py", "def helper(x):\n    return x", "def helper(x):\n    return 2")
    edit(package, "sizes.py", "1", "print(2)")
    move(package, {"sizes": "room.sizes", "f": "room.g"})
    assert found(package, "e.run") == before
    edit(package, "room/g.py", "def work(x):\n    return x", "def work(x):\n    return -x")
    assert found(package, "e.run") != before


def test_a_mark_must_name_what_is_there(package):
    write(package, e="CHANGES_NO_RESULT = ('gone', 'f')\ndef f():\n    return 1\n")
    with pytest.raises(
        ValueError, match="e.py: CHANGES_NO_RESULT names 'gone'; name definitions of this module"
    ):
        found(package, "e.f")


def test_a_module_that_is_no_python_is_named(package):
    write(package, e="def f(:\n")
    with pytest.raises(ValueError, match="e.py, line 1"):
        found(package, "e.f")


# The list of keys -------------------------------------------------------------------------------------------


def test_roots_are_what_is_given_to_source_hash_directly_or_not(package):
    write(
        package,
        e="""
            from pack import b
            from pack.source import source_hash
            from pack.workers import Build
            def by_keyword():
                return place('x', code=[b.one, by_keyword])
            def by_place():
                from pack.c import helper
                return Build('x', helper), source_hash([b.two])
            def _build(name, write):
                return Build(name, write)
            def by_way():
                return _build('x', b.three)
        """,
    )
    places = {f"{node.module}.{node.name}" for node in code_hash.roots(library(package))}
    assert places == {"b.one", "b.two", "e.by_keyword", "c.helper", "b.three"}
    listed = code_hash.all_keys({"01_one": NOTEBOOK.format("uses_b")}, package)
    assert [line.split("\t")[0] for line in listed] == "01_one by_keyword helper one three two".split()
    assert listed[2] == f"helper\t{found(package, 'c.helper')[0]}"


# The library itself -----------------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path) -> Path:
    package = tmp_path / code_hash.PACKAGE.name
    shutil.copytree(code_hash.PACKAGE, package, ignore=shutil.ignore_patterns("tiny_pair", "__pycache__"))
    return package


def shipped_notebooks() -> dict[str, str]:
    paths = sorted((code_hash.PACKAGE.parent / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.stem: notebooks.code(notebooks.read(path), path.name) for path in paths}


@pytest.mark.parametrize(
    ("definition", "retrains"),
    [
        ("data.world.filler", True),
        ("training.pretrain.train", True),
        ("models.tiny.look_back", True),
        ("data.longalign.read_records", False),
        ("scoring.part_files.score_items", False),
        ("study.store._build", False),
        ("study.code_hash._reach", False),
        ("study.progress.track", False),
    ],
)
def test_an_edit_that_cannot_change_the_pair_does_not_train_it_again(copied, definition, retrains):
    before = code_hash.source_hash([pretrain.pair], copied)
    module, _, name = definition.rpartition(".")
    file = copied.joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(file.read_text())
    (function,) = (s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == name)
    function.body.append(ast.Pass())
    file.write_text(ast.unparse(tree))
    assert (code_hash.source_hash([pretrain.pair], copied) != before) is retrains


def test_two_modules_moved_into_a_folder_change_no_key_of_the_library(copied):
    texts = shipped_notebooks()
    before = code_hash.all_keys(texts, copied)
    moved = move(copied, {"methods.hmg": "papers.hmg", "experiments.claims": "study.ledger"}, *texts.values())
    (copied / "experiments" / "claims.yml").rename(copied / "study" / "claims.yml")
    assert code_hash.all_keys(dict(zip(texts, moved, strict=True)), copied) == before


def test_all_modules_moved_and_renamed_change_no_key_of_the_library(copied):
    texts = shipped_notebooks()
    before = code_hash.all_keys(texts, copied)
    files = [path.relative_to(copied) for path in copied.rglob("*.py") if path.stem != "__init__"]
    modules = sorted(".".join(file.with_suffix("").parts) for file in files)
    places = {
        name: f"room_{i % 3}.{'inner.' if i % 2 else ''}its_{name.replace('.', '_')}"
        for i, name in enumerate(modules)
    }
    moved = move(copied, places, *texts.values())
    for file in list(copied.rglob("*.yml")):
        file.rename(copied / "room_1" / file.name)
    assert code_hash.all_keys(dict(zip(texts, moved, strict=True)), copied) == before


def test_every_artefact_of_the_library_has_its_key_in_the_list():
    lines = dict(line.split("\t") for line in code_hash.all_keys({}))
    assert {"trained_once", "write_corpus", "fine_tune", "score_items", "answer", "_write_rows"} <= set(lines)
    assert lines["trained_once"] == code_hash.source_hash([pretrain.trained_once])


def test_library_hash_is_stable():
    assert code_hash.source_hash([samples]) == code_hash.source_hash([samples])
