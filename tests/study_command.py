"""A module of the library run as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(results: Path, *words: str, seconds: int) -> subprocess.CompletedProcess[str]:
    """Run a module as a person would, with results in their own folder and the kernel settings
    of the runner."""
    environment = os.environ | {
        "GATEAU_RESULTS": str(results),
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
    }
    environment |= {"IPYTHONDIR": str(results / "ipython"), "GATEAU_DEVICE": "cpu"}
    environment |= {"PYTHONWARNINGS": "ignore:IProgress not found", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
