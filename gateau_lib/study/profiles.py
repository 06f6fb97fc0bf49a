"""One dial for the whole study: ``smoke``, ``cpu``, ``gpu`` and ``paper``.

Notebooks read the profile; nothing else holds sizes. Two variants have names of their own: ``gpu+PAIR`` takes
a pair of the registry in place of one trained from scratch, and ``rehearse-PROFILE`` runs every stage of a
large profile on fabricated tiny models and data, on any machine, in minutes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateau_lib.study import registry
from gateau_lib.study.errors import UserError
from gateau_lib.study.profile_fields import REHEARSED, Profile, Stage

CHANGES_NO_RESULT = True  # profiles enter every key by their values
__all__ = ["PROFILES", "REHEARSED", "Profile", "ProfileError", "Stage", "named", "resolve"]


class ProfileError(UserError):
    """No such profile, pair or field, or a value that it does not take; the message lists what there is."""


CPU = Profile(
    base="cpu",
    pair="",
    rehearsed=False,
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
    base="smoke",
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
    base="gpu",
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

PAPER = replace(
    GPU,
    base="paper",
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


def named(name: str) -> Profile:
    """The profile of that name: one of `PROFILES`, ``gpu+PAIR``, ``rehearse-gpu[+PAIR]``, ``rehearse-paper``.

    Raises:
        ProfileError: no such profile or pair; the message lists those there are.
    """
    base, plus, pair = name.removeprefix(REHEARSED).partition("+")
    if base not in PROFILES:
        variants = f"gpu+PAIR, {REHEARSED}gpu, {REHEARSED}paper"
        raise ProfileError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}, {variants}")
    if plus and base != "gpu":
        raise ProfileError(
            f"only make gpu takes PAIR: make gpu PAIR={', '.join(registry.pairs())} (one of them)"
        )
    profile = _with_pair(PROFILES[base], pair) if plus else PROFILES[base]
    return _rehearsal(profile) if name.startswith(REHEARSED) else profile


def _with_pair(profile: Profile, name: str) -> Profile:
    """The profile with a pair of the registry, its windows cut to the profile's.

    On one card that changes more: adapters are trained, and the published part reads a part of its data.
    """
    pairs = registry.pairs()
    if name not in pairs:
        raise ProfileError(f"unknown pair {name!r}: the registry has {', '.join(pairs)}")
    short, long = pairs[name].short, pairs[name].long
    window = min(long.window, profile.long_window)
    shortest, longest = profile.pool_tokens
    return replace(
        profile,
        pair=name,
        short_model=short.repo,
        long_model=long.repo,
        short_window=short.window,
        long_window=window,
        max_length=window,
        benchmark_window=window,
        pool_tokens=(shortest, min(window, longest)),
        eval_lengths=tuple(n for n in profile.eval_lengths if n <= window),
        example_tokens=512,
        pool_per_kind=30,
        pool_seeds=3,
        prolong_pairs=200,
        sft_tokens=1_000_000,
        skip_steps=60,
        short_stages=(),
        long_stages=(),
        sft_learning_rate=1e-4,
        tuning="lora",
        micro_tokens=16384,
        template="inst",
        long_data="longalign-10k",
        short_data="sharegpt",
        long_samples=1000,
        short_samples=(2000,),
        alphas=(0.8,),
        shares=(0.3,),
        epochs=1.0,
        batch_samples=32,
        benchmarks=("longbench", "needle", "ruler"),
        benchmark_items=50,
    )


def _rehearsal(profile: Profile) -> Profile:
    """Every stage of a large profile on tiny models and data: ``smoke``, and what makes a stage real.

    Where the profile trains its pair, a few steps show that it runs; what is scored needs a pair that has
    learnt something, so that is the shipped one.
    """
    if not profile.needs_gpu:
        raise ProfileError(f"profile {profile.name!r} needs no rehearsal: run it")
    models = SMOKE if profile.short_stages else profile
    published = bool(profile.long_data)
    return replace(
        SMOKE,
        base=profile.base,
        pair=profile.pair,
        rehearsed=True,
        short_model=models.short_model,
        long_model=models.long_model,
        short_stages=models.short_stages,
        long_stages=models.long_stages,
        sft_learning_rate=profile.sft_learning_rate,
        processes=2 if profile.processes == 0 else 1,
        sharding="ddp",  # accelerate shards on GPUs only
        tuning=profile.tuning,
        micro_tokens=1024,
        template=profile.template,
        long_data=profile.long_data,
        short_data=profile.short_data,
        long_samples=24 if published else 0,
        short_samples=(24,) if published else (),
        alphas=profile.alphas[:1],
        shares=profile.shares[-1:],
        epochs=profile.epochs,
        batch_samples=8 if published else 0,
        benchmarks=profile.benchmarks,
        benchmark_items=1 if published else 0,
        benchmark_window=SMOKE.long_window,
    )


def resolve(name: str, /, **overrides: Any) -> Profile:
    """The named profile with a few fields replaced.

    Raises:
        ProfileError: unknown profile or field, or a value of another type than the field's; the message lists
            what is allowed.
    """
    profile = named(name)
    values = {field: value for field, value, *_ in profile.describe()}
    for key, value in overrides.items():
        if key not in values:
            raise ProfileError(f"unknown profile field {key!r}: choose one of {', '.join(values)}")
        want = type(values[key])
        if not isinstance(value, want) and not (want is float and isinstance(value, int)):
            given = f"{value!r} ({type(value).__name__})"
            raise ProfileError(f"profile field {key!r} takes {want.__name__}, got {given}")
    return replace(profile, **overrides)
