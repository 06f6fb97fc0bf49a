"""What `make demo-kill`, `make audit` and the scripts that measure do, they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from gateau_lib.methods.cascade import DRAWN

ROOT = Path(__file__).parents[2]


def script(name: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A script of the repository, with the library of this checkout."""
    line = [sys.executable, str(ROOT / "scripts" / name), *more]
    return subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_a_killed_run_is_shown_to_end_with_the_same_bytes():
    done = script("demo_kill.py", "--samples", "16", "--kills", "2")
    assert done.returncode == 0, done.stderr
    first, *kills, last = done.stdout.splitlines()
    assert first.startswith("undisturbed: 16 samples in 8 shards, sha256 ")
    assert [line.split()[0] for line in kills] == ["SIGTERM", "SIGKILL"]
    assert last.startswith("killed 2 times") and "the same bytes" in last


def test_licences_are_listed():
    done = script("audit.py", "--licences")
    assert done.returncode == 0, done.stderr
    assert "numpy" in done.stdout and "Apache" in done.stdout and "Vulnerabilities" not in done.stdout


def test_a_large_selection_is_measured(tmp_path):
    line = ["--records", "300", "--words", "40", "--folder", str(tmp_path), "--csv", str(tmp_path / "m.csv")]
    for more in ([], ["--", "--dedup", "0.8"]):
        done = script("large_select.py", *line, *more)
        assert done.returncode == 0, done.stderr
    record = pd.read_csv(tmp_path / "m.csv")
    assert json.loads(done.stdout)["options"] == "--dedup 0.8" and len(record) == 2
    assert (record["records"] == 300).all() and (record["peak_mib"] > 50).all()
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


def test_the_rate_of_scoring_is_told_by_tenths(tmp_path):
    line = ["--records", "20", "--folder", str(tmp_path), "--csv", str(tmp_path / "m.csv"), "--"]
    done = script("large_score.py", *line, "--threads", "1")
    assert done.returncode == 0, done.stderr
    record = pd.read_csv(tmp_path / "m.csv")
    assert (record["records"] == 2).all() and (record["tokens"] > 100).all() and len(record) == 10
    assert record["peak_mib"].is_monotonic_increasing and record["peak_mib"].iloc[-1] > 50


def test_the_cascades_figure_is_drawn_from_a_record_that_keeps_the_promised_recall():
    picture = ROOT / "docs" / "_static" / "cascade.svg"
    before = picture.read_bytes()
    done = script("cascade_curve.py")
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes() == before
    record = pd.read_csv(ROOT / "results" / "bench" / "cascade.csv", comment="#")
    curve = record[(record["kind"] == "draws") & (record["setting"] == str(DRAWN))]
    pairs = curve[curve["pool"].str.startswith("pair")]
    assert len(pairs) == 24 and pairs["recall"].mean() >= 0.98
    others = curve.set_index("pool").loc[["all planted", "real"]]
    assert (others["recall"] >= 0.98).all() and others.loc["all planted", "tokens"] < 0.7
