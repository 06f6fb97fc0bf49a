"""Which devices this machine has. torch is loaded inside the functions: `study` itself never needs it."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device() -> torch.device:
    """CUDA if there is one, else CPU; ``GATEAU_DEVICE`` overrides."""
    import torch

    return torch.device(os.environ.get("GATEAU_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))


def gpus() -> int:
    """GPUs that this process may use: all visible ones, one if ``GATEAU_DEVICE`` names it, none on a CPU."""
    import torch

    chosen = device()
    return 0 if chosen.type != "cuda" else 1 if chosen.index is not None else torch.cuda.device_count()


def release_gpu() -> None:
    """Give back the GPU memory that this process holds and does not use: those that it starts, or the next model, need it."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
