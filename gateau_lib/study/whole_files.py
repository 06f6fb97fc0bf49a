"""Files that appear whole or not at all, and a lock on what a run writes."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gateau_lib.study.errors import ScoreError


@contextmanager
def locked(folder: Path, machines: bool = True) -> Iterator[None]:
    """Hold the folder for this process; a lock that a dead process left is taken over.

    The kernel's lock ends with its process. Not every shared file system passes it on, so where several
    ``machines`` may write, a holder of another one that the file names is believed until somebody deletes it.
    Raises ScoreError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, here = folder / "lock", socket.gethostname()
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        file.seek(0)
        try:
            holder = json.loads(file.read() or "{}")
        except ValueError:  # its holder died while writing
            holder = {}
        if not free or (machines and holder.get("host", here) != here):
            process, host, since = (holder.get(each, "?") for each in ("process", "host", "since"))
            who = f"another run writes here (process {process} on {host}, since {since})"
            raise ScoreError(f"{folder}: {who}; wait for it, or delete {path} if it died elsewhere")
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"process": os.getpid(), "host": here, "since": now}) + "\n")
        file.flush()
        for left in filter(Path.is_file, folder.glob(".*.part")):  # what a killed run was writing
            left.unlink(missing_ok=True)
        try:
            yield
        finally:
            file.truncate(0)


def atomic_write(path: Path | str, content: str | bytes) -> Path:
    """Write a file whole or not at all; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
