"""What a machine lacks is said in one line each, with the remedy, before anything runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateau_lib import run
from gateau_lib.experiments import machine_check
from gateau_lib.study import registry
from gateau_lib.study.profiles import resolve


def cache(root: Path, *names: str, commit: str = "") -> None:
    """Models in the hub's cache of `machine`, as safetensors, at the commit that the registry requires."""
    for name in names:
        commits = root / "hub" / f"models--{name.replace('/', '--')}" / "snapshots"
        folder = commits / (commit or registry.models()[name].revision or "0" * 40)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()


@pytest.mark.parametrize("name", ["smoke", "cpu", "rehearse-gpu", "rehearse-paper"])
def test_what_runs_anywhere_needs_nothing(name, machine):
    machine(disk=0, host=0, online=False)
    assert machine_check.missing(resolve(name)) == [] and not resolve(name).needs_gpu


def test_a_large_enough_machine_lacks_nothing(machine, tmp_path):
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    machine(*[80] * 8)
    assert machine_check.missing(resolve("paper")) == []


def test_memory_is_of_each_gpu_not_their_sum(machine, tmp_path):
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    machine(*[24] * 8)
    lacks = machine_check.missing(resolve("paper"))
    assert len(lacks) == 3 and all("GB of each GPU, 24 GB here (use" in lack for lack in lacks)
    assert [lack.split()[0] for lack in lacks] == ["scoring", "training", "evaluation"]


def test_too_few_gpus_to_share_a_model_are_named(machine, tmp_path):
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    machine(80)
    (lack,) = machine_check.missing(resolve("paper"))
    assert re.match(r"training takes \d+ GB of each GPU, 80 GB here \(use larger or more GPUs\)", lack)


@pytest.mark.parametrize(
    ("lacking", "says"),
    [
        ({"torch_version": "2.13.0+cpu"}, "torch is the CPU build (rm -r .venv, then make env TORCH_INDEX="),
        ({"disk": 100}, "100 GB free of"),
        ({"host": 50}, "GB of memory, 50 GB are free (use a larger machine)"),
    ],
)
def test_what_else_is_lacking_is_named(lacking, says, machine, tmp_path):
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    machine(*[80] * 8, **lacking)
    (lack,) = machine_check.missing(resolve("paper"))
    assert says in lack and "\n" not in lack


def test_models_and_data_out_of_reach_are_named_with_the_command(machine):
    machine(*[80] * 8, online=False)
    lacks = machine_check.missing(resolve("paper"))
    assert len(lacks) == 4
    assert "hf download NousResearch/Llama-2-7b-hf" in lacks[0]
    assert "THUDM/LongAlign-7B-64k-base has pickled weights only" in lacks[1]
    assert "python -c" in lacks[1] and "weights_only=True" in lacks[1]
    assert all("--repo-type dataset" in lack and "$GATEAU_DATA" in lack for lack in lacks[2:])


def test_what_is_cached_or_in_a_folder_is_within_reach(machine, tmp_path, monkeypatch):
    machine(*[80] * 8, online=False)
    cache(tmp_path, "NousResearch/Llama-2-7b-hf", "THUDM/LongAlign-7B-64k-base")
    for key in ("longalign-10k", "sharegpt"):
        (tmp_path / "data" / key).mkdir(parents=True)
    monkeypatch.setenv("GATEAU_DATA", str(tmp_path / "data"))
    assert machine_check.missing(resolve("paper")) == []


def test_another_commit_than_the_required_one_is_not_there(machine, tmp_path):
    machine(online=False)
    required = registry.models()["THUDM/LongAlign-7B-64k-base"].revision
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base", commit="0" * 40)
    assert f"snapshots/{required}/model.safetensors" in machine_check.model_missing(
        resolve("paper"), "THUDM/LongAlign-7B-64k-base"
    )
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base", commit=required)
    assert machine_check.model_missing(resolve("paper"), "THUDM/LongAlign-7B-64k-base") == ""
    data = registry.data_sets()["longalign-10k"]
    folder = tmp_path / "hub" / f"datasets--{data.repo.replace('/', '--')}" / "snapshots"
    (folder / ("0" * 40)).mkdir(parents=True)
    assert f"--revision {data.revision}" in machine_check.data_missing(resolve("paper"), "longalign-10k")
    (folder / data.revision).mkdir()
    assert machine_check.data_missing(resolve("paper"), "longalign-10k") == ""


def test_a_model_at_another_commit_takes_room_for_the_required_one(machine, tmp_path):
    machine(disk=0)
    nothing = machine_check._disk(resolve("paper"))
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base", commit="0" * 40)
    assert machine_check._disk(resolve("paper")) == nothing
    cache(tmp_path, "THUDM/LongAlign-7B-64k-base")
    assert machine_check._disk(resolve("paper")) != nothing


def test_a_commit_that_the_study_has_pinned_is_required_too(machine, tmp_path):
    machine(online=False)
    name, pins = "NousResearch/Llama-2-7b-hf", tmp_path / "results" / "paper" / "revisions.json"
    cache(tmp_path, name, commit="0" * 40)
    assert not any(name in lack for lack in machine_check.missing(resolve("paper")))
    pins.parent.mkdir(parents=True)
    pins.write_text(json.dumps({f"models/{name}": "1" * 40}))
    assert any(f"{name} --revision {'1' * 40}" in lack for lack in machine_check.missing(resolve("paper")))


@pytest.mark.parametrize("name", ["paper", "gpu+llama-3-8b", "gpu+granite-2b"])
def test_what_is_missing_is_one_line_that_begins_with_what_it_is(name, machine):
    lacks = []
    for cards in ([], [4], [4] * 8):
        machine(*cards, online=False, disk=1, host=1, torch_version="2.13.0+cpu")
        lacks += machine_check.missing(resolve(name))
    for lack in lacks:
        said, _, remedy = lack.partition(" (")
        assert "\n" not in lack and len(said) < 150 and remedy.endswith(")"), lack


def test_a_gated_model_says_so(machine):
    machine(online=False)
    said = machine_check.model_missing(resolve("paper"), "meta-llama/Meta-Llama-3-8B-Instruct")
    assert "hf download meta-llama/Meta-Llama-3-8B-Instruct" in said and "accept its licence" in said


def test_data_that_is_not_on_the_hub_says_where_to_put_it(machine):
    machine()
    said = machine_check.data_missing(resolve("paper"), "longbench-chat")
    assert "test_cases.json" in said and "$GATEAU_DATA/longbench-chat" in said


def test_the_run_stops_with_the_plan_s_own_list(machine, capsys):
    machine(online=False)
    assert run.main(["paper"]) == 2
    *said, last = capsys.readouterr().err.splitlines()
    missing = [line for line in said if line.startswith("  missing  ")]
    assert last == f"error: profile paper cannot run here: {len(missing)} things are missing, listed above"
    assert missing[0].startswith("  missing  no NVIDIA GPU is visible")
    assert any("hf download NousResearch/Llama-2-7b-hf" in line for line in missing)


def test_a_slip_in_the_command_is_named_before_the_plan(machine, capsys):
    machine(online=False)
    assert run.main(["paper", "--notebook", "77"]) == 2
    assert capsys.readouterr().err.startswith("error: no notebook '77'")
    assert run.main(["paper", "--set", "onlyy=3"]) == 2
    assert "unknown parameter 'onlyy'" in capsys.readouterr().err


def test_a_part_of_a_profile_is_not_refused_for_the_disk_of_all_of_it(machine, monkeypatch):
    machine()
    monkeypatch.setattr(machine_check, "_disk", lambda profile: ["1,335 GB needed"])
    assert "1,335 GB needed" in machine_check.missing(resolve("paper"))
    assert "1,335 GB needed" not in machine_check.missing(resolve("paper"), whole=False)


def test_results_that_are_there_need_no_more_room(machine, tmp_path):
    machine(*[80] * 8)
    (tmp_path / "results" / "paper").mkdir(parents=True)
    (Path(tmp_path) / "results" / "paper" / "file").write_bytes(b"x" * 1000)
    assert (
        machine_check._used(tmp_path / "results" / "paper") == 1000
        and machine_check._used(tmp_path / "nothing") == 0
    )
