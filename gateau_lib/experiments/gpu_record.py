"""What a card was measured to do: one file, written row by row, so that a run cut short keeps what it has."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gateau_lib.study import devices, manifest
from gateau_lib.study.store import results_root
from gateau_lib.study.whole_files import atomic_write

Row = dict[str, Any]
PACKAGES = ("torch", "transformers", "numpy", "peft", "accelerate")


def start(command: str, tiny: bool, parts: Collection[str]) -> Path:
    """Begin a record of this machine's card in ``results/gpu``, or go on with the one that is there.

    One of the same commit and versions keeps the rows of other parts; any other one is begun anew.

    Args:
        tiny: shapes for any machine: the record lies beside those of cards, not among them.
        parts: those that are about to be measured.
    """
    card = devices.gpu_name() or platform.machine()
    name = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    path = results_root() / ("gpu-tiny" if tiny else "gpu") / f"{name}.json"
    about = {"card": card, "tiny": tiny, **manifest.commit(), "versions": _versions()}
    known = read(path) if path.exists() else {}
    same = all(known.get(key) == value for key, value in about.items())
    about |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
    for rows in ("parts", "rows"):
        about[rows] = [row for row in known.get(rows, []) if same and row["part"] not in parts]
    return write(path, about)


def _versions() -> dict[str, str | None]:
    """Packages, and what torch computes with on a card; None for what is not there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return found | {"cuda": torch.version.cuda, "cudnn": cudnn and str(cudnn)}


def write(path: Path, about: Mapping[str, Any]) -> Path:
    """Write a whole record."""
    return atomic_write(path, json.dumps(about, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A record as `start` began it."""
    return json.loads(path.read_text(encoding="utf-8"))


def add(path: Path, part: str, what: str, **measured: Any) -> Row:
    """Put one row into a record, at once.

    Args:
        measured: what the part measures; seconds, bytes, tokens and operations as plain numbers, None where
            there is nothing to measure.
    """
    row = {"part": part, "what": what, **measured}
    about = read(path)
    about["rows"].append(row)
    write(path, about)
    return row


def end_part(path: Path, part: str, seconds: float, outcome: str) -> None:
    """Say how a part ended: ``done``, or why it did not come to its end."""
    about = read(path)
    about["parts"].append({"part": part, "seconds": round(seconds, 1), "outcome": outcome})
    write(path, about)


def newest(folder: Path | None = None) -> list[dict[str, Any]]:
    """The records of all cards in ``results/gpu``, the last one measured first."""
    files = (folder or results_root() / "gpu").glob("*.json")
    return sorted((read(file) for file in files), key=lambda about: about["date"], reverse=True)
