"""How commands end: one line for what the user can mend, a traceback for what he cannot."""

from __future__ import annotations

import ast
import importlib
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import gateau_lib
from gateau_lib.study import command, progress
from gateau_lib.study.errors import DataError, UserError
from gateau_lib.study.staleness import RunError

PACKAGE = Path(gateau_lib.__file__).parent
# Raised and caught inside the library, or the failure of a worker, which may be a fault of the program.
NOT_THE_USERS = {"Busy", "JobError", "NotKept"}


def ends(error: BaseException | None, kept: str = "") -> int:
    @command.command(kept)
    def main() -> None:
        if error:
            raise error

    return main()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (DataError("d.jsonl, line 3: no text"), 2, "error: d.jsonl, line 3: no text"),
        (RunError("02.ipynb, cell 4: it raised"), 1, "error: 02.ipynb, cell 4: it raised"),
        (RunError("the kernel died", 138), 138, "error: the kernel died"),
        (
            FileNotFoundError(2, "No such file or directory", "a.txt"),
            2,
            "error: a.txt: No such file or directory; parts stay, mend it and give the same command to go on",
        ),
        (
            OSError("cannot connect\nto the host"),
            2,
            "error: cannot connect; parts stay, mend it and give the same command to go on",
        ),
        (OSError(), 2, "error: OSError; parts stay, mend it and give the same command to go on"),
        (KeyboardInterrupt(), 130, "stopped; parts stay, give the same command to go on"),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, status, said, capsys):
    assert ends(error, kept="parts stay") == status
    assert capsys.readouterr().err == said + "\n"


def test_a_command_that_keeps_nothing_does_not_say_so(capsys):
    assert ends(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "stopped; give the same command again\n"
    assert ends(None) == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error", [ValueError("operands could not be broadcast"), KeyError("id"), RuntimeError("bug")]
)
def test_a_fault_of_the_program_keeps_its_traceback(error):
    """Also a ValueError, which many of the user's slips are, too."""
    with pytest.raises(type(error)):
        ends(error)


def test_every_class_of_errors_is_the_users_or_known_not_to_be():
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                try:
                    each = getattr(importlib.import_module(module), node.name)
                except ModuleNotFoundError as error:  # an optional package
                    assert error.name and not error.name.startswith("gateau_lib")
                    continue
                if issubclass(each, BaseException) and not issubclass(each, UserError):
                    found.add(node.name)
    assert found == NOT_THE_USERS


def test_every_command_ends_the_same_way():
    """Each module at the root that can be run has a main made by `command.command`, and is run through it."""
    for path in sorted(PACKAGE.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "def main(" in text:
            (main,) = (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == "main")
            assert ast.unparse(main.decorator_list[0]).startswith("command("), path.name
            assert text.endswith('if __name__ == "__main__":\n    sys.exit(main())\n'), path.name
            assert "file=sys.stderr" not in text, path.name


def test_messages_are_shown_once_and_only_while_a_command_runs(capsys):
    log = logging.getLogger("gateau_lib.somewhere")

    @command.command()
    def inner() -> None:
        log.info("reading %s", "a")

    @command.command()
    def outer() -> None:
        inner()
        log.warning("one\ntwo")

    outer()
    assert capsys.readouterr().err == "reading a\none\ntwo\n"
    log.info("after")
    assert capsys.readouterr().err == "" and not command.LIBRARY.handlers and command.LIBRARY.propagate


def test_who_uses_the_library_decides_what_is_shown(caplog, capsys):
    with caplog.at_level(logging.INFO, "gateau_lib"):
        progress.say("half done")
    assert caplog.messages == ["half done"] and capsys.readouterr().err == ""


def test_without_any_set_up_lines_and_warnings_are_seen():
    """As in a notebook, or in a process that a notebook starts."""
    code = "from gateau_lib.study.progress import say, log; say('half done'); log.warning('damaged')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "half done\ndamaged\n"


def test_no_message_moves_the_cursor_of_a_terminal(capsys):
    """What a model's folder raises, or a file's name that is no Unicode, is told, not obeyed."""
    log = logging.getLogger("gateau_lib.somewhere")

    @command.command()
    def main() -> None:
        command.tell("one\ttwo\nthe template says \x1b[2J\r and \x9b, in a\udcff.jsonl")
        log.warning("\x1b]0;title\x07")
        raise DataError("it says \x1b[31m")

    assert main() == 2
    said = capsys.readouterr()
    assert said.out == "one\ttwo\nthe template says \\x1b[2J\\r and \\x9b, in a\\udcff.jsonl\n"
    assert said.err == "\\x1b]0;title\\x07\nerror: it says \\x1b[31m\n"


def test_a_note_is_told_once_and_progress_always(capsys):
    log = logging.getLogger("gateau_lib.somewhere")

    @command.command()
    def main() -> None:
        for name in "aba":
            log.info("%s: left alone", name)
            log.warning("%s: damaged", name)
            progress.say("half done")

    main()
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "left" in line] == ["a: left alone", "b: left alone"]
    assert lines.count("a: damaged") == 2 and lines.count("half done") == 3


def test_what_other_libraries_tell_their_developers_is_not_shown(capsys):
    def old() -> None:
        warnings.warn("`this` is deprecated, use `that`", FutureWarning, stacklevel=1)
        warnings.warn("the sums may be wrong", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        command.command()(old)()
    assert [str(each.message) for each in seen] == ["the sums may be wrong"]
