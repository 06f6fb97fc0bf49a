"""The facts about this machine's GPUs, and that the ground does without torch until somebody computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gateau_lib
from gateau_lib.study import devices, manifest

PACKAGE = Path(gateau_lib.__file__).parent


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """``driver(*lines, status=0)``: an nvidia-smi that answers so."""

    def install(*lines: str, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + f"exit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("GATEAU_DEVICE", raising=False)
    return install


@pytest.mark.parametrize(
    ("visible", "left"), [(None, [81559, 24564]), ("1", [24564]), ("GPU-aa", [81559]), ("", [])]
)
def test_only_visible_gpus_count(driver, monkeypatch, visible, left):
    driver("0, GPU-aa, NVIDIA H100 80GB HBM3, 81559", "1, GPU-bb, NVIDIA A10, 24564")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpu_memory() == [size * 2**20 for size in left]
    assert devices.gpu_name() == "NVIDIA H100 80GB HBM3"
    assert manifest.machine()["device"] == "NVIDIA H100 80GB HBM3"


def test_a_driver_that_does_not_work_is_no_gpu(driver):
    driver("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", status=9)
    assert devices.driver_gpus() == [] and devices.gpu_name() == "" and devices.gpu_memory() == []
    assert manifest.machine()["device"] == "cpu"


def test_no_module_of_the_ground_loads_torch():
    names = [f"gateau_lib.study.{path.stem}" for path in sorted((PACKAGE / "study").glob("*.py"))]
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
    code += "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(names) > 20 and done.stdout == "[]\n"
