"""The site, built from a folder of results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def built(place: Path) -> Path:
    """Build a copy of ``docs`` with the results in ``place/results``, nothing may be amiss; its HTML."""
    shutil.copytree(ROOT / "docs", place / "docs", ignore=shutil.ignore_patterns("_build", "notebooks"))
    environment = os.environ | {"GATEAU_RESULTS": str(place / "results"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    command += ["-d", str(place / "trees"), str(place / "docs"), str(place / "html")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return place / "html"
