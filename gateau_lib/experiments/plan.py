"""What a profile will cost, and what this machine lacks for it, before anything is downloaded or computed.

Estimates: `workload` counts tokens and operations, `footprint` room; what they were checked against stands in docs/scale.md.
Hours are those of an A100 or A800 of 80 GB at the utilisation that `estimate` assumes; a small model reaches less of it.
"""

from __future__ import annotations

from importlib.util import find_spec

from gateau_lib.experiments.machine_check import DATA, GB, data_missing, gpu_memory
from gateau_lib.experiments.workload import pair
from gateau_lib.models.sizes import Size
from gateau_lib.study.errors import UserError
from gateau_lib.study.profiles import Profile, needs_gpu


class PlanError(UserError):
    """This machine cannot run the profile; the message says what is missing and what to do."""




def size(profile: Profile) -> Size:
    """The size of the long model, which is the one that is tuned."""
    return pair(profile)[1]


def describe(profile: Profile) -> str:
    """The plan as text: models, data, steps, tokens, operations, hours, memory, disk.

    Raises:
        UnknownSize: a model of which nothing can be read here.
    """
    from gateau_lib.experiments import footprint, workload

    short, long = pair(profile)
    parts, cards = workload.work(profile), len(gpu_memory())
    hours = [part.hours(long.parameters) for part in parts]
    many = cards or footprint.processes(profile, cards)
    elapsed = sum(hour if part.alone else hour / many for part, hour in zip(parts, hours, strict=True))
    where = f"the {cards} GPU(s) here" if cards else f"{many} GPU(s)"
    tokens, steps = sum(part.tokens for part in parts), sum(part.steps for part in parts)
    stages = ", ".join(f"{name} {need / GB:,.1f} GB" for name, need in footprint.memory(profile, cards).items())
    room = footprint.disk(profile)
    notebooks = len({part.notebook for part in parts})
    lines = [
        f"plan of profile {profile.name} (estimates; hours of one A100)",
        f"  models   {profile.short_model} ({profile.short_window:,} tokens, {_short(short.parameters)} parameters) and "
        f"{profile.long_model} ({profile.long_window:,} tokens, {_short(long.parameters)}), scored in {profile.dtype}",
        f"  data     {_data(profile)}",
        f"  training {_training(profile, cards)}",
        *(
            f"  {p.notebook} {p.what:26} {_short(p.tokens):>7} tokens  {p.operations:8.1e} operations  {hour:10,.2f} hours"
            f"{f'  {p.steps:,} steps' if p.steps else ''}"
            for p, hour in zip(parts, hours, strict=True)
        ),
        f"  in all   {notebooks} notebooks that use models, {len(parts)} parts, {steps:,} optimizer steps, "
        f"{_short(tokens)} tokens, {sum(p.operations for p in parts):.1e} operations",
        f"  time     {sum(hours):,.1f} GPU-hours; {elapsed:,.1f} hours on {where}",
        f"  memory   of a GPU: {stages}; of the host, to load: {footprint.host(profile, cards) / GB:,.1f} GB",
        f"  disk     results {room.results / GB:,.0f} GB (tuned models, checkpoints), the hub's cache {room.hub / GB:,.0f} GB",
    ]
    return "\n".join([*lines, *(f"  note     {note}" for note in notes(profile))])


def _data(profile: Profile) -> str:
    from gateau_lib.data import corpus

    count, (low, high) = len(corpus.KINDS) * profile.pool_per_kind, profile.pool_tokens
    text = f"{profile.pool_seeds} planted pool(s) of {count:,} samples of {low:,} to {high:,} tokens"
    if not profile.long_data:
        return text
    short = " and ".join(f"{n:,}" for n in profile.short_samples)
    return f"{text}; {profile.long_samples:,} of {profile.long_data}, {short} of {profile.short_data}"


def _training(profile: Profile, cards: int) -> str:
    from gateau_lib.experiments import footprint, workload

    many = footprint.processes(profile, cards)
    kind = "adapters (LoRA)" if profile.tuning == "lora" else "all weights"
    shared = f"{many} processes, {profile.sharding}" if many > 1 else "one process"
    read = f"{profile.micro_tokens:,} tokens" if profile.micro_tokens else "its share of a step"
    checkpoints = ", gradient checkpoints" if workload.checkpointed(profile) else ""
    return f"{kind}, {shared}, {profile.dtype}{checkpoints}, a pass reads {read}"


def notes(profile: Profile) -> list[str]:
    """What takes longer than it must, and what will be reported as not run: benchmarks without data, judge or program."""
    if not needs_gpu(profile):
        return []
    found, cards = [], len(gpu_memory())
    if profile.long_data and cards > 1 and not find_spec("ray"):
        found = [f"the published long samples are scored on one of the {cards} GPUs: Ray is not installed (pip install ray)"]
    found += [f"{name} will be reported as not run: {why}" for name in profile.benchmarks if (why := _without(profile, name))]
    if judged := [name for name in profile.benchmarks if name in ("longbench-chat", "mt-bench")]:
        found.append(f"{' and '.join(judged)} need a judge: SET='judge=http://host:8000/v1#model'")
    return found


def _without(profile: Profile, benchmark: str) -> str:
    if benchmark == "short-tasks" and not find_spec("lm_eval"):
        return "lm-evaluation-harness is not installed (pip install lm-eval)"
    return data_missing(profile, DATA[benchmark]) if benchmark in DATA else ""


















# What this machine has ----------------------------------------------------------------------------------------------------
























def _short(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return f"{number:.0f}"
