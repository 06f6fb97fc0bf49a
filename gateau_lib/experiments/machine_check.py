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
    lacks = _devices(profile)
    needed = {"peft": profile.tuning == "lora", "deepspeed": profile.sharding == "deepspeed"}
    absent = [name for name, asked in needed.items() if asked and not find_spec(name)]
    lacks += [f"{name} is not installed (pip install {name})" for name in absent]
    need, free = footprint.host(profile, len(devices.gpu_memory())), psutil.virtual_memory().available
    if need > free:
        room = f"{need / GB:,.0f} GB of memory, {free / GB:,.0f} GB are free"
        lacks.append(f"loading takes {room} (use a larger machine)")
    lacks += _disk(profile) if whole else []
    names = [profile.short_model, profile.long_model] if profile.from_hub else []
    lacks += [model_missing(profile, name) for name in dict.fromkeys(names)]
    lacks += [data_missing(profile, key) for key in (profile.long_data, profile.short_data) if key]
    return [lack for lack in lacks if lack]


def listed(lacks: Sequence[str]) -> str:
    """What is missing, a line each."""
    return "\n".join(f"  missing  {lack}" for lack in lacks or ["nothing"])


def _devices(profile: Profile) -> list[str]:
    have, lacks = devices.gpu_memory(), []
    if not have:
        return ["no NVIDIA GPU is visible (use a machine with one, or make cpu, or REHEARSE=1)"]
    if "+cpu" in version("torch"):
        remedy = "rm -r .venv, then make env TORCH_INDEX=<an index with CUDA wheels>"
        lacks.append(f"torch is the CPU build ({remedy})")
    if profile.processes > len(have):
        lacks.append(f"{profile.processes} processes train together, {len(have)} GPU(s) here (use more GPUs)")
    here = min(have)  # nothing adds up over cards: sharing is counted already
    for stage, need in footprint.memory(profile, len(have)).items():
        shared = stage == "training" and profile.sharding != "ddp"
        helps = "larger or more GPUs" if shared else "a GPU with more memory"
        sizes = f"{need / GB:,.0f} GB of each GPU, {here / GB:,.0f} GB here"
        lacks += [f"{stage} takes {sizes} (use {helps})"] if need > here else []
    return lacks


def _disk(profile: Profile) -> list[str]:
    """Room for results and downloads; both together where they lie on one disk."""
    results, cache = _existing(results_root()), _existing(hub.cache())
    if results.stat().st_dev == cache.stat().st_dev:
        cache = results
    there = {results: footprint.disk(profile).results - _used(results_root() / profile.name)}
    downloads = footprint.downloads(profile).items()
    absent = sum(size for name, size in downloads if not _present(profile, name, "model")[1])
    there[cache] = there.get(cache, 0) + absent
    move = "free some, or set GATEAU_RESULTS or HF_HOME to a larger disk"
    return [
        f"{folder} has {free / GB:,.0f} GB free of {need / GB:,.0f} GB needed ({move})"
        for folder, need in there.items()
        if need > (free := shutil.disk_usage(folder).free)
    ]


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def _used(folder: Path) -> int:
    """Bytes that are there already, of a run that goes on."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def _present(profile: Profile, repo: str, kind: hub.Kind) -> tuple[str | None, list[Path]]:
    """The commit that must be used, None if any will do, and the folders here that hold it."""
    if kind == "model" and (folder := Path(repo).expanduser()).is_dir():
        return None, [folder]
    revision = hub.required(Study(profile, 0, results_root() / profile.name), repo, kind)
    return revision, list(hub.snapshots(repo, kind).glob(revision or "*"))


def model_missing(profile: Profile, name: str) -> str:
    """Why a model cannot be had, with the way to get it; empty if it can."""
    entry, (revision, folders) = registry.models().get(name), _present(profile, name, "model")
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
    here = folders or (own and (Path(own).expanduser() / key).is_dir())
    if here or (entry.host == "hub" and answers(entry.repo, "dataset")):
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
