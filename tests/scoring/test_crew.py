"""Some processes of one machine leave the table that one leaves; whatever ends them, none stays."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from scoring_command import command, write_data

from gateau_lib import score
from gateau_lib.methods.base import Options
from gateau_lib.scoring import crew
from gateau_lib.scoring.part_files import Job
from gateau_lib.scoring.settings import ScoringRun
from gateau_lib.study import devices, errors

RUN = ScoringRun(
    Path("d.jsonl"), Path("s.parquet"), Options(("hmg",), "ntk", 16, 256, 128), "short", "long", device="cpu"
)
TWO = ["--workers", "2", "--threads", "1"]
two_cores = pytest.mark.skipif(devices.cores() < 2, reason="two workers need two cores")


# Who scores where -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "change", "workers", "told"),
    [
        (0, {}, 3, [("cpu", 2)] * 3),
        (0, {"threads": 1}, 4, [("cpu", 1)] * 4),
        (4, {}, 1, [("cpu", 8)]),
        (4, {"device": "cuda"}, 2, [("cuda:0", None), ("cuda:1", None)]),
        (4, {"device": "cuda:3", "threads": 2}, 1, [("cuda:3", 2)]),
    ],
)
def test_a_gpu_or_a_share_of_the_cores_for_each(gpus, change, workers, told, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 8)
    monkeypatch.setattr(crew.torch.cuda, "device_count", lambda: gpus)
    found = crew._layout(replace(RUN, **change), workers)
    assert [(run.device, run.threads) for run in found] == told


@pytest.mark.parametrize(
    ("change", "workers", "message"),
    [
        ({}, 9, "--workers 9 of 1 threads: this machine has 8 CPU cores; give fewer"),
        ({"threads": 3}, 3, "--workers 3 of 3 threads"),
        ({"device": "cuda"}, 3, "--workers 3: 2 GPUs can be used here"),
        ({"device": "cuda:1"}, 2, "--workers 2: 1 GPUs can be used here"),
    ],
)
def test_more_than_the_machine_holds_are_refused(change, workers, message, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 8)
    monkeypatch.setattr(crew.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(errors.ScoreError, match=message):
        crew._layout(replace(RUN, **change), workers)


def test_a_worker_with_other_models_or_code_refuses():
    scorer = crew.Scorer(RUN, lambda run: (Job(run, {"long": "a", "code": "b"}), None))
    assert scorer.call(scorer.job(), lambda job, pair, number: number, 7) == 7
    with pytest.raises(errors.ScoreError, match="differs from the first worker's in: code; install"):
        scorer.call(Job(RUN, {"long": "a", "code": "c"}), pytest.fail)


# The same bytes ---------------------------------------------------------------------------------------------


def kill_one(parts: Path, killed: list[int]) -> None:
    """Kill a worker as soon as some part is finished, so that it is in the middle of another."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if list(parts.glob("*.json")) and (workers := multiprocessing.active_children()):
            killed.append(len(workers))
            workers[0].kill()
            return
        time.sleep(0.005)


@two_cores
def test_two_workers_one_killed_leave_the_bytes_of_one_process(tmp_path, saved_pair, capfd):
    data, plain, out = (
        write_data(tmp_path / "d.jsonl", n=36),
        tmp_path / "plain.parquet",
        tmp_path / "s.parquet",
    )
    assert score.main(command(data, saved_pair, plain, "--threads", "1")) == 0
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(tmp_path / "s.parquet.parts", killed))
    killer.start()
    capfd.readouterr()
    assert score.main(command(data, saved_pair, out, *TWO)) == 0
    killer.join()
    said = capfd.readouterr().err
    assert killed == [2] and out.read_bytes() == plain.read_bytes()
    assert said.startswith(
        "a worker died (status -9), most likely out of memory; it begins its shard again\n"
    )
    names = [
        sorted(p.name for p in (tmp_path / f"{name}.parquet.parts").glob("*.json")) for name in ("plain", "s")
    ]
    assert names[0] == names[1] and len(names[0]) == 12
    assert not multiprocessing.active_children()


@two_cores
def test_a_cascade_of_two_workers_leaves_the_bytes_of_one_process(tmp_path, saved_pair):
    data, plain, out = (
        write_data(tmp_path / "d.jsonl", n=30),
        tmp_path / "plain.parquet",
        tmp_path / "s.parquet",
    )
    asked = ["--cascade", "0.1"]
    assert score.main(command(data, saved_pair, plain, "--threads", "1", *asked)) == 0
    assert score.main(command(data, saved_pair, out, *TWO, *asked)) == 0
    assert out.read_bytes() == plain.read_bytes()


# What goes wrong --------------------------------------------------------------------------------------------


@two_cores
def test_a_fault_of_a_model_is_the_line_of_one_process(tmp_path, saved_pair, monkeypatch, capfd):
    shutil.copytree(saved_pair[1], tmp_path / "long")
    weights = tmp_path / "long" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    monkeypatch.chdir(tmp_path)
    line = command(write_data(tmp_path / "d.jsonl"), (saved_pair[0], "long"), tmp_path / "s.parquet")
    capfd.readouterr()
    said = []
    for more in ([], TWO):
        assert score.main([*line, *more]) == 2
        said.append(capfd.readouterr().err)
    assert said[0] == said[1] and said[0].startswith("error: long: ") and said[0].count("\n") == 1


@pytest.mark.parametrize(
    ("begin", "kind", "said"),
    [
        (int, RuntimeError, r"(?s)in a worker:.*crew.py.*invalid literal for int.*'nowhere'"),
        (os.listdir, FileNotFoundError, r"No such file or directory: 'nowhere'"),
    ],
)
def test_other_errors_keep_their_lines_or_their_file(begin, kind, said):
    worker = crew.Worker("nowhere", begin)
    try:
        with pytest.raises(kind, match=said):
            crew.Processes([worker])
    finally:
        worker.end()


def test_a_worker_that_dies_again_and_again_ends_the_run(monkeypatch):
    monkeypatch.setattr(crew, "RETRIES", 1)
    worker = crew.Worker(9, os._exit)
    with pytest.raises(errors.ScoreError, match="most likely out of memory; finished shards are kept"):
        crew.Processes([worker])
    assert not worker.running and worker.deaths == 2


@two_cores
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_run(tmp_path, saved_pair, how):
    """Ctrl-C reaches all processes of a terminal, and one line is said; of SIGKILL workers are not told."""
    line = command(write_data(tmp_path / "d.jsonl", n=300), saved_pair, tmp_path / "s.parquet", *TWO)
    told = {"env": os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, "text": True}
    words = [sys.executable, "-m", "gateau_lib.score", *line]
    run = subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, **told)
    deadline, parts = time.monotonic() + 60, tmp_path / "s.parquet.parts"
    while not list(parts.glob("*.json")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    family = psutil.Process(run.pid).children(recursive=True)
    (os.killpg if how == signal.SIGINT else os.kill)(run.pid, how)
    _, said = run.communicate(timeout=20)
    _, alive = psutil.wait_procs(family, timeout=10)
    for process in alive:
        process.kill()
    assert len(family) >= 2 and not alive and not (tmp_path / "s.parquet").exists()
    if how == signal.SIGINT:
        assert run.returncode == 130
        assert said == "stopped; finished shards are kept, give the same command to go on\n"
