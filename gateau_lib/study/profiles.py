"""One dial for the whole study: ``smoke``, ``cpu``, ``gpu`` and ``paper``; nothing else holds sizes.

``gpu+PAIR`` takes a pair of the registry in place of one trained from scratch; ``rehearse-PROFILE`` runs all
stages of a large profile on fabricated tiny models and data, on any machine, in minutes.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from gateau_lib.study import registry
from gateau_lib.study.errors import UserError

CHANGES_NO_RESULT = True  # profiles enter every key by their values
Stage = tuple[int, int, int]  # (window in tokens, optimizer steps, tokens a step)
SCRATCH, PLANTED = "not used: models from the hub", "ours, planted part"
REHEARSED = "rehearse-"  # begins the name of a rehearsal


class ProfileError(UserError):
    """No such profile, pair or field, or a value that it does not take; the message lists what there is."""


def _at(cpu: Any, source: str, **other: Any) -> Any:
    """A size: its value at ``cpu``, the source of that at ``paper`` (or what was assumed), other values.

    ``pair`` is ``gpu`` with a pair of the registry; what it and ``paper`` do not set is as in ``gpu``.
    """
    gpu = other.get("gpu", cpu)
    sizes = {"smoke": cpu, "cpu": cpu, "pair": gpu, "paper": gpu, "gpu": gpu}
    return field(metadata={"source": source} | sizes | other)


@dataclass(frozen=True)
class Profile:
    """Every size of one scale of the study, each with its unit and source."""

    base: str  # smoke, cpu, gpu or paper: which one it is, or varies
    pair: str  # of the registry, in place of one trained from scratch; "": none
    rehearsed: bool  # every stage of it for real, on fabricated tiny models and data
    # fmt: off
    # The models: 'scratch', 'shipped', hub id or folder; tokens that each is made for.
    short_model: str = _at("scratch", "GATEAU select/hmg/compute_hmg_4k.py",
                           smoke="shipped", paper="NousResearch/Llama-2-7b-hf")
    long_model: str = _at("scratch", "GATEAU select/hmg/compute_hmg_64k.py, train/scripts",
                          smoke="shipped", paper="THUDM/LongAlign-7B-64k-base")
    short_window: int = _at(256, "configuration of Llama-2-7b", gpu=1024, paper=4096)
    long_window: int = _at(
        2048, "GATEAU train/pre_tokenize.py, which cuts there on the right; ours on the left",
        smoke=1024, gpu=16_384, paper=65_536)
    long_rope_factor: float = _at(100.0, "LongAlign 4.1: base x 200", paper=200.0)  # over the short base
    hidden_size: int = _at(128, SCRATCH, gpu=512)  # channels, models built from scratch
    layers: int = _at(3, SCRATCH, gpu=8)  # layers, models built from scratch
    heads: int = _at(4, SCRATCH, gpu=8)  # attention heads, models built from scratch
    rope_theta: float = _at(1_000.0, SCRATCH, gpu=10_000.0)  # RoPE base of the short model built from scratch
    # (window, steps, tokens a step): pretraining of the short model, continued pretraining of the long one
    short_stages: tuple[Stage, ...] = _at(
        ((64, 200, 4096), (128, 60, 4096), (256, 60, 4096)), SCRATCH, smoke=((64, 3, 1024),),
        gpu=((256, 2000, 65_536), (512, 1000, 65_536), (1024, 1000, 65_536)), pair=(), paper=())
    long_stages: tuple[Stage, ...] = _at(
        ((1024, 20, 8192), (2048, 40, 8192)), SCRATCH, smoke=((256, 2, 1024),),
        gpu=((4096, 300, 131_072), (8192, 300, 131_072), (16_384, 300, 131_072)), pair=(), paper=())
    # Share of pretraining recalls written as question and answer: of the short model, of the long one.
    question_share: float = _at(0.15, SCRATCH)
    long_question_share: float = _at(0.0, SCRATCH)
    recall_target: float = _at(0.9, SCRATCH, smoke=0.0)  # share of recalled held-out tokens to end at
    more_steps: int = _at(300, SCRATCH, smoke=0, gpu=1000)  # of a last stage, at most, until it is reached
    segment_length: int = _at(32, "GATEAU select/cam/run_multiprocess_attn.sh; ProLong README",
                              gpu=128)  # tokens a segment
    max_length: int = _at(2048, "GATEAU select/hmg; its cam cuts on the right",
                          smoke=1024, gpu=16_384, paper=64_000)  # tokens a sample, cut left of the context
    example_tokens: int = _at(2048, "ours", smoke=1024, pair=512, paper=512)  # of what is computed by hand
    pool_per_kind: int = _at(12, PLANTED, smoke=2, gpu=100, pair=30)  # samples of each honest kind in a pool
    noise_per_kind: int = _at(15, PLANTED, smoke=2, gpu=120, pair=40)  # samples of each kind of noise
    pool_tokens: tuple[int, int] = _at(
        (450, 1250), PLANTED, smoke=(400, 900), gpu=(4000, 15_000),
        paper=(8192, 60_000))  # tokens, shortest and longest sample of a pool
    pool_seeds: int = _at(1, PLANTED, smoke=1, gpu=5, pair=3, paper=3)  # independent pools
    short_pool: int = _at(40, PLANTED, smoke=24, gpu=400)  # short instruction samples, planted part
    # The same where short samples are plenty, and not scarce.
    short_plenty: int = _at(200, "GATEAU: real-world against limited", smoke=32, gpu=2000)
    fraction: float = _at(0.3, PLANTED)  # share of the long pool that is selected
    alpha: float = _at(0.8, "GATEAU select/rank.py: real-world")  # weight of HMP against CAM, planted part
    alpha_scarce: float = _at(0.7, "GATEAU select/rank.py: limited")  # where short samples are scarce
    prolong_pairs: int = _at(120, "ProLong, paper; 500 in its scripts",
                             smoke=40, gpu=500, pair=200, paper=5000)  # segment pairs a document
    sft_tokens: int = _at(64_000, PLANTED, smoke=3000, gpu=4_000_000, pair=1_000_000)  # tokens of a run
    sft_batch_tokens: int = _at(10_752, PLANTED, smoke=1024, gpu=65_536, paper=131_072)  # tokens a step
    sft_learning_rate: float = _at(1e-3, "GATEAU train/scripts", gpu=5e-4,
                                   pair=1e-4, paper=2e-5)  # peak, cosine with 3 % warm-up
    skip_rope_factor: float = _at(20.0, "measured, docs/log.md: NTK's 9.2 gives less of all")  # over its base
    skip_steps: int = _at(100, "not recoverable from public text; assumed", smoke=2, gpu=300, pair=60)
    skip_batch_tokens: int = _at(2048, PLANTED, smoke=1024, gpu=65_536, paper=131_072)  # tokens a step
    skip_learning_rate: float = _at(1.5e-3, "as sft_learning_rate", gpu=5e-4, pair=1e-4, paper=2e-5)  # peak
    # What makes the second short model, of a wider window, out of the first; (): there is none.
    skip_wider_stages: tuple[Stage, ...] = _at(
        ((512, 30, 4096),), SCRATCH, smoke=((512, 2, 1024),), gpu=((2048, 300, 65_536),), pair=(), paper=())
    eval_items: int = _at(10, PLANTED, smoke=2, gpu=50)  # items a task and length
    eval_needles: int = _at(4, PLANTED, smoke=1, gpu=12)  # items a depth, longest length; half at others
    eval_lengths: tuple[int, ...] = _at(  # tokens of the evaluation contexts
        (256, 512, 1024, 2048), "ours; GATEAU's needle: 1k to 60k", smoke=(256, 1024),
        gpu=(1024, 2048, 4096, 8192, 16_384), paper=(4096, 8192, 16_384, 32_768, 65_536))
    workers: int = _at(2, PLANTED, smoke=0, gpu=0)  # processes that fine-tune (0: the notebook's)
    dtype: str = _at("float32", "GATEAU; float16 in its select/cam",
                     gpu="bfloat16")  # torch dtype of scoring, and of training under autocast
    processes: int = _at(1, "GATEAU train/scripts: 8 GPUs", paper=0)  # that train one model (0: all GPUs)
    tuning: str = _at("full", "GATEAU train/main.py: all weights", pair="lora")  # or 'lora' (adapters)
    sharding: str = _at("ddp", "assumed; GATEAU: ZeRO-3 with offload", paper="fsdp")  # or 'deepspeed'
    micro_tokens: int = _at(2560, "assumed; GATEAU: one sample", smoke=0, gpu=32_768, pair=16_384,
                            paper=65_536)  # tokens a process reads at a time (0: its share of the step)
    template: str = _at("plain", "GATEAU train/pre_tokenize.py: [INST]...[/INST]",
                        pair="inst", paper="inst")  # how a prompt is written
    # Published part: data sets of the registry ('': not run), and how much of them.
    long_data: str = _at("", "GATEAU README", pair="longalign-10k", paper="longalign-10k")
    short_data: str = _at("", "GATEAU README: ShareGPT; which copy is not stated",
                          pair="sharegpt", paper="sharegpt")
    long_samples: int = _at(0, "LongAlign-10k, all of it", pair=1000, paper=10_000)
    short_samples: tuple[int, ...] = _at((), "GATEAU README: real-world, limited",
                                         pair=(2000,), paper=(100_000, 10_000))  # of each setting
    alphas: tuple[float, ...] = _at((), "GATEAU select/rank.py: real-world, limited",
                                    pair=(0.8,), paper=(0.8, 0.7))  # of each setting
    shares: tuple[float, ...] = _at((), "GATEAU README: 1k, 3k and 5k",
                                    pair=(0.3,), paper=(0.1, 0.3, 0.5))  # of the long samples, selected
    epochs: float = _at(0.0, "GATEAU train/scripts", pair=1.0, paper=2.0)  # over short and selected samples
    batch_samples: int = _at(0, "GATEAU train/scripts: 8 GPUs x 12", pair=32, paper=96)  # samples a step
    benchmarks: tuple[str, ...] = _at(
        (), "GATEAU README; ruler and short-tasks are ours", pair=("longbench", "needle", "ruler"),
        paper=("longbench", "longbench-chat", "mt-bench", "needle", "ruler", "short-tasks"))
    benchmark_items: int = _at(0, "GATEAU train/LongBench: all", pair=50)  # items a benchmark task (0: all)
    benchmark_window: int = _at(2048, "GATEAU train/LongBench, train/LongBench_Chat",
                                gpu=16_384, paper=64_000)  # tokens of a prompt, cut in the middle
    # fmt: on

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

    def describe(self) -> list[tuple[str, Any, str]]:
        """Rows ``(field, value, source of the paper's value)`` of what may be changed, in order."""
        return [(f.name, getattr(self, f.name), f.metadata["source"]) for f in fields(self) if f.metadata]


def _sizes(column: str) -> dict[str, Any]:
    return {f.name: f.metadata[column] for f in fields(Profile) if f.metadata}


PROFILES = {base: Profile(base, "", False, **_sizes(base)) for base in ("smoke", "cpu", "gpu", "paper")}


def named(name: str) -> Profile:
    """The profile of that name: one of `PROFILES` or a variant; ProfileError: no such profile or pair."""
    base, plus, pair = name.removeprefix(REHEARSED).partition("+")
    if base not in PROFILES:
        variants = f"gpu+PAIR, {REHEARSED}gpu, {REHEARSED}paper"
        raise ProfileError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}, {variants}")
    if plus and base != "gpu":
        known = ", ".join(registry.pairs())
        raise ProfileError(f"only make gpu takes PAIR: make gpu PAIR={known} (one of them)")
    profile = _with_pair(pair) if plus else PROFILES[base]
    return _rehearsal(profile) if name.startswith(REHEARSED) else profile


def _with_pair(name: str) -> Profile:
    """``gpu`` with a pair of the registry, its windows cut to the profile's; `_at` has it as ``pair``."""
    pairs, gpu = registry.pairs(), PROFILES["gpu"]
    if name not in pairs:
        raise ProfileError(f"unknown pair {name!r}: the registry has {', '.join(pairs)}")
    short, long = pairs[name].short, pairs[name].long
    window, (shortest, longest) = min(long.window, gpu.long_window), gpu.pool_tokens
    own = {"short_model": short.repo, "long_model": long.repo, "short_window": short.window}
    own |= dict.fromkeys(("long_window", "max_length", "benchmark_window"), window)
    own["pool_tokens"] = (shortest, min(window, longest))
    own["eval_lengths"] = tuple(n for n in gpu.eval_lengths if n <= window)
    return Profile("gpu", name, False, **_sizes("pair") | own)


def _rehearsal(profile: Profile) -> Profile:
    """Every stage of a large profile on tiny models and data: ``smoke``, and what makes a stage real."""
    if not profile.needs_gpu:
        raise ProfileError(f"profile {profile.name!r} needs no rehearsal: run it")
    smoke = PROFILES["smoke"]
    real = "base pair sft_learning_rate tuning template long_data short_data epochs benchmarks".split()
    # A pair trained for a few steps has learnt nothing: what is scored is the shipped one.
    if not profile.short_stages:
        real += "short_model long_model short_stages long_stages skip_wider_stages".split()
    sizes = {name: getattr(profile, name) for name in real}
    if profile.long_data:
        sizes |= {"long_samples": 24, "short_samples": (24,), "batch_samples": 8, "benchmark_items": 1}
    sizes |= {"alphas": profile.alphas[:1], "shares": profile.shares[-1:], "micro_tokens": 1024}
    sizes |= {"benchmark_window": smoke.long_window, "sharding": "ddp"}  # accelerate shards on GPUs only
    return replace(smoke, **sizes, rehearsed=True, processes=2 if profile.processes == 0 else 1)


def resolve(name: str, /, **overrides: Any) -> Profile:
    """The named profile with some fields replaced; ProfileError: no such profile, field or type."""
    profile = named(name)
    values = {field: value for field, value, _ in profile.describe()}
    for key, value in overrides.items():
        if key not in values:
            raise ProfileError(f"unknown profile field {key!r}: choose one of {', '.join(values)}")
        want = type(values[key])
        if not isinstance(value, (want, int) if want is float else want):
            given = f"{value!r} ({type(value).__name__})"
            raise ProfileError(f"profile field {key!r} takes {want.__name__}, got {given}")
    return replace(profile, **overrides)
