"""Peak memory of one piece of work, measured in a process of its own, so that nothing before it counts."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from gateau_lib.study import devices

Work = Callable[[], Any]


def peak(prepare: Callable[..., tuple[Work, Work]], *arguments: Any) -> int:
    """Bytes by which a piece of work raises the peak of a fresh process, or of the GPU if there is one.

    ``prepare``: importable by name; ``prepare(*arguments)`` returns a small piece of work, which is done
        first and not counted (it loads what the large one shares with it), and the large one.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, prepare, arguments).result()


def _measure(prepare: Callable[..., tuple[Work, Work]], arguments: tuple[Any, ...]) -> int:
    small, large = prepare(*arguments)
    small()
    device = devices.device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        large()
        return torch.cuda.max_memory_allocated(device) - before
    before = high_water()
    large()
    return high_water() - before


def high_water() -> int:
    """Most bytes that this process has held so far."""
    status = Path("/proc/self/status")
    # ru_maxrss is kept when a process is started from a larger one, and would show the parent's.
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a device's error, Python's own, or the message of torch's CPU allocator."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = any(words in str(error).lower() for words in ("out of memory", "can't allocate memory"))
    return isinstance(error, RuntimeError) and said
