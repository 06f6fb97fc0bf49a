"""What a profile needs: memory of a device at each stage, of the host, disk; and what this machine lacks.

Weights are exact; what passes leave behind is an estimate, checked on a trained model in the tests. Sharing
by `fsdp` or `deepspeed` divides weights, gradients and optimizer states by the processes; nothing divides
what one process computes, and the two models that score lie on one device together.
"""

import math
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil
from huggingface_hub import HfApi

from gateau_lib.experiments import replication_rows, selection_runs, skip_runs, workload
from gateau_lib.models.nll import BATCH_TOKENS
from gateau_lib.models.sizes import Size
from gateau_lib.sources import hub
from gateau_lib.study import devices, registry
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study, results_root
from gateau_lib.training.pretrain import TRAINED_ON

GB = 2**30
NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes
LOGITS = 14  # bytes a vocabulary entry of a trained token: bf16, as fp32, its log-softmax, its gradient
ADAPTER_RANK = 16  # as recipe.FineTune
DATA_BYTES = 4 << 30  # data sets, their converted copies, scores and answers; assumed
KEPT_CHECKPOINTS = 2  # the last one stays until the next one is whole


def processes(profile: Profile, cards: int) -> int:
    """Processes that train one model together on a machine with so many GPUs (none: the published one)."""
    return profile.processes or cards or 8  # GATEAU and LongAlign: 8 x A800 of 80 GB


def memory(profile: Profile, cards: int = 0) -> dict[str, float]:
    """Bytes of one device at the peak of each stage: ``pretraining`` (if any), ``scoring`` and so on."""
    (short, long), wide = workload.pair(profile), NUMBER[profile.dtype]
    found, read = dict[str, float](), max(profile.max_length, profile.long_window, BATCH_TOKENS)
    if stages := (*profile.short_stages, *profile.long_stages):
        most = profile.micro_tokens or math.inf  # of a pass, unless a row is longer
        tokens = max(min(each, max(most, window)) for window, _, each in stages)
        kept = _kept(long, tokens, wide, whole=True) + tokens * TRAINED_ON * long.vocabulary * LOGITS
        found["pretraining"] = (16 + (2 if wide == 2 else 0)) * long.parameters + kept
    found["scoring"] = wide * (short.parameters + long.parameters) + read * _passing(long, wide)
    found["training"] = training(profile, cards)
    found["evaluation"] = wide * long.parameters + read * (long.cache * wide + _passing(long, wide))
    return found


def training(profile: Profile, cards: int = 0) -> float:
    """Bytes of one device when the long model is tuned."""
    long, many, wide = workload.pair(profile)[1], processes(profile, cards), NUMBER[profile.dtype]
    shared = many if profile.sharding != "ddp" else 1
    # Weight, gradient and two moments in single precision; beside them what autocast makes of the weights, a
    # copy of the gradients where processes average them, or a few layers gathered from all processes.
    if profile.tuning == "lora":
        states: float = wide * long.parameters + 18 * adapters(long)
    elif shared > 1:
        states = 16 * long.parameters / shared + 12 * long.linear / long.layers + 8 * long.head
    else:
        states = long.parameters * (16 + (2 if wide == 2 else 0) + (4 if many > 1 else 0))
    # Bytes of what one layer gives the next.
    fine = 4 if wide == 4 or (profile.tuning == "full" and shared == 1) else 2
    return states + max(
        _kept(long, tokens, wide, not profile.from_hub, fine) + labels * long.vocabulary * LOGITS
        for tokens, labels in _training_passes(profile, many)
    )


def _training_passes(profile: Profile, many: int) -> list[tuple[float, float]]:
    """Tokens of a pass of one process, and how many are trained on: of short samples, of the longest one."""
    near = workload.short_tokens(profile)
    step = max(profile.micro_tokens or profile.sft_batch_tokens / many, near)
    far = profile.pool_tokens[1]
    passes = [(step, step * workload.RESPONSE / near), (max(step, far), workload.RESPONSE)]
    if profile.long_data:
        near, far = (min(n, profile.long_window) for n in (workload.SHORT_TOKENS, workload.LONG_TOKENS[1]))
        step = max(profile.micro_tokens or profile.batch_samples * near / many, near)
        labels = step * workload.SHORT_RESPONSE / workload.SHORT_TOKENS
        passes += [(step, labels), (max(step, far), workload.LONG_RESPONSE)]
    return passes


def _kept(size: Size, tokens: float, wide: int, whole: bool, fine: int = 4) -> float:
    """Bytes the backward pass needs, ``wide`` a number in products, ``fine`` between layers, 4 in norms."""
    # All layers, or with gradient checkpoints one and the inputs of all.
    norms = 4 * size.hidden  # numbers a token: what comes into a layer's two norms, and it normalised
    # Inputs of products and of the activation, attention's parts.
    products = 3 * size.hidden + 2 * (size.heads + size.kv_heads) * size.head_dim + 4 * size.mlp
    layer = tokens * (norms * 4 + products * wide)
    passing = tokens * (2 * size.mlp + 2 * size.hidden) * wide  # gradients of the layer that is being left
    return passing + (size.layers * layer if whole else size.layers * size.hidden * tokens * fine + layer)


def _passing(size: Size, wide: int) -> float:
    """Bytes a token that a pass without gradients holds at a time: one layer's, single precision in norms."""
    return 8 * size.hidden + (4 * size.hidden + 3 * size.mlp) * wide


def adapters(size: Size, rank: int = ADAPTER_RANK) -> int:
    """Parameters of LoRA adapters at all linear layers."""
    ends = 7 * size.hidden + 2 * size.width + 2 * size.kv_heads * size.head_dim + 3 * size.mlp
    return size.layers * rank * ends


def host(profile: Profile, cards: int = 0) -> float:
    """Bytes of memory that models take at most, all in single precision."""
    # One to be shared is read whole by every process; worked examples hold two (`loading.load_on_cpu`).
    shared = processes(profile, cards) if profile.sharding != "ddp" else 1
    return max(shared, 2) * 4 * workload.pair(profile)[1].parameters


def disk(profile: Profile) -> tuple[float, float]:
    """Bytes that the results, with every tuned model, and the hub's cache will take."""
    short, long = workload.pair(profile)
    lora = profile.tuning == "lora"
    trained, wide = (adapters(long), 4) if lora else (long.parameters, NUMBER[profile.dtype])
    tuned = profile.pool_seeds * len(selection_runs.arms(profile)) + len(skip_runs.run_names(profile))
    tuned += sum(run.row != replication_rows.UNTUNED for run in replication_rows.runs(profile))
    # Where notebook 07's short models start: raised; also the wider one, as it is and raised.
    starts = (3 if profile.skip_wider_stages else 1) * 4 * short.parameters
    results = tuned * wide * trained + KEPT_CHECKPOINTS * 12 * trained + starts + DATA_BYTES
    if not profile.from_hub:
        results += 4 * 2 * long.parameters  # the pair
    return results, sum(downloads(profile).values())


def downloads(profile: Profile) -> dict[str, float]:
    """Bytes of each model in the hub's cache, two a parameter where unknown; pickled weights count twice."""
    found = {}
    for name, size in zip((profile.short_model, profile.long_model), workload.pair(profile), strict=True):
        entry = registry.models().get(name)
        copies = 2 if entry and entry.weights == "pickle" else 1
        found[name] = float(copies * ((entry and entry.bytes_per_parameter) or 2) * size.parameters)
    return found if profile.from_hub else {}


def missing(profile: Profile, whole: bool = True) -> list[str]:
    """What this machine lacks for the profile; empty for a profile that needs no GPU.

    ``whole``: all of the profile is to run; of a part (one notebook, some runs) the disk is not counted.
    Raises ModelError: a model of which nothing can be read here.
    """
    if not profile.needs_gpu:
        return []
    lacks = _devices(profile)
    needed = {"peft": profile.tuning == "lora", "deepspeed": profile.sharding == "deepspeed"}
    absent = [name for name, asked in needed.items() if asked and not find_spec(name)]
    lacks += [f"{name} is not installed (pip install {name})" for name in absent]
    need, free = host(profile, len(devices.gpu_memory())), psutil.virtual_memory().available
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
    for stage, need in memory(profile, len(have)).items():
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
    there = {results: disk(profile)[0] - _used(results_root() / profile.name)}
    sizes = downloads(profile).items()
    absent = sum(size for name, size in sizes if not _present(profile, name, "model")[1])
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
    at = f" at commit {revision[:7]}" if revision else ""
    return f"{name} is not in the hub's cache{at} ({hub.remedy(name, 'model', revision)})"


def data_missing(profile: Profile, key: str) -> str:
    """The same for a data set of the registry, which may also lie in ``$GATEAU_DATA``."""
    entry, own = registry.data_sets()[key], os.environ.get("GATEAU_DATA")
    revision, folders = _present(profile, entry.repo, "dataset")
    here = folders or (own and (Path(own).expanduser() / key).is_dir())
    if here or (entry.host == "hub" and answers(entry.repo, "dataset")):
        return ""
    at = f" at commit {revision[:7]}" if revision else ""
    return f"{key} is not here{at} ({hub.remedy(entry.repo, 'dataset', revision)})"


def answers(name: str, kind: hub.Kind = "model") -> bool:
    """Whether the hub answers for a repository, and lets us read it."""
    try:
        HfApi().auth_check(name, repo_type=kind)
        return True
    except Exception:  # whatever the reason, the answer is the same
        return False
