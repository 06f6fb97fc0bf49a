"""One dial for the whole study: ``smoke``, ``cpu``, ``gpu`` and ``paper``.

A profile fixes every size that differs between a laptop and the published experiments. Each field carries its unit and,
where the papers state one, the source of the value that ``paper`` uses. Notebooks read the profile; nothing else holds sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

Stage = tuple[int, int, int]  # (window in tokens, optimizer steps, tokens a step)


def _setting(unit: str, paper: str = "") -> Any:
    """A field with its unit and the source of the value the ``paper`` profile gives it."""
    return field(metadata={"unit": unit, "paper": paper})


@dataclass(frozen=True)
class Profile:
    """Every size of one scale of the study. ``Profile.describe()`` lists values, units and sources."""

    name: str = _setting("")
    short_model: str = _setting("'scratch', 'shipped', hub id or folder", "GATEAU select/hmg: NousResearch/Llama-2-7b-hf")
    long_model: str = _setting("'scratch', 'shipped', hub id or folder", "GATEAU select/hmg: THUDM/LongAlign-7B-64k-base")
    short_window: int = _setting("tokens", "Llama-2: 4,096")
    long_window: int = _setting("tokens", "LongAlign-7B-64k: 65,536")
    long_rope_factor: float = _setting("x, RoPE base of the long model over the short one", "LongAlign: base x 200")
    hidden_size: int = _setting("channels, models built from scratch")
    layers: int = _setting("layers, models built from scratch")
    heads: int = _setting("attention heads, models built from scratch")
    rope_theta: float = _setting("RoPE base of the short model built from scratch")
    short_stages: tuple[Stage, ...] = _setting("(window, steps, tokens a step), pretraining of the short model")
    long_stages: tuple[Stage, ...] = _setting("(window, steps, tokens a step), continued pretraining of the long model")
    question_share: float = _setting("share of pretraining recalls written as question and answer")
    segment_length: int = _setting("tokens", "GATEAU select/cam and ProLong run.py: 128")
    max_length: int = _setting("tokens a sample, cut on the left of the context", "GATEAU select/hmg: 64,000")
    pool_per_kind: int = _setting("samples of each kind in one candidate pool", "LongAlign-10k: 10,000 samples, unlabelled")
    pool_tokens: tuple[int, int] = _setting("tokens, shortest and longest sample of a pool", "LongAlign: 8k to 64k")
    pool_seeds: int = _setting("independent candidate pools, each selected from, trained on and evaluated")
    short_pool: int = _setting("short instruction samples", "ShareGPT: 100k real-world, 10k limited")
    fraction: float = _setting("share of the long pool that is selected", "GATEAU: 10, 30 and 50 %")
    alpha: float = _setting("weight of HMP against CAM", "GATEAU select/rank.py: 0.8 real-world, 0.7 limited")
    prolong_pairs: int = _setting("segment pairs a document", "ProLong: 5,000 in the paper, 500 in the scripts")
    sft_tokens: int = _setting("training tokens of one fine-tuning run on short instructions and a selection")
    sft_batch_tokens: int = _setting("tokens an optimizer step", "GATEAU: 96 samples of at most 65,536 tokens")
    sft_learning_rate: float = _setting("peak, cosine with 3 % warm-up", "GATEAU: 2e-5")
    skip_steps: int = _setting("optimizer steps of one SkipAlign run", "not recoverable from public text")
    eval_items: int = _setting("items a task and length")
    eval_lengths: tuple[int, ...] = _setting("tokens, lengths of the evaluation contexts")
    workers: int = _setting("processes that fine-tune at the same time, one thread each (0: in the notebook's own process)")
    dtype: str = _setting("torch dtype of scoring", "bfloat16")

    def describe(self) -> list[tuple[str, Any, str, str]]:
        """Rows ``(field, value, unit, source of the paper's value)`` in declaration order."""
        return [(f.name, getattr(self, f.name), f.metadata["unit"], f.metadata["paper"]) for f in fields(self)]


CPU = Profile(
    name="cpu",
    short_model="scratch",
    long_model="scratch",
    short_window=256,
    long_window=2048,
    long_rope_factor=100.0,
    hidden_size=128,
    layers=3,
    heads=4,
    rope_theta=1_000.0,
    short_stages=((64, 250, 4096), (128, 200, 4096), (256, 500, 4096)),
    long_stages=((1024, 30, 8192), (2048, 250, 8192)),
    question_share=0.15,
    segment_length=32,
    max_length=2048,
    pool_per_kind=16,
    pool_tokens=(600, 1900),
    pool_seeds=3,
    short_pool=200,
    fraction=0.3,
    alpha=0.8,
    prolong_pairs=100,
    sft_tokens=60_000,
    sft_batch_tokens=4096,
    sft_learning_rate=5e-4,
    skip_steps=32,
    eval_items=16,
    eval_lengths=(256, 512, 1024, 2048),
    workers=2,
    dtype="float32",
)

SMOKE = replace(
    CPU,
    name="smoke",
    short_model="shipped",
    long_model="shipped",
    short_stages=((64, 3, 1024),),
    long_stages=((256, 2, 1024),),
    long_window=1024,
    max_length=1024,
    pool_per_kind=4,
    pool_tokens=(400, 900),
    pool_seeds=1,
    short_pool=24,
    prolong_pairs=40,
    sft_tokens=3_000,
    sft_batch_tokens=1024,
    skip_steps=2,
    eval_items=2,
    eval_lengths=(256, 1024),
    workers=0,
)

GPU = replace(
    CPU,
    name="gpu",
    short_window=1024,
    long_window=16384,
    hidden_size=512,
    layers=8,
    heads=8,
    rope_theta=10_000.0,
    short_stages=((256, 2000, 65536), (512, 1000, 65536), (1024, 1000, 65536)),
    long_stages=((4096, 300, 131072), (8192, 300, 131072), (16384, 300, 131072)),
    segment_length=128,
    max_length=16384,
    pool_per_kind=100,
    pool_tokens=(4000, 15000),
    pool_seeds=5,
    short_pool=2000,
    prolong_pairs=500,
    sft_tokens=4_000_000,
    sft_batch_tokens=65536,
    skip_steps=300,
    eval_items=50,
    eval_lengths=(1024, 2048, 4096, 8192, 16384),
    workers=0,
    dtype="bfloat16",
)

PAPER = replace(
    GPU,
    name="paper",
    short_model="NousResearch/Llama-2-7b-hf",
    long_model="THUDM/LongAlign-7B-64k-base",
    short_window=4096,
    long_window=65536,
    long_rope_factor=200.0,
    short_stages=(),
    long_stages=(),
    max_length=64000,
    pool_seeds=1,
    short_pool=100_000,
    fraction=0.3,
    prolong_pairs=5000,
    sft_learning_rate=2e-5,
    eval_lengths=(4096, 8192, 16384, 32768, 65536),
)

PROFILES: dict[str, Profile] = {p.name: p for p in (SMOKE, CPU, GPU, PAPER)}


def resolve(name: str, **overrides: Any) -> Profile:
    """The named profile with a few fields replaced.

    Raises:
        ValueError: unknown profile or field, or a value of another type than the field's; the message lists what is allowed.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}")
    profile = PROFILES[name]
    for key, value in overrides.items():
        if key == "name" or not hasattr(profile, key):
            raise ValueError(f"unknown profile field {key!r}: choose one of {', '.join(f.name for f in fields(Profile)[1:])}")
        want = type(getattr(profile, key))
        if not isinstance(value, want) and not (want is float and isinstance(value, int)):
            raise ValueError(f"profile field {key!r} takes {want.__name__}, got {value!r} ({type(value).__name__})")
    return replace(profile, **overrides)
