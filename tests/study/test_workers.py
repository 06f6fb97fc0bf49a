"""Workers end with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gateau_lib.study.workers import JobError, run_jobs

SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import waiting
from gateau_lib.study.workers import run_jobs
if __name__ == "__main__":
    run_jobs(waiting.wait, {"a": (), "b": ()}, 2, "waiting")
"""


def test_workers_of_a_killed_run_end(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text("import time\n\ndef wait():\n    time.sleep(120)\n")
    (tmp_path / "run.py").write_text(SCRIPT)
    repository = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": f"{repository}{os.pathsep}{tmp_path}"}
    run = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(tmp_path)], env=environment)
    family, deadline = psutil.Process(run.pid), time.monotonic() + 60
    # Until both workers have imported torch: they watch their parent from then on.
    while (
        time.monotonic() < deadline
        and sum("torch" in " ".join(m.path for m in child.memory_maps()) for child in family.children()) < 2
    ):
        time.sleep(0.2)
    workers = family.children()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        worker.kill()
    assert len(workers) >= 2 and not alive


def begun() -> int:
    """The process that does this job."""
    return os.getpid()


def refused() -> None:
    """A job that fails."""
    raise ValueError("no")


def test_processes_are_used_again_until_a_job_fails_or_the_environment_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    first, second = (run_jobs(begun, {"a": ()}, 1, "asking") for _ in range(2))
    assert first == second != [os.getpid()]
    with pytest.raises(JobError, match="b: ValueError: no"):
        run_jobs(refused, {"b": ()}, 1, "asking")
    third = run_jobs(begun, {"a": ()}, 1, "asking")
    assert third != second
    monkeypatch.setenv("GATEAU_ANYTHING", "1")
    assert run_jobs(begun, {"a": ()}, 1, "asking") != third


def test_a_process_that_dies_while_it_waits_fails_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    (idle,) = run_jobs(begun, {"a": ()}, 1, "asking")
    os.kill(idle, signal.SIGKILL)
    time.sleep(0.5)
    assert run_jobs(begun, {"a": ()}, 1, "asking") != [idle]
