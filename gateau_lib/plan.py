"""What a profile will cost, and what this machine lacks for it, before anything is downloaded or computed.

Estimates: `workload` counts tokens and operations, `footprint` room; what they were checked against stands in docs/scale.md.
Hours are those of an A100 or A800 of 80 GB at the utilisation that `estimate` assumes; a small model reaches less of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from gateau_lib.models.sizes import Size, pair
from gateau_lib.study import manifest
from gateau_lib.study.profiles import Profile, needs_gpu
from gateau_lib.study.store import Study, results_root

# Benchmarks that read a data set of the registry.
DATA = {"longbench": "longbench", "longbench-chat": "longbench-chat", "mt-bench": "mt-bench", "needle": "haystack"}
GB = 2**30


class PlanError(ValueError):
    """This machine cannot run the profile; the message says what is missing and what to do."""




def size(profile: Profile) -> Size:
    """The size of the long model, which is the one that is tuned."""
    return pair(profile)[1]


def describe(profile: Profile) -> str:
    """The plan as text: models, data, steps, tokens, operations, hours, memory, disk.

    Raises:
        UnknownSize: a model of which nothing can be read here.
    """
    from gateau_lib import footprint, workload

    short, long = pair(profile)
    parts, cards = workload.work(profile), len(gpu_memory())
    hours = [part.hours(long.parameters) for part in parts]
    many = cards or footprint.processes(profile, cards)
    elapsed = sum(hour if part.alone else hour / many for part, hour in zip(parts, hours, strict=True))
    where = f"the {cards} GPU(s) here" if cards else f"{many} GPU(s)"
    tokens, steps = sum(part.tokens for part in parts), sum(part.steps for part in parts)
    stages = ", ".join(f"{name} {need / GB:,.1f} GB" for name, need in footprint.memory(profile, cards).items())
    room = footprint.disk(profile)
    notebooks = len({part.notebook for part in parts})
    lines = [
        f"plan of profile {profile.name} (estimates; hours of one A100)",
        f"  models   {profile.short_model} ({profile.short_window:,} tokens, {_short(short.parameters)} parameters) and "
        f"{profile.long_model} ({profile.long_window:,} tokens, {_short(long.parameters)}), scored in {profile.dtype}",
        f"  data     {_data(profile)}",
        f"  training {_training(profile, cards)}",
        *(
            f"  {p.notebook} {p.what:26} {_short(p.tokens):>7} tokens  {p.operations:8.1e} operations  {hour:10,.2f} hours"
            f"{f'  {p.steps:,} steps' if p.steps else ''}"
            for p, hour in zip(parts, hours, strict=True)
        ),
        f"  in all   {notebooks} notebooks that use models, {len(parts)} parts, {steps:,} optimizer steps, "
        f"{_short(tokens)} tokens, {sum(p.operations for p in parts):.1e} operations",
        f"  time     {sum(hours):,.1f} GPU-hours; {elapsed:,.1f} hours on {where}",
        f"  memory   of a GPU: {stages}; of the host, to load: {footprint.host(profile, cards) / GB:,.1f} GB",
        f"  disk     results {room.results / GB:,.0f} GB (tuned models, checkpoints), the hub's cache {room.hub / GB:,.0f} GB",
    ]
    return "\n".join([*lines, *(f"  note     {note}" for note in notes(profile))])


def _data(profile: Profile) -> str:
    from gateau_lib.data import corpus

    count, (low, high) = len(corpus.KINDS) * profile.pool_per_kind, profile.pool_tokens
    text = f"{profile.pool_seeds} planted pool(s) of {count:,} samples of {low:,} to {high:,} tokens"
    if not profile.long_data:
        return text
    short = " and ".join(f"{n:,}" for n in profile.short_samples)
    return f"{text}; {profile.long_samples:,} of {profile.long_data}, {short} of {profile.short_data}"


def _training(profile: Profile, cards: int) -> str:
    from gateau_lib import footprint, workload

    many = footprint.processes(profile, cards)
    kind = "adapters (LoRA)" if profile.tuning == "lora" else "all weights"
    shared = f"{many} processes, {profile.sharding}" if many > 1 else "one process"
    read = f"{profile.micro_tokens:,} tokens" if profile.micro_tokens else "its share of a step"
    checkpoints = ", gradient checkpoints" if workload.checkpointed(profile) else ""
    return f"{kind}, {shared}, {profile.dtype}{checkpoints}, a pass reads {read}"


def notes(profile: Profile) -> list[str]:
    """What takes longer than it must, and what will be reported as not run: benchmarks without data, judge or program."""
    if not needs_gpu(profile):
        return []
    found, cards = [], len(gpu_memory())
    if profile.long_data and cards > 1 and not find_spec("ray"):
        found = [f"the published long samples are scored on one of the {cards} GPUs: Ray is not installed (pip install ray)"]
    found += [f"{name} will be reported as not run: {why}" for name in profile.benchmarks if (why := _without(profile, name))]
    if judged := [name for name in profile.benchmarks if name in ("longbench-chat", "mt-bench")]:
        found.append(f"{' and '.join(judged)} need a judge: SET='judge=http://host:8000/v1#model'")
    return found


def _without(profile: Profile, benchmark: str) -> str:
    if benchmark == "short-tasks" and not find_spec("lm_eval"):
        return "lm-evaluation-harness is not installed (pip install lm-eval)"
    return data_missing(profile, DATA[benchmark]) if benchmark in DATA else ""


def missing(profile: Profile, whole: bool = True) -> list[str]:
    """What this machine lacks for the profile, each with its remedy; empty for a profile that needs no GPU.

    Args:
        whole: all of the profile is to run; a part of it (one notebook, some runs) takes less disk, so that is not counted.

    Raises:
        UnknownSize: a model of which nothing can be read here.
    """
    if not needs_gpu(profile):
        return []
    lacks = [*_devices(profile), *_programs(profile), *_host(profile), *(_disk(profile) if whole else ())]
    names = [name for name in dict.fromkeys((profile.short_model, profile.long_model)) if name != "scratch"]
    lacks += [why for name in names if (why := model_missing(profile, name))]
    return lacks + [why for key in (profile.long_data, profile.short_data) if key and (why := data_missing(profile, key))]


def listed(lacks: Sequence[str]) -> str:
    """What is missing, a line each."""
    return "\n".join(f"  missing  {lack}" for lack in lacks or ["nothing"])


def _devices(profile: Profile) -> list[str]:
    from gateau_lib import footprint

    have = gpu_memory()
    if not have:
        return ["no NVIDIA GPU is visible (use a machine with one, or make cpu, or REHEARSE=1)"]
    lacks = []
    if "+cpu" in version("torch"):
        lacks.append("torch is the CPU build (rm -r .venv, then make env TORCH_INDEX=<an index with CUDA wheels>)")
    if profile.processes > len(have):
        lacks.append(f"{profile.processes} processes train together, {len(have)} GPU(s) here (use more GPUs)")
    for stage, need in footprint.memory(profile, len(have)).items():
        if need > min(have):  # nothing adds up over cards: sharing is counted already
            helps = "larger or more GPUs" if stage == "training" and profile.sharding != "ddp" else "a GPU with more memory"
            lacks.append(f"{stage} takes {need / GB:,.0f} GB of each GPU, {min(have) / GB:,.0f} GB here (use {helps})")
    return lacks


def _programs(profile: Profile) -> list[str]:
    needed = {"peft": profile.tuning == "lora", "deepspeed": profile.sharding == "deepspeed"}
    return [f"{name} is not installed (pip install {name})" for name, asked in needed.items() if asked and not find_spec(name)]


def _host(profile: Profile) -> list[str]:
    from gateau_lib import footprint

    need, have = footprint.host(profile, len(gpu_memory())), host_memory()
    lack = f"loading takes {need / GB:,.0f} GB of memory, {have / GB:,.0f} GB are free (use a larger machine)"
    return [lack] if need > have else []


def _disk(profile: Profile) -> list[str]:
    """Room for results and downloads; both together where they lie on one disk."""
    from gateau_lib import footprint

    room = footprint.disk(profile)
    results, cache = _existing(results_root()), _existing(hub_cache())
    there = {results: room.results - _used(results_root() / profile.name)}
    downloads = sum(each for name, each in footprint.downloads(profile).items() if not _model(profile, name)[1])
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


# What this machine has ----------------------------------------------------------------------------------------------------


def gpu_memory() -> list[int]:
    """Memory of each NVIDIA GPU in bytes, as the driver tells, of those that ``CUDA_VISIBLE_DEVICES`` leaves visible."""
    if not manifest.gpu():
        return []
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 2]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if visible is None else [word.strip() for word in visible.split(",") if word.strip()]
    return [int(size) * 2**20 for index, uuid, size in rows if wanted is None or index in wanted or uuid in wanted]


def host_memory() -> int:
    """Bytes of memory that are free."""
    import psutil

    return psutil.virtual_memory().available


def free_disk(folder: Path) -> int:
    """Bytes that are free on the disk of a folder."""
    return shutil.disk_usage(folder).free


def hub_cache() -> Path:
    """The folder of the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _required(profile: Profile, kind: str, repo: str, known: str | None) -> str | None:
    """The commit of a repository that must be used: what the study has pinned, else what the registry knows."""
    from gateau_lib.sources import hub

    return hub.revisions(Study(profile, 0, results_root() / profile.name)).get(f"{kind}s/{repo}") or known


def _commits(repo: str, kind: str = "model") -> Path:
    """Where the hub's cache keeps what it has of a repository, one folder a commit."""
    return hub_cache() / f"{kind}s--{repo.replace('/', '--')}" / "snapshots"


def _model(profile: Profile, name: str) -> tuple[str | None, list[Path]]:
    """The commit of a model that must be used, None if any will do, and the folders here that hold it."""
    from gateau_lib.study import registry

    if (folder := Path(name).expanduser()).is_dir():
        return None, [folder]
    entry = registry.models().get(name)
    revision = _required(profile, "model", name, entry.revision if entry else None)
    return revision, list(_commits(name).glob(revision or "*"))


def model_missing(profile: Profile, name: str) -> str:
    """Why a model cannot be had, with the way to get it; empty if it can."""
    from gateau_lib.sources import hub
    from gateau_lib.study import registry

    entry, (revision, folders) = registry.models().get(name), _model(profile, name)
    if entry and entry.weights == "pickle":
        if any(list(folder.glob("*.safetensors")) for folder in folders):
            return ""
        command = hub.conversion_command(_commits(name) / (revision or "main"), name)
        return f"{name} has pickled weights only, which are not loaded (where there is a network, convert them once: {command})"
    if folders or answers(name):
        return ""
    return f"{name} is not in the hub's cache{_at(revision)} ({hub.remedy(name, 'model', revision)})"


def data_missing(profile: Profile, key: str) -> str:
    """The same for a data set of the registry, which may also lie in ``$GATEAU_DATA``."""
    from gateau_lib.sources import hub
    from gateau_lib.study import registry

    entry, own = registry.data_sets()[key], os.environ.get("GATEAU_DATA")
    revision = _required(profile, "dataset", entry.repo, entry.revision)
    there = (own and (Path(own).expanduser() / key).is_dir()) or any(_commits(entry.repo, "dataset").glob(revision or "*"))
    if there or (entry.host == "hub" and answers(entry.repo, "dataset")):
        return ""
    return f"{key} is not here{_at(revision)} ({hub.remedy(entry.repo, 'dataset', revision)})"


def _at(revision: str | None) -> str:
    return f" at commit {revision[:7]}" if revision else ""


def answers(name: str, kind: str = "model") -> bool:
    """Whether the hub answers for a repository, and lets us read it."""
    from huggingface_hub import HfApi

    try:
        HfApi().auth_check(name, repo_type=kind)
        return True
    except Exception:  # whatever the reason, the answer is the same
        return False


def _short(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return f"{number:.0f}"
