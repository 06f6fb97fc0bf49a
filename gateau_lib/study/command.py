"""What every command of the library shares: how it ends, and how it talks to the person who waits."""

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

from gateau_lib.study import progress
from gateau_lib.study.errors import UserError, reason

CHANGES_NO_RESULT = True
LIBRARY = logging.getLogger(__name__.partition(".")[0])
# All but tabs and newlines, and what no encoding has (a file's name may hold it).
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
Words = ParamSpec("Words")


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for the command of that name, described by the first line of its module's docstring."""
    about = (doc or "").split("\n")[0]
    return argparse.ArgumentParser(prog=f"python -m gateau_lib.{name}", description=about)


def command(kept: str = "") -> Callable[[Callable[Words, int | None]], Callable[Words, int]]:
    """Make a function a command's ``main``: it returns the exit status and says in one line what to mend.

    A `UserError` gives its own status, a file that cannot be read or written 2, Ctrl-C 130; any other passes.
    ``kept``: what a command that ends early leaves, for example ``"finished shards are kept"``.
    """
    again = "give the same command to go on" if kept else "give the same command again"
    stays = f"{kept}, " if kept else ""

    def wrapped(main: Callable[Words, int | None]) -> Callable[Words, int]:
        @wraps(main)
        def ended(*words: Words.args, **more: Words.kwargs) -> int:
            with messages_shown():
                try:
                    return main(*words, **more) or 0
                except UserError as error:
                    LIBRARY.error("error: %s", error)
                    return error.status
                except OSError as error:
                    place = f"{error.filename}: " if error.filename else ""
                    what = error.strerror or reason(error)
                    LIBRARY.error("error: %s%s; %smend it and %s", place, what, stays, again)
                    return 2
                except KeyboardInterrupt:
                    LIBRARY.error("stopped; %s%s", stays, again)
                    return 130  # as shells have it

        return ended

    return wrapped


def plain(text: str) -> str:
    """A text with its control characters spelled out: it may quote files of others to a terminal."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def tell(text: object) -> None:
    """Print what a command was asked for, `plain`."""
    print(plain(str(text)))


class Lines(logging.Handler):
    """Messages as `plain` lines on standard error, whatever that is at the time; a note is shown once."""

    def __init__(self) -> None:
        super().__init__()
        self._notes: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        text = plain(record.getMessage())
        if record.levelno == logging.INFO and record.name != progress.log.name:
            if text in self._notes:
                return
            self._notes.add(text)
        print(text, file=sys.stderr, flush=True)


@contextmanager
def messages_shown() -> Iterator[None]:
    """Show what the library logs while a command runs, each message once, and no warnings to programmers."""
    if any(isinstance(each, Lines) for each in LIBRARY.handlers):  # one command calls another
        yield
        return
    shown, level, passed_on = Lines(), LIBRARY.level, LIBRARY.propagate
    LIBRARY.addHandler(shown)
    LIBRARY.setLevel(logging.INFO)
    LIBRARY.propagate = False
    try:
        with warnings.catch_warnings():
            # What is to be written otherwise one day is for the library that says so.
            for kind in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        LIBRARY.removeHandler(shown)
        LIBRARY.setLevel(level)
        LIBRARY.propagate = passed_on
