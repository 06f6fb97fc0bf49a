"""What a card can do at best: the yardsticks of its other measurements, and the attention kernel it takes."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from gateau_lib.experiments import gpu_record

PART, FORMAT = "card", torch.bfloat16
PRODUCTS = 50  # in a row, as the layers of a model: one alone would measure its launch, and a cool card
KERNELS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH", "CUDNN_ATTENTION")  # what torch chooses among


@dataclass(frozen=True)
class Shapes:
    """Sizes of all that is measured: those of Llama-2-7B with a long window; lengths in tokens."""

    tiny: bool = False  # only whether all of it runs
    side: int = 8192  # of the square matrices
    copied: int = 2**32  # bytes
    model: tuple[int, int, int, int, int] = (4096, 11008, 32, 32, 32000)  # hidden, mlp, layers, heads, words
    window: int = 65536  # of the long model
    short_window: int = 4096
    lengths: tuple[int, ...] = (32768, 65536, 16384, 8192)  # of single passes; those that goals name first
    middle: int = 32768  # of one sample read in other ways
    pairs: int = 500  # of ProLong
    segment: int = 128
    instruction: int = 40  # as `response`, the median of long instruction data
    response: int = 176
    samples_per_kind: int = 2  # of the planted pool, whose scores are compared
    sample_tokens: tuple[int, int] = (600, 1900)  # of these
    family_samples: int = 8  # of them that random families read


SEVEN_B = Shapes()
TINY = replace(
    SEVEN_B, tiny=True, side=128, copied=2**20, model=(64, 176, 2, 4, 2048), window=1024, short_window=128,
    lengths=(256, 512), middle=256, pairs=6, segment=32, instruction=8, response=24, samples_per_kind=1,
    sample_tokens=(300, 420), family_samples=2,
)  # fmt: skip


def seven_b(shapes: Shapes, device: torch.device) -> LlamaForCausalLM:
    """A Llama of these shapes with random weights in bfloat16, built where it is to run, in eval mode."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    rope = {"rope_type": "default", "rope_theta": 5e6}
    shape: dict[str, Any] = dict(zip(sizes, shapes.model, strict=True))
    config = LlamaConfig(**shape, max_position_embeddings=shapes.window, rope_parameters=rope)
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(FORMAT)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(usual)


def measure(path: Path, shapes: Shapes, device: torch.device) -> None:
    """A large matrix product, a copy, and causal attention of one layer by every kernel there is."""
    row, n = partial(gpu_record.measure, path, PART, device=device), shapes.side
    a, b = (torch.randn(n, n, dtype=FORMAT, device=device) for _ in range(2))
    work = partial(_multiply, a, b, torch.empty_like(a))
    row("matrix product", work=work, repeats=3, length=n, operations=PRODUCTS * 2 * n**3)
    source = torch.empty(shapes.copied, dtype=torch.uint8, device=device)
    # What is read and what is written both count.
    row("copy", repeats=10, work=partial(torch.empty_like(source).copy_, source), bytes=2 * shapes.copied)
    del a, b, work, source

    n, (hidden, _, _, heads, _) = shapes.middle, shapes.model
    parts = (torch.randn(1, heads, n, hidden // heads, dtype=FORMAT, device=device) for _ in range(3))
    query, key, value = parts
    taken = SDPBackend(torch._fused_sdp_choice(query, key, value, is_causal=True)).name

    def attend(*kernels: str) -> None:
        with sdpa_kernel([getattr(SDPBackend, name) for name in kernels]):
            functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    operations = 4 * hidden * n * (n + 1) / 2  # a query and the keys it sees
    about: dict[str, Any] = {"length": n, "operations": operations}
    row(f"attention as torch chooses: {taken}", work=partial(attend, *KERNELS), repeats=10, **about)
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"):
        row(f"attention by {name}", work=partial(attend, name), repeats=10, **about)


def _multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    for _ in range(PRODUCTS):
        torch.matmul(a, b, out=out)
