"""A machine as it is told to be, for what is planned and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateau_lib.experiments import machine_check
from gateau_lib.sources import hub
from gateau_lib.study import devices


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """``machine(GB of each GPU, ...)``: a machine with all that it takes, but for what is said."""

    def of(
        *cards: float,
        disk: float = 1e5,
        host: float = 1e4,
        torch_version: str = "2.13.0",
        online: bool = True,
    ) -> None:
        monkeypatch.setattr(devices, "gpu_memory", lambda: [int(each * 2**30) for each in cards])
        room, memory = SimpleNamespace(free=disk * 2**30), SimpleNamespace(available=host * 2**30)
        monkeypatch.setattr(machine_check.shutil, "disk_usage", lambda folder: room)
        monkeypatch.setattr(machine_check.psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr(machine_check, "version", lambda name: torch_version)
        monkeypatch.setattr(machine_check, "answers", lambda name, kind="model": online)
        monkeypatch.setattr(hub, "cache", lambda: tmp_path / "hub")
        monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
        monkeypatch.delenv("GATEAU_DATA", raising=False)

    return of
