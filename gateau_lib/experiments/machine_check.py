"""What a run needs and this machine lacks, each with its remedy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil
from huggingface_hub import HfApi

from gateau_lib.experiments import footprint
from gateau_lib.sources import hub
from gateau_lib.study import devices, registry
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study, results_root

GB = 2**30


def missing(profile: Profile, whole: bool = True) -> list[str]:
    """What this machine lacks for the profile; empty for a profile that needs no GPU.

    Args:
        whole: all of the profile is to run; of a part (one notebook, some runs) the disk is not counted.

    Raises:
        ModelError: a model of which nothing can be read here.
    """
    if not profile.needs_gpu:
        return []
    lacks = [*_devices(profile), *_programs(profile), *_host(profile), *(_disk(profile) if whole else ())]
    names = {profile.short_model: 0, profile.long_model: 0} if profile.from_hub else {}
    lacks += [model_missing(profile, name) for name in names]
    lacks += [data_missing(profile, key) for key in (profile.long_data, profile.short_data) if key]
    return [lack for lack in lacks if lack]


def listed(lacks: Sequence[str]) -> str:
    """What is missing, a line each."""
    return "\n".join(f"  missing  {lack}" for lack in lacks or ["nothing"])


def _devices(profile: Profile) -> list[str]:
    have = devices.gpu_memory()
    if not have:
        return ["no NVIDIA GPU is visible (use a machine with one, or make cpu, or REHEARSE=1)"]
    lacks = []
    if "+cpu" in version("torch"):
        lacks.append(
            "torch is the CPU build (rm -r .venv, then make env TORCH_INDEX=<an index with CUDA wheels>)"
        )
    if profile.processes > len(have):
        lacks.append(f"{profile.processes} processes train together, {len(have)} GPU(s) here (use more GPUs)")
    for stage, need in footprint.memory(profile, len(have)).items():
        if need <= min(have):  # nothing adds up over cards: sharing is counted already
            continue
        shared = stage == "training" and profile.sharding != "ddp"
        helps = "larger or more GPUs" if shared else "a GPU with more memory"
        lacks.append(
            f"{stage} takes {need / GB:,.0f} GB of each GPU, {min(have) / GB:,.0f} GB here (use {helps})"
        )
    return lacks


def _programs(profile: Profile) -> list[str]:
    needed = {"peft": profile.tuning == "lora", "deepspeed": profile.sharding == "deepspeed"}
    absent = [name for name, asked in needed.items() if asked and not find_spec(name)]
    return [f"{name} is not installed (pip install {name})" for name in absent]


def _host(profile: Profile) -> list[str]:
    need, have = footprint.host(profile, len(devices.gpu_memory())), host_memory()
    lack = f"loading takes {need / GB:,.0f} GB of memory, {have / GB:,.0f} GB are free (use a larger machine)"
    return [lack] if need > have else []


def _disk(profile: Profile) -> list[str]:
    """Room for results and downloads; both together where they lie on one disk."""
    results, cache = _existing(results_root()), _existing(hub.cache())
    there = {results: footprint.disk(profile).results - _used(results_root() / profile.name)}
    downloads = sum(
        each for name, each in footprint.downloads(profile).items() if not _present(profile, name)[1]
    )
    if results.stat().st_dev == cache.stat().st_dev:
        there[results] += downloads
    else:
        there[cache] = downloads
    move = "free some, or set GATEAU_RESULTS or HF_HOME to a larger disk"
    return [
        f"{folder} has {free / GB:,.0f} GB free of {need / GB:,.0f} GB needed ({move})"
        for folder, need in there.items()
        if need > (free := free_disk(folder))
    ]


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def _used(folder: Path) -> int:
    """Bytes that are there already, of a run that goes on."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def host_memory() -> int:
    """Bytes of memory that are free."""
    return psutil.virtual_memory().available


def free_disk(folder: Path) -> int:
    """Bytes that are free on the disk of a folder."""
    return shutil.disk_usage(folder).free


def _present(profile: Profile, repo: str, kind: hub.Kind = "model") -> tuple[str | None, list[Path]]:
    """The commit that must be used, None if any will do, and the folders here that hold it."""
    if kind == "model" and (folder := Path(repo).expanduser()).is_dir():
        return None, [folder]
    revision = hub.required(Study(profile, 0, results_root() / profile.name), repo, kind)
    return revision, list(hub.snapshots(repo, kind).glob(revision or "*"))


def model_missing(profile: Profile, name: str) -> str:
    """Why a model cannot be had, with the way to get it; empty if it can."""
    entry, (revision, folders) = registry.models().get(name), _present(profile, name)
    if entry and entry.weights == "pickle":
        if any(list(folder.glob("*.safetensors")) for folder in folders):
            return ""
        command = hub.conversion_command(hub.snapshots(name) / (revision or "main"), name)
        why = "has pickled weights only, which are not loaded"
        return f"{name} {why} (where there is a network, convert them once: {command})"
    if folders or answers(name):
        return ""
    return f"{name} is not in the hub's cache{_at(revision)} ({hub.remedy(name, 'model', revision)})"


def data_missing(profile: Profile, key: str) -> str:
    """The same for a data set of the registry, which may also lie in ``$GATEAU_DATA``."""
    entry, own = registry.data_sets()[key], os.environ.get("GATEAU_DATA")
    revision, folders = _present(profile, entry.repo, "dataset")
    if folders or (own and (Path(own).expanduser() / key).is_dir()):
        return ""
    if entry.host == "hub" and answers(entry.repo, "dataset"):
        return ""
    return f"{key} is not here{_at(revision)} ({hub.remedy(entry.repo, 'dataset', revision)})"


def _at(revision: str | None) -> str:
    return f" at commit {revision[:7]}" if revision else ""


def answers(name: str, kind: hub.Kind = "model") -> bool:
    """Whether the hub answers for a repository, and lets us read it."""
    try:
        HfApi().auth_check(name, repo_type=kind)
        return True
    except Exception:  # whatever the reason, the answer is the same
        return False
