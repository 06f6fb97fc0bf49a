"""What a profile will cost, before anything is downloaded or computed; docs/scale.md: how it was checked.

Estimates: each part of the study says in its `cost` what it reads and trains. Hours are those of an A100 or
A800 of 80 GB at the utilisation that `pass_costs` assumes; a small model reaches less of it.
"""

from importlib.util import find_spec

from gateau_lib.data.kinds import KINDS
from gateau_lib.evaluation import suite
from gateau_lib.evaluation.benchmark_item import Benchmark
from gateau_lib.experiments import (
    machine_check,
    outcomes,
    pool,
    replication,
    selection_runs,
    skip_outcomes,
    skip_runs,
    workload,
)
from gateau_lib.experiments.machine_check import GB
from gateau_lib.models.sizes import Size, Work
from gateau_lib.scoring.pass_costs import gpu_hours
from gateau_lib.study import devices
from gateau_lib.study.profiles import Profile
from gateau_lib.training import pretrain

BANDWIDTH = 2.039e12  # bytes a second of an A100 of 80 GB (its data sheet): a written token reads all weights


def size(profile: Profile) -> Size:
    """The size of the long model, which is the one that is tuned."""
    return workload.pair(profile)[1]


def work(profile: Profile) -> list[Work]:
    """Everything the profile computes, in the order of the notebooks."""
    return [
        *pretrain.cost(profile, *workload.pair(profile)),
        workload.recall(profile),
        *pool.cost(profile),
        selection_runs.cost(profile),
        *skip_runs.cost(profile),
        outcomes.cost(profile),
        skip_outcomes.cost(profile),
        *replication.cost(profile),
    ]


def hours(part: Work, model: Size) -> float:
    """Hours of one A100; answers are written one by one."""
    return gpu_hours(part.operations) + part.written * 2 * model.parameters / BANDWIDTH / 3600


def describe(profile: Profile) -> str:
    """The plan as text: models, data, steps, tokens, operations, hours, memory, disk; ModelError: no size."""
    (short, long), cards = workload.pair(profile), len(devices.gpu_memory())
    parts = [(part, hours(part, long)) for part in work(profile)]
    many = machine_check.processes(profile, cards)
    elapsed = sum(spent if part.alone else spent / (cards or many) for part, spent in parts)
    where = f"the {cards} GPU(s) here" if cards else f"{many} GPU(s)"
    sums = [sum(getattr(part, name) for part, _ in parts) for name in ("steps", "tokens", "operations")]
    total = f"{sums[0]:,} optimizer steps, {_short(sums[1])} tokens, {sums[2]:.1e} operations"
    stages = [f"{name} {need / GB:,.1f} GB" for name, need in machine_check.memory(profile, cards).items()]
    host, disk, hub = (
        need / GB for need in (machine_check.host(profile, cards), *machine_check.disk(profile))
    )
    first = f"{profile.short_model} ({profile.short_window:,} tokens, {_short(short.parameters)} parameters)"
    second = f"{profile.long_model} ({profile.long_window:,} tokens, {_short(long.parameters)})"
    notebooks = f"{len({part.notebook for part, _ in parts})} notebooks that use models, {len(parts)} parts"
    lines = [
        f"plan of profile {profile.name} (estimates; hours of one A100)",
        f"  models   {first} and {second}, scored in {profile.dtype}",
        f"  data     {_data(profile)}",
        f"  training {_training(profile, many)}",
        *(_line(part, spent) for part, spent in parts),
        f"  in all   {notebooks}, {total}",
        f"  time     {sum(spent for _, spent in parts):,.1f} GPU-hours; {elapsed:,.1f} hours on {where}",
        f"  memory   of a GPU: {', '.join(stages)}; of the host, to load: {host:,.1f} GB",
        f"  disk     results {disk:,.0f} GB (tuned models, checkpoints), the hub's cache {hub:,.0f} GB",
    ]
    return "\n".join([*lines, *(f"  note     {note}" for note in notes(profile))])


def _line(part: Work, spent: float) -> str:
    steps = f"  {part.steps:,} steps" if part.steps else ""
    read = f"{_short(part.tokens):>7} tokens  {part.operations:8.1e} operations"
    return f"  {part.notebook} {part.what:26} {read}  {spent:10,.2f} hours{steps}"


def _data(profile: Profile) -> str:
    count, (low, high) = len(KINDS) * profile.pool_per_kind, profile.pool_tokens
    text = f"{profile.pool_seeds} planted pool(s) of {count:,} samples of {low:,} to {high:,} tokens"
    short = " and ".join(f"{n:,}" for n in profile.short_samples)
    published = f"; {profile.long_samples:,} of {profile.long_data}, {short} of {profile.short_data}"
    return text + (published if profile.long_data else "")


def _training(profile: Profile, many: int) -> str:
    kind = "adapters (LoRA)" if profile.tuning == "lora" else "all weights"
    shared = f"{many} processes, {profile.sharding}" if many > 1 else "one process"
    read = f"{profile.micro_tokens:,} tokens" if profile.micro_tokens else "its share of a step"
    checkpoints = ", gradient checkpoints" if profile.from_hub else ""
    return f"{kind}, {shared}, {profile.dtype}{checkpoints}, a pass reads {read}"


def notes(profile: Profile) -> list[str]:
    """What takes longer than it must, and what will be reported as not run: no data, no judge, no program."""
    if not profile.needs_gpu:
        return []
    found, cards, benchmarks = [], len(devices.gpu_memory()), suite.chosen(profile)
    if profile.long_data and cards > 1 and not find_spec("ray"):
        one = f"one of the {cards} GPUs: Ray is not installed (pip install ray)"
        found.append(f"the published long samples are scored on {one}")
    lacking = [(each.name, _without(profile, each)) for each in benchmarks]
    found += [f"{name} will be reported as not run: {why}" for name, why in lacking if why]
    if judged := [each.name for each in benchmarks if each.judged]:
        found.append(f"{' and '.join(judged)} need a judge: SET='judge=http://host:8000/v1#model'")
    return found


def _without(profile: Profile, benchmark: Benchmark) -> str:
    for name in benchmark.packages:
        if not find_spec(name.replace("-", "_")):
            return f"{name} is not installed (pip install {name})"
    return machine_check.data_missing(profile, benchmark.data) if benchmark.data else ""


def _short(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return f"{number:.0f}"
