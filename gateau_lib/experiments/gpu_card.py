"""What a card can do at best: the yardsticks of its other measurements, and the attention kernel it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from gateau_lib.experiments import gpu_record

PART = "card"


@dataclass(frozen=True)
class Shapes:
    """Sizes of all that is measured; lengths in tokens."""

    tiny: bool  # only whether all of it runs
    side: int  # of the square matrices
    copied: int  # bytes
    hidden: int
    mlp: int
    layers: int
    heads: int
    vocabulary: int
    window: int  # of the long model
    short_window: int
    lengths: tuple[int, ...]  # of single passes; those that goals name first
    middle: int  # of one sample read in other ways
    pairs: int  # of ProLong
    segment: int
    instruction: int
    response: int
    dtype: torch.dtype
    samples_per_kind: int  # of the planted pool, whose scores are compared
    sample_tokens: tuple[int, int]  # of these
    family_samples: int  # of them that random families read


SEVEN_B = Shapes(
    tiny=False,
    side=8192,
    copied=2**32,
    hidden=4096,
    mlp=11008,
    layers=32,
    heads=32,
    vocabulary=32000,
    window=65536,
    short_window=4096,
    lengths=(32768, 65536, 16384, 8192),
    middle=32768,
    pairs=500,
    segment=128,
    instruction=40,
    response=176,
    dtype=torch.bfloat16,
    samples_per_kind=16,
    sample_tokens=(600, 1900),
    family_samples=12,
)
TINY = Shapes(
    tiny=True,
    side=128,
    copied=2**20,
    hidden=64,
    mlp=176,
    layers=2,
    heads=4,
    vocabulary=2048,
    window=1024,
    short_window=128,
    lengths=(256, 512),
    middle=256,
    pairs=6,
    segment=32,
    instruction=8,
    response=24,
    dtype=torch.bfloat16,
    samples_per_kind=1,
    sample_tokens=(300, 420),
    family_samples=2,
)


def seven_b(shapes: Shapes, device: torch.device) -> LlamaForCausalLM:
    """A Llama of these shapes with random weights, built where it is to run, in eval mode."""
    config = LlamaConfig(
        vocab_size=shapes.vocabulary,
        hidden_size=shapes.hidden,
        intermediate_size=shapes.mlp,
        num_hidden_layers=shapes.layers,
        num_attention_heads=shapes.heads,
        max_position_embeddings=shapes.window,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6},
    )
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(shapes.dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(usual)


def timed(device: torch.device, work: Callable[[], Any], repeats: int = 3) -> tuple[float, float, Any]:
    """Seconds of the first time and the best of ``repeats`` more, and the result; waits for the device."""
    found = []
    for _ in range(1 + repeats):
        _wait(device)
        begin = time.perf_counter()
        result = work()
        _wait(device)
        found.append(time.perf_counter() - begin)
    return found[0], min(found[1:], default=found[0]), result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(path: Path, shapes: Shapes, device: torch.device) -> None:
    """The rate of a large matrix product and of a copy, and that of attention by every kernel there is."""
    n = shapes.side
    a, b = (torch.randn(n, n, dtype=shapes.dtype, device=device) for _ in range(2))
    out = torch.empty_like(a)
    _, seconds, _ = timed(device, partial(torch.matmul, a, b, out=out), 10)
    gpu_record.add(path, PART, "matrix product", length=n, seconds=seconds, rate=2 * n**3 / seconds)
    source = torch.empty(shapes.copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    _, seconds, _ = timed(device, partial(target.copy_, source), 10)
    # What is read and what is written both count.
    gpu_record.add(path, PART, "copy", seconds=seconds, bytes_a_second=2 * shapes.copied / seconds)
    del a, b, out, source, target
    _attention(path, shapes, device)


def _attention(path: Path, shapes: Shapes, device: torch.device) -> None:
    """Causal attention of one layer: by the kernel that torch takes, and by each that can be asked for."""
    n, heads, size = shapes.middle, shapes.heads, shapes.hidden // shapes.heads
    query, key, value = (torch.randn(1, heads, n, size, dtype=shapes.dtype, device=device) for _ in range(3))
    work = partial(functional.scaled_dot_product_attention, query, key, value, is_causal=True)
    taken = SDPBackend(torch._fused_sdp_choice(query, key, value, is_causal=True)).name
    operations = 4 * heads * size * n * (n + 1) / 2  # a query and the keys it sees
    for name in ("as torch chooses", "CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"):
        note = f"torch chooses {taken}" if name == "as torch chooses" else ""
        try:
            with sdpa_kernel(_kernels(name)):
                first, seconds, _ = timed(device, work, 5)
        except RuntimeError as error:  # not for this card, or not in this build
            why = str(error).strip().splitlines()[0]
            gpu_record.add(path, PART, f"attention, {name}", length=n, seconds=None, rate=None, note=why)
            continue
        measured = {"first_seconds": first, "seconds": seconds, "rate": operations / seconds, "note": note}
        gpu_record.add(path, PART, f"attention, {name}", length=n, **measured)


def _kernels(name: str) -> list[SDPBackend]:
    usual = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH", "CUDNN_ATTENTION")
    return [getattr(SDPBackend, each) for each in (usual if name == "as torch chooses" else (name,))]
