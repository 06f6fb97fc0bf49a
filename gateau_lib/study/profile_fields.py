"""What a profile fixes: every size that differs between a laptop and the published experiments.

Each field carries its unit and the source of the value that ``paper`` uses, or what was assumed where no
source states one. `gateau_lib.study.profiles` has the values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

CHANGES_NO_RESULT = True  # profiles enter every key by their values
Stage = tuple[int, int, int]  # (window in tokens, optimizer steps, tokens a step)
SCRATCH, PLANTED = "not used: models from the hub", "ours, planted part"
REHEARSED = "rehearse-"  # begins the name of a rehearsal


def _setting(unit: str, paper: str = "") -> Any:
    """A field with its unit and the source of the value the ``paper`` profile gives it."""
    return field(metadata={"unit": unit, "paper": paper})


@dataclass(frozen=True)
class Profile:
    """Every size of one scale of the study. ``Profile.describe()`` lists values, units and sources."""

    base: Literal["smoke", "cpu", "gpu", "paper"]  # which one it is, or varies
    pair: str  # of the registry, in place of one trained from scratch; "": none
    rehearsed: bool  # every stage of it for real, on fabricated tiny models and data
    short_model: str = _setting(
        "'scratch', 'shipped', hub id or folder", "GATEAU select/hmg/compute_hmg_4k.py"
    )
    long_model: str = _setting(
        "'scratch', 'shipped', hub id or folder", "GATEAU select/hmg/compute_hmg_64k.py, train/scripts"
    )
    short_window: int = _setting("tokens", "configuration of Llama-2-7b")
    long_window: int = _setting(
        "tokens", "GATEAU train/pre_tokenize.py, which cuts there on the right; ours on the left"
    )
    long_rope_factor: float = _setting(
        "x, RoPE base of the long model over the short one", "LongAlign 4.1: base x 200"
    )
    hidden_size: int = _setting("channels, models built from scratch", SCRATCH)
    layers: int = _setting("layers, models built from scratch", SCRATCH)
    heads: int = _setting("attention heads, models built from scratch", SCRATCH)
    rope_theta: float = _setting("RoPE base of the short model built from scratch", SCRATCH)
    short_stages: tuple[Stage, ...] = _setting(
        "(window, steps, tokens a step), pretraining of the short model", SCRATCH
    )
    long_stages: tuple[Stage, ...] = _setting(
        "(window, steps, tokens a step), continued pretraining of the long model", SCRATCH
    )
    question_share: float = _setting("share of pretraining recalls written as question and answer", SCRATCH)
    segment_length: int = _setting("tokens", "GATEAU select/cam/run_multiprocess_attn.sh; ProLong README")
    max_length: int = _setting(
        "tokens a sample, cut on the left of the context", "GATEAU select/hmg; its cam cuts on the right"
    )
    example_tokens: int = _setting(
        "tokens of an example that is computed by hand, in single precision on the CPU", "ours"
    )
    pool_per_kind: int = _setting("samples of each kind in one planted pool", PLANTED)
    pool_tokens: tuple[int, int] = _setting("tokens, shortest and longest sample of a pool", PLANTED)
    pool_seeds: int = _setting(
        "independent candidate pools, each selected from, trained on and evaluated", PLANTED
    )
    short_pool: int = _setting("short instruction samples, planted part", PLANTED)
    fraction: float = _setting("share of the long pool that is selected", PLANTED)
    alpha: float = _setting("weight of HMP against CAM, planted part", "GATEAU select/rank.py: real-world")
    prolong_pairs: int = _setting("segment pairs a document", "ProLong, paper; 500 in its scripts")
    sft_tokens: int = _setting(
        "training tokens of one fine-tuning run on short instructions and a selection", PLANTED
    )
    sft_batch_tokens: int = _setting("tokens an optimizer step, planted part", PLANTED)
    sft_learning_rate: float = _setting("peak, cosine with 3 % warm-up", "GATEAU train/scripts")
    skip_steps: int = _setting(
        "optimizer steps of one SkipAlign run", "not recoverable from public text; assumed"
    )
    eval_items: int = _setting("items a task and length", PLANTED)
    eval_lengths: tuple[int, ...] = _setting(
        "tokens, lengths of the evaluation contexts", "ours; GATEAU's needle: 1k to 60k"
    )
    workers: int = _setting(
        "processes that fine-tune at a time, one thread each (0: in the notebook's own process)", PLANTED
    )
    dtype: str = _setting(
        "torch dtype of scoring, and of training under autocast", "GATEAU; float16 in its select/cam"
    )
    processes: int = _setting(
        "processes that train one model together (0: one a visible GPU)", "GATEAU train/scripts: 8 GPUs"
    )
    tuning: str = _setting(
        "'full' or 'lora' (adapters, which leave the model as it is)", "GATEAU train/main.py: all weights"
    )
    sharding: str = _setting(
        "'ddp', 'fsdp' or 'deepspeed', how processes share a model", "assumed; GATEAU: ZeRO-3 with offload"
    )
    micro_tokens: int = _setting(
        "tokens a process reads at a time (0: its share of the step)", "assumed; GATEAU: one sample"
    )
    template: str = _setting(
        "'plain' or 'inst', how a prompt is written", "GATEAU train/pre_tokenize.py: [INST]...[/INST]"
    )
    long_data: str = _setting("data set of the registry, published part ('': not run)", "GATEAU README")
    short_data: str = _setting(
        "data set of the registry, published part", "GATEAU README: ShareGPT; which copy is not stated"
    )
    long_samples: int = _setting("long samples, published part", "LongAlign-10k, all of it")
    short_samples: tuple[int, ...] = _setting(
        "short samples, a setting each", "GATEAU README: real-world, limited"
    )
    alphas: tuple[float, ...] = _setting(
        "alpha of each setting", "GATEAU select/rank.py: real-world, limited"
    )
    shares: tuple[float, ...] = _setting(
        "shares of the long samples that are selected", "GATEAU README: 1k, 3k and 5k"
    )
    epochs: float = _setting("passes over short and selected samples", "GATEAU train/scripts")
    batch_samples: int = _setting(
        "samples an optimizer step, sorted batching", "GATEAU train/scripts: 8 GPUs x 12"
    )
    benchmarks: tuple[str, ...] = _setting(
        "benchmarks of the published part", "GATEAU README; ruler and short-tasks are ours"
    )
    benchmark_items: int = _setting("items a benchmark task (0: all)", "GATEAU train/LongBench: all")
    benchmark_window: int = _setting(
        "tokens of a prompt, cut in the middle", "GATEAU train/LongBench, train/LongBench_Chat"
    )

    @property
    def name(self) -> str:
        """As commands and the results' folder name it: ``cpu``, ``gpu+granite-2b``, ``rehearse-paper``."""
        return REHEARSED * self.rehearsed + self.base + (f"+{self.pair}" if self.pair else "")

    @property
    def needs_gpu(self) -> bool:
        """Whether it is meant for GPUs; a rehearsal of one that is runs anywhere."""
        return self.base in ("gpu", "paper") and not self.rehearsed

    @property
    def from_hub(self) -> bool:
        """Whether its models are given (hub id or folder), not trained from scratch, not the shipped pair."""
        return self.short_model not in ("scratch", "shipped")

    def describe(self) -> list[tuple[str, Any, str, str]]:
        """Rows ``(field, value, unit, source of the paper's value)`` of what may be changed, in order."""
        settings = [f for f in fields(self) if f.metadata]
        return [(f.name, getattr(self, f.name), f.metadata["unit"], f.metadata["paper"]) for f in settings]
