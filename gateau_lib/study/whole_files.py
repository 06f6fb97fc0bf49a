"""Files that appear whole or not at all, and a lock on what a run writes."""

import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from gateau_lib.study.errors import ScoreError, reason


@contextmanager
def locked(folder: Path, machines: bool = True) -> Iterator[None]:
    """Hold the folder for this process; a lock that a dead process left is taken over.

    The kernel's lock ends with its process. Not every shared file system passes it on, so where several
    ``machines`` may write, a holder of another one that the file names is believed until somebody deletes it.
    Raises ScoreError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / "lock", folder, machines) as file:
        for left in filter(Path.is_file, folder.glob(".*.part")):  # what a killed run was writing
            left.unlink(missing_ok=True)
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def locked_for(path: Path) -> Iterator[None]:
    """Hold a file that is to be written, by a hidden file beside it that is gone afterwards.

    Raises ScoreError: another run holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with _held(lock, path, machines=True):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # while it is held: see `_opened`


@contextmanager
def _held(path: Path, what: Path, machines: bool) -> Iterator[BinaryIO]:
    """The lock ``path`` of ``what``, held and open; see `locked`."""
    here = socket.gethostname()
    with ExitStack() as stack:
        file, free = _opened(path, stack)
        file.seek(0)
        try:
            holder = dict(json.loads(file.read() or "{}"))
        except (ValueError, TypeError):  # its holder died while writing
            holder = {}
        if not free or (machines and holder.get("host", here) != here):
            process, host, since = (holder.get(each, "?") for each in ("process", "host", "since"))
            who = f"another run writes here (process {process} on {host}, since {since})"
            raise ScoreError(f"{what}: {who}; wait for it, or delete {path} if it died elsewhere")
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        told = json.dumps({"process": os.getpid(), "host": here, "since": now}) + "\n"
        with suppress(OSError):  # the kernel's lock holds on a full disk too
            file.write(told.encode())
        yield file


def _opened(path: Path, stack: ExitStack) -> tuple[BinaryIO, bool]:
    """The file, and whether this process holds it now; never one that its last holder has deleted since."""
    while True:
        file = cast(BinaryIO, stack.enter_context(path.open("ab+", buffering=0)))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file, False
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, True
        file.close()


def part_of(path: Path) -> Path:
    """Where this process writes a file before it takes its place; `sweep` knows the name."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of writing name the file that was to be, as a full disk's does not by itself."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {reason(error)}") from error
        error.filename = str(path)
        raise


def atomic_write(path: Path | str, content: str | bytes) -> Path:
    """Write a file whole or not at all; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        with naming(path):
            part.write_bytes(content.encode() if isinstance(content, str) else content)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def write_together(files: Mapping[Path, Iterable[bytes]], gone: Iterable[Path] = ()) -> list[Path]:
    """Write some files, pieces one after the other, all or none; the last one vouches for the others.

    Nothing takes its place before all are written. While they do, the last one is missing, so that whoever
    is killed then leaves none rather than an old one beside new ones. ``gone``: older files to be deleted.
    """
    try:
        for path, pieces in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with naming(path), part_of(path).open("wb") as out:
                out.writelines(pieces)
        for old in (list(files)[-1], *gone):
            old.unlink(missing_ok=True)
        for path in files:
            part_of(path).replace(path)
    finally:
        for path in files:
            part_of(path).unlink(missing_ok=True)
    return list(files)


def sweep(*paths: Path) -> None:
    """Delete what processes of this machine that are gone had begun to write in the place of these files."""
    for path in paths:
        head = f".{path.name}."
        for left in path.parent.glob(".*.part"):
            process = left.name[len(head) : -len(".part")]
            if left.name.startswith(head) and process.isdecimal() and not _runs(int(process)):
                left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
