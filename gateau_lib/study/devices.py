"""Which devices this machine has; torch is loaded inside the functions that cannot do without it."""

import gc
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


def device() -> "torch.device":
    """CUDA if there is one, else CPU; ``GATEAU_DEVICE`` overrides."""
    import torch

    return torch.device(os.environ.get("GATEAU_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))


def gpus() -> int:
    """GPUs that this process may use: all visible ones, one if ``GATEAU_DEVICE`` names it, none on a CPU."""
    import torch

    chosen = device()
    return 0 if chosen.type != "cuda" else 1 if chosen.index is not None else torch.cuda.device_count()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Gpu(NamedTuple):
    """An NVIDIA GPU as its driver tells."""

    number: str
    uuid: str
    name: str
    memory: int  # bytes


def driver_gpus() -> list[Gpu]:
    """All NVIDIA GPUs of this machine, visible here or not; torch, which takes seconds, is not loaded."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    if done.returncode:  # a driver that does not work
        return []
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
    return [Gpu(number, uuid, name, int(size) * 2**20) for number, uuid, name, size in rows]


def gpu_name() -> str:
    """Name of the first GPU, or ""."""
    return next((gpu.name for gpu in driver_gpus()), "")


def gpu_memory() -> list[int]:
    """Memory in bytes of each GPU that ``CUDA_VISIBLE_DEVICES`` leaves visible."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = None if names is None else [word.strip() for word in names.split(",")]
    return [gpu.memory for gpu in driver_gpus() if visible is None or {gpu.number, gpu.uuid} & {*visible}]


def kernels(dtype: str = "float32", kind: str | None = None) -> dict[str, str | None]:
    """What torch computes with on a device of this ``kind`` (default: the best there is); for records only.

    ``attention``: the kernel that torch chooses for long causal attention with heads of 128 in this dtype,
    and ``cudnn``: its version as it was loaded; None on a CPU. ``cpu_capability``: the instructions it uses.
    """
    import torch

    found: dict[str, str | None] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    found |= {"cudnn": None, "attention": None}
    if (kind or device().type) == "cuda":
        from torch.nn.attention import SDPBackend

        form = getattr(torch, dtype.removeprefix("torch."))
        part = torch.zeros(1, 1, 1024, 128, dtype=form, device="cuda")
        version = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        chosen = torch._fused_sdp_choice(part, part, part, is_causal=True)
        found |= {"cudnn": version, "attention": SDPBackend(chosen).name}
    return found | {"cpu_capability": torch.backends.cpu.get_cpu_capability()}


def release_gpu() -> None:
    """Give back GPU memory that is held and not used, for the next model or for other processes."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
