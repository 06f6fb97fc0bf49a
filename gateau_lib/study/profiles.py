"""One dial for the whole study: ``smoke``, ``cpu``, ``gpu`` and ``paper``.

A profile fixes every size that differs between a laptop and the published experiments. Each field carries its unit and the
source of the value that ``paper`` uses, or what was assumed where no source states one. Notebooks read the profile; nothing
else holds sizes.

Two variants have names of their own: ``gpu+PAIR`` takes a pair of the registry in place of one trained from scratch, and
``rehearse-PROFILE`` runs every stage of a large profile on fabricated tiny models and data, on any machine, in minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from gateau_lib.study.errors import UserError

CHANGES_NO_RESULT = True  # profiles enter every key by their values
Stage = tuple[int, int, int]  # (window in tokens, optimizer steps, tokens a step)
SCRATCH, PLANTED = "not used: models from the hub", "ours, planted part"


class ProfileError(UserError):
    """No such profile, pair or field, or a value that the field does not take; the message lists what there is."""


def _setting(unit: str, paper: str = "") -> Any:
    """A field with its unit and the source of the value the ``paper`` profile gives it."""
    return field(metadata={"unit": unit, "paper": paper})


@dataclass(frozen=True)
class Profile:
    """Every size of one scale of the study. ``Profile.describe()`` lists values, units and sources."""

    name: str = _setting("")
    short_model: str = _setting("'scratch', 'shipped', hub id or folder", "GATEAU select/hmg/compute_hmg_4k.py")
    long_model: str = _setting("'scratch', 'shipped', hub id or folder", "GATEAU select/hmg/compute_hmg_64k.py, train/scripts")
    short_window: int = _setting("tokens", "configuration of Llama-2-7b")
    long_window: int = _setting("tokens", "GATEAU train/pre_tokenize.py, which cuts there on the right; ours on the left")
    long_rope_factor: float = _setting("x, RoPE base of the long model over the short one", "LongAlign 4.1: base x 200")
    hidden_size: int = _setting("channels, models built from scratch", SCRATCH)
    layers: int = _setting("layers, models built from scratch", SCRATCH)
    heads: int = _setting("attention heads, models built from scratch", SCRATCH)
    rope_theta: float = _setting("RoPE base of the short model built from scratch", SCRATCH)
    short_stages: tuple[Stage, ...] = _setting("(window, steps, tokens a step), pretraining of the short model", SCRATCH)
    long_stages: tuple[Stage, ...] = _setting("(window, steps, tokens a step), continued pretraining of the long model", SCRATCH)
    question_share: float = _setting("share of pretraining recalls written as question and answer", SCRATCH)
    segment_length: int = _setting("tokens", "GATEAU select/cam/run_multiprocess_attn.sh; ProLong README")
    max_length: int = _setting("tokens a sample, cut on the left of the context", "GATEAU select/hmg; its cam cuts on the right")
    example_tokens: int = _setting("tokens of an example that is computed by hand, in single precision on the CPU", "ours")
    pool_per_kind: int = _setting("samples of each kind in one planted pool", PLANTED)
    pool_tokens: tuple[int, int] = _setting("tokens, shortest and longest sample of a pool", PLANTED)
    pool_seeds: int = _setting("independent candidate pools, each selected from, trained on and evaluated", PLANTED)
    short_pool: int = _setting("short instruction samples, planted part", PLANTED)
    fraction: float = _setting("share of the long pool that is selected", PLANTED)
    alpha: float = _setting("weight of HMP against CAM, planted part", "GATEAU select/rank.py: real-world")
    prolong_pairs: int = _setting("segment pairs a document", "ProLong, paper; 500 in its scripts")
    sft_tokens: int = _setting("training tokens of one fine-tuning run on short instructions and a selection", PLANTED)
    sft_batch_tokens: int = _setting("tokens an optimizer step, planted part", PLANTED)
    sft_learning_rate: float = _setting("peak, cosine with 3 % warm-up", "GATEAU train/scripts")
    skip_steps: int = _setting("optimizer steps of one SkipAlign run", "not recoverable from public text; assumed")
    eval_items: int = _setting("items a task and length", PLANTED)
    eval_lengths: tuple[int, ...] = _setting("tokens, lengths of the evaluation contexts", "ours; GATEAU's needle: 1k to 60k")
    workers: int = _setting("processes that fine-tune at a time, one thread each (0: in the notebook's own process)", PLANTED)
    dtype: str = _setting("torch dtype of scoring, and of training under autocast", "GATEAU; float16 in its select/cam")
    processes: int = _setting("processes that train one model together (0: one a visible GPU)", "GATEAU train/scripts: 8 GPUs")
    tuning: str = _setting("'full' or 'lora' (adapters, which leave the model as it is)", "GATEAU train/main.py: all weights")
    sharding: str = _setting("'ddp', 'fsdp' or 'deepspeed', how processes share a model", "assumed; GATEAU: ZeRO-3 with offload")
    micro_tokens: int = _setting("tokens a process reads at a time (0: its share of the step)", "assumed; GATEAU: one sample")
    template: str = _setting("'plain' or 'inst', how a prompt is written", "GATEAU train/pre_tokenize.py: [INST]...[/INST]")
    long_data: str = _setting("data set of the registry, published part ('': not run)", "GATEAU README")
    short_data: str = _setting("data set of the registry, published part", "GATEAU README: ShareGPT; which copy is not stated")
    long_samples: int = _setting("long samples, published part", "LongAlign-10k, all of it")
    short_samples: tuple[int, ...] = _setting("short samples, a setting each", "GATEAU README: real-world, limited")
    alphas: tuple[float, ...] = _setting("alpha of each setting", "GATEAU select/rank.py: real-world, limited")
    shares: tuple[float, ...] = _setting("shares of the long samples that are selected", "GATEAU README: 1k, 3k and 5k")
    epochs: float = _setting("passes over short and selected samples", "GATEAU train/scripts")
    batch_samples: int = _setting("samples an optimizer step, sorted batching", "GATEAU train/scripts: 8 GPUs x 12")
    benchmarks: tuple[str, ...] = _setting("benchmarks of the published part", "GATEAU README; ruler and short-tasks are ours")
    benchmark_items: int = _setting("items a benchmark task (0: all)", "GATEAU train/LongBench: all")
    benchmark_window: int = _setting("tokens of a prompt, cut in the middle", "GATEAU train/LongBench, train/LongBench_Chat")

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
    example_tokens=2048,
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
    processes=1,
    tuning="full",
    sharding="ddp",
    micro_tokens=0,
    template="plain",
    long_data="",
    short_data="",
    long_samples=0,
    short_samples=(),
    alphas=(),
    shares=(),
    epochs=0.0,
    batch_samples=0,
    benchmarks=(),
    benchmark_items=0,
    benchmark_window=2048,
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
    example_tokens=1024,
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
    micro_tokens=32768,
    benchmark_window=16384,
)

# What a pair from the hub changes on one card: adapters, and a part of the published data.
GPU_PAIR = {
    "example_tokens": 512,
    "pool_per_kind": 30,
    "pool_seeds": 3,
    "prolong_pairs": 200,
    "sft_tokens": 1_000_000,
    "skip_steps": 60,
    "short_stages": (),
    "long_stages": (),
    "sft_learning_rate": 1e-4,
    "tuning": "lora",
    "micro_tokens": 16384,
    "template": "inst",
    "long_data": "longalign-10k",
    "short_data": "sharegpt",
    "long_samples": 1000,
    "short_samples": (2000,),
    "alphas": (0.8,),
    "shares": (0.3,),
    "epochs": 1.0,
    "batch_samples": 32,
    "benchmarks": ("longbench", "needle", "ruler"),
    "benchmark_items": 50,
}

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
    example_tokens=512,
    pool_tokens=(8192, 60000),
    pool_seeds=3,
    fraction=0.3,
    prolong_pairs=5000,
    sft_learning_rate=2e-5,
    sft_batch_tokens=131_072,
    eval_lengths=(4096, 8192, 16384, 32768, 65536),
    processes=0,
    sharding="fsdp",
    micro_tokens=65536,
    template="inst",
    long_data="longalign-10k",
    short_data="sharegpt",
    long_samples=10_000,
    short_samples=(100_000, 10_000),
    alphas=(0.8, 0.7),
    shares=(0.1, 0.3, 0.5),
    epochs=2.0,
    batch_samples=96,
    benchmarks=("longbench", "longbench-chat", "mt-bench", "needle", "ruler", "short-tasks"),
    benchmark_window=64000,
)

PROFILES: dict[str, Profile] = {p.name: p for p in (SMOKE, CPU, GPU, PAPER)}
REHEARSED = "rehearse-"


def named(name: str) -> Profile:
    """The profile of that name or variant: also ``gpu+PAIR``, ``rehearse-gpu``, ``rehearse-gpu+PAIR``, ``rehearse-paper``.

    Raises:
        ProfileError: no such profile or pair; the message lists those there are.
    """
    if name.startswith(REHEARSED) and name != REHEARSED:
        return _rehearsal(named(name.removeprefix(REHEARSED)))
    base, plus, pair = name.partition("+")
    if plus and base in PROFILES and base != "gpu":
        from gateau_lib.study import registry

        raise ProfileError(f"only make gpu takes PAIR: make gpu PAIR={', '.join(registry.pairs())} (one of them)")
    if base not in PROFILES:
        known = ", ".join([*PROFILES, "gpu+PAIR", "rehearse-gpu", "rehearse-paper"])
        raise ProfileError(f"unknown profile {name!r}: choose one of {known}")
    return _with_pair(PROFILES[base], pair) if plus else PROFILES[base]


def _with_pair(profile: Profile, name: str) -> Profile:
    """The profile with a pair of the registry, its windows cut to the profile's."""
    from gateau_lib.study import registry

    pairs = registry.pairs()
    if name not in pairs:
        raise ProfileError(f"unknown pair {name!r}: the registry has {', '.join(pairs)}")
    short, long = pairs[name].short, pairs[name].long
    window = min(long.window, profile.long_window)
    lengths = tuple(n for n in profile.eval_lengths if n <= window)
    sizes = {"short_window": short.window, "long_window": window, "max_length": window, "benchmark_window": window}
    sizes |= {"pool_tokens": (profile.pool_tokens[0], min(window, profile.pool_tokens[1])), "eval_lengths": lengths}
    names = {"name": f"{profile.name}+{name}", "short_model": short.repo, "long_model": long.repo}
    return replace(profile, **names, **sizes, **GPU_PAIR)


def _rehearsal(profile: Profile) -> Profile:
    """Every stage of a large profile on tiny models and data; sizes are those of ``smoke``, what makes a stage real stays."""
    if profile.name in ("smoke", "cpu"):
        raise ProfileError(f"profile {profile.name!r} needs no rehearsal: run it")
    sizes = ("short_window", "long_window", "hidden_size", "layers", "heads", "rope_theta", "segment_length", "max_length")
    sizes += ("example_tokens",)
    sizes += ("pool_per_kind", "pool_tokens", "pool_seeds", "short_pool", "prolong_pairs", "sft_tokens", "sft_batch_tokens")
    sizes += ("skip_steps", "eval_items", "eval_lengths", "long_rope_factor")
    tiny = {name: getattr(SMOKE, name) for name in sizes}
    if profile.short_stages:  # a few steps of training show that it runs; what is scored needs a pair that has learnt something
        tiny |= {name: getattr(SMOKE, name) for name in ("short_model", "long_model", "short_stages", "long_stages")}
    tiny |= {"dtype": "float32", "processes": 2 if profile.processes == 0 else 1, "micro_tokens": 1024}
    tiny |= {"sharding": "ddp"}  # accelerate shards on GPUs only
    if profile.long_data:
        tiny |= {"long_samples": 24, "short_samples": (24,), "alphas": profile.alphas[:1], "shares": profile.shares[-1:]}
        tiny |= {"batch_samples": 8, "benchmark_items": 1, "benchmark_window": SMOKE.long_window}
    return replace(profile, name=f"{REHEARSED}{profile.name}", **tiny)


def resolve(name: str, **overrides: Any) -> Profile:
    """The named profile with a few fields replaced.

    Raises:
        ProfileError: unknown profile or field, or a value of another type than the field's; the message lists what is allowed.
    """
    profile = named(name)
    for key, value in overrides.items():
        if key == "name" or not hasattr(profile, key):
            raise ProfileError(f"unknown profile field {key!r}: choose one of {', '.join(f.name for f in fields(Profile)[1:])}")
        want = type(getattr(profile, key))
        if not isinstance(value, want) and not (want is float and isinstance(value, int)):
            raise ProfileError(f"profile field {key!r} takes {want.__name__}, got {value!r} ({type(value).__name__})")
    return replace(profile, **overrides)


NEEDS_GPU = ("gpu", "paper")  # and gpu with a pair of the registry


def needs_gpu(profile: Profile) -> bool:
    """Whether a profile is meant for GPUs; a rehearsal of one is not."""
    return profile.name.partition("+")[0] in NEEDS_GPU
