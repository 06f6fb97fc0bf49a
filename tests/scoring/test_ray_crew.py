"""A run on Ray leaves the same table as a local one, also when a worker is killed;
what does not fit is one clear line."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from scoring_command import command, write_data

from gateau_lib import score
from gateau_lib.methods.base import Options
from gateau_lib.scoring import ray_crew
from gateau_lib.scoring.settings import ScoringRun
from gateau_lib.study import errors

ray_only = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an optional extra")


def run_with(**change):
    options = Options(("hmg",), "ntk", 16, 256, 128)
    return ScoringRun(Path("d.jsonl"), Path("s.parquet"), options, "short", "long", **change)


@pytest.mark.parametrize(
    ("machines", "change", "workers", "needs", "threads"),
    [
        ([{"CPU": 16.0, "GPU": 4.0}], {}, 4, {"num_gpus": 1, "num_cpus": 0}, None),
        ([{"CPU": 16.0, "GPU": 4.0}], {"workers": 2}, 2, {"num_gpus": 1, "num_cpus": 0}, None),
        ([{"CPU": 8.0, "GPU": 2.0}] * 2, {"device": "cpu"}, 2, {"num_cpus": 8}, 8),
        ([{"CPU": 8.0}] * 2, {}, 2, {"num_cpus": 8}, 8),
        ([{"CPU": 8.0}] * 2, {"workers": 4}, 4, {"num_cpus": 4}, 4),
        ([{"CPU": 8.0}] * 2, {"workers": 4, "threads": 2}, 4, {"num_cpus": 2}, 2),
        ([{"CPU": 4.0}, {"CPU": 64.0}], {}, 2, {"num_cpus": 32}, 32),  # both on the large one
        ([{"CPU": 16.0}] * 2, {"workers": 3}, 3, {"num_cpus": 8}, 8),
        (
            [{"memory": 1.0}, {"CPU": 4.0}],
            {"workers": 1},
            1,
            {"num_cpus": 4},
            4,
        ),  # a machine that only keeps the books
    ],
)
def test_one_worker_a_gpu_or_per_some_cores(machines, change, workers, needs, threads):
    assert ray_crew._layout(run_with(**change), machines) == (workers, needs, threads)


@pytest.mark.parametrize(
    ("resources", "change", "message"),
    [
        ({"CPU": 4.0, "GPU": 1.0}, {"workers": 2}, "the cluster has 1 GPUs"),
        ({"CPU": 4.0}, {"workers": 5}, "the cluster has 4 CPU cores"),
        ({"CPU": 4.0}, {"workers": 2, "threads": 3}, "--workers 2 of 3 threads"),
        ({"CPU": 4.0}, {"threads": 5}, "--workers 1 of 5 threads"),
    ],
)
def test_more_workers_than_the_cluster_holds_are_refused(resources, change, message):
    with pytest.raises(errors.ScoreError, match=message):
        ray_crew._layout(run_with(**change), [resources])


def test_without_ray_one_line_says_what_to_install(tmp_path, saved_pair, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = command(write_data(tmp_path / "d.jsonl"), saved_pair, tmp_path / "s.parquet", "--engine", "ray")
    assert score.main(line) == 2
    said = capsys.readouterr().err
    assert "pip install" in said and said.count("\n") == 1


def descends(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def busy_workers() -> list[int]:
    """Processes below this one that Ray runs a Scorer in."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if "ray::Scorer" in (folder / "cmdline").read_text() and descends(int(folder.name), os.getpid()):
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)


def kill_one(parts: Path, killed: list[int]) -> None:
    """Kill a worker as soon as some part is finished, so that it is in the middle of another."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if list(parts.glob("*.json")) and len(found := busy_workers()) == 2:
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])
            return
        time.sleep(0.01)


@ray_only
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker to kill in /proc")
def test_two_workers_one_killed_leave_the_same_bytes(tmp_path, saved_pair, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    data, fixed = write_data(tmp_path / "d.jsonl", n=36), ["--threads", "1", "--methods", "hmg,cam,prolong"]
    plain, clustered = tmp_path / "plain.parquet", tmp_path / "ray.parquet"
    assert score.main(command(data, saved_pair, plain, *fixed)) == 0
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(tmp_path / "ray.parquet.parts", killed))
    killer.start()
    assert score.main(command(data, saved_pair, clustered, *fixed, "--engine", "ray", "--workers", "2")) == 0
    killer.join()
    assert killed and clustered.read_bytes() == plain.read_bytes()
    names = [
        {p.name for p in (tmp_path / f"{name}.parquet.parts").glob("*.json")} for name in ("plain", "ray")
    ]
    assert names[0] == names[1] and len(names[0]) == 12


@ray_only
def test_a_cascade_on_ray_leaves_the_same_bytes(tmp_path, saved_pair, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    data, fixed = write_data(tmp_path / "d.jsonl", n=30), ["--threads", "1", "--cascade", "0.1"]
    plain, clustered = tmp_path / "plain.parquet", tmp_path / "ray.parquet"
    assert score.main(command(data, saved_pair, plain, *fixed)) == 0
    assert score.main(command(data, saved_pair, clustered, *fixed, "--engine", "ray", "--workers", "2")) == 0
    assert clustered.read_bytes() == plain.read_bytes()


@ray_only
def test_what_is_wrong_with_a_model_is_one_line_from_a_worker_too(tmp_path, saved_pair, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    line = command(
        write_data(tmp_path / "d.jsonl"), (saved_pair[0], tmp_path / "nowhere"), tmp_path / "s.parquet"
    )
    assert score.main([*line, "--engine", "ray"]) == 2
    said = capsys.readouterr().err
    assert "nowhere: no config.json there" in said and said.count("\n") == 1
