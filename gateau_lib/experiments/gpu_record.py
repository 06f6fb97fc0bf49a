"""What a card was measured to do: one file, written row by row, so that a run cut short keeps what it has."""

import json
import platform
import re
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gateau_lib.study import devices, manifest
from gateau_lib.study.errors import reason
from gateau_lib.study.store import results_root
from gateau_lib.study.whole_files import atomic_write

PACKAGES = ("torch", "transformers", "numpy", "peft", "accelerate")


def start(command: str, tiny: bool, parts: Collection[str], commit: str = "") -> Path:
    """Begin a record of this machine's card in ``results/cards``, or go on with the one that is there.

    One of the same versions keeps the parts other than ``parts``, which are about to be measured, each with
    the commit it was measured at; any other one is begun anew. The record of ``tiny`` shapes lies beside
    those of cards.
    ``commit``: of a copy of the repository that has no history to read it from.
    """
    card = devices.gpu_name() or platform.machine()
    name = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    path = results_root() / ("cards-tiny" if tiny else "cards") / f"{name}.json"
    about = {"card": card, "tiny": tiny, **manifest.commit(), "versions": _versions()}
    about |= {"commit": commit, "dirty": False} if commit else {}
    known = read(path) if path.exists() else {}
    same = all(known.get(key) == about[key] for key in ("card", "tiny", "versions"))
    about |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
    for rows in ("parts", "rows"):
        about[rows] = [row for row in known.get(rows, []) if same and row["part"] not in parts]
    return write(path, about)


def _versions() -> dict[str, str]:
    """Packages, and what torch computes with on a card."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return found


def write(path: Path, about: Mapping[str, Any]) -> Path:
    """Write a whole record."""
    return atomic_write(path, json.dumps(about, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A record as `start` began it, with the ``rows`` and ``parts`` so far."""
    return json.loads(path.read_text(encoding="utf-8"))


def add(path: Path, part: str, what: str, **about: Any) -> None:
    """Put one row into a record, at once: seconds, bytes, tokens and operations as plain numbers."""
    record = read(path)
    record["rows"].append({"part": part, "what": what, **about})
    write(path, record)


def measure(
    path: Path,
    part: str,
    what: str,
    device: torch.device,
    work: Callable[[], Any],
    repeats: int = 2,
    **about: Any,
) -> None:
    """Do some work once and ``repeats`` times more, and add its row: seconds of the first time, the best of
    the others, the most bytes on the card; or why it could not be done, so that the next one can be."""
    on_card = device.type == "cuda"
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    found = []
    try:
        for _ in range(1 + repeats):
            begin = time.perf_counter()
            work()
            if on_card:
                torch.cuda.synchronize(device)
            found.append(time.perf_counter() - begin)
    except Exception as error:
        add(path, part, what, **about, seconds=None, note=f"{type(error).__name__}: {reason(error)}")
        return
    peak = {"peak_bytes": torch.cuda.max_memory_allocated(device)} if on_card else {}
    add(path, part, what, **about, first_seconds=found[0], seconds=min(found[1:]), **peak)


def end_part(path: Path, part: str, seconds: float, outcome: str) -> None:
    """Say how a part ended, and of which state of the code: ``done``, or why it did not come to its end."""
    record = read(path)
    of = {name: record[name] for name in ("commit", "dirty", "date")}
    record["parts"].append({"part": part, "seconds": round(seconds, 1), "outcome": outcome, **of})
    write(path, record)


def newest(folder: Path) -> list[dict[str, Any]]:
    """The records of all cards in a folder, the last one measured first."""
    return sorted(map(read, folder.glob("*.json")), key=lambda about: about["date"], reverse=True)
