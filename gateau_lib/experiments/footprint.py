"""How much room a profile takes: memory of one device at each stage, memory of the host, disk.

Weights are exact; what passes leave behind is an estimate, checked on a trained model in the tests. Sharing
by `fsdp` or `deepspeed` divides weights, gradients and optimizer states by the processes; nothing divides
what one process computes, and the two models that score lie on one device together.
"""

import math
from collections import namedtuple

from gateau_lib.experiments import replication_rows, tuning_runs, workload
from gateau_lib.models.nll import BATCH_TOKENS
from gateau_lib.models.sizes import Size
from gateau_lib.study import registry
from gateau_lib.study.profiles import Profile
from gateau_lib.training.pretrain import TRAINED_ON

NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes
PUBLISHED_CARDS = 8  # GATEAU and LongAlign: 8 x A800 of 80 GB
LOGITS = 14  # bytes a vocabulary entry of a trained token: bf16, as fp32, its log-softmax, its gradient
ADAPTER_RANK = 16  # as recipe.FineTune
DATA_BYTES = 4 << 30  # data sets, their converted copies, scores and answers; assumed
Disk = namedtuple("Disk", "results hub")  # bytes below the results' folder and in the hub's cache
KEPT_CHECKPOINTS = 2  # the last one stays until the next one is whole


def processes(profile: Profile, cards: int) -> int:
    """Processes that train one model together on a machine with so many GPUs (none: the published one)."""
    return profile.processes or cards or PUBLISHED_CARDS


def memory(profile: Profile, cards: int = 0) -> dict[str, float]:
    """Bytes of one device at the peak of each stage: ``pretraining`` (if any), ``scoring`` and so on."""
    (short, long), wide = workload.pair(profile), NUMBER[profile.dtype]
    found = {}
    read = max(profile.max_length, profile.long_window, BATCH_TOKENS)
    if stages := (*profile.short_stages, *profile.long_stages):
        most = profile.micro_tokens or math.inf  # of a pass, unless a row is longer; all in single precision
        tokens = max(min(each, max(most, window)) for window, _, each in stages)
        kept = _kept(long, tokens, 4, whole=True) + tokens * TRAINED_ON * long.vocabulary * LOGITS
        found["pretraining"] = 16 * long.parameters + kept
    found["scoring"] = wide * (short.parameters + long.parameters) + read * _passing(long, wide)
    found["training"] = training(profile, cards)
    found["evaluation"] = wide * long.parameters + read * (long.cache * wide + _passing(long, wide))
    return found


def training(profile: Profile, cards: int = 0) -> float:
    """Bytes of one device when the long model is tuned."""
    long, many, wide = workload.pair(profile)[1], processes(profile, cards), NUMBER[profile.dtype]
    shared = many if profile.sharding != "ddp" else 1
    # Weight, gradient and two moments in single precision; beside them what autocast makes of the weights, a
    # copy of the gradients where processes average them, or a few layers gathered from all processes.
    if profile.tuning == "lora":
        states: float = wide * long.parameters + 18 * adapters(long)
    elif shared > 1:
        states = 16 * long.parameters / shared + 12 * long.linear / long.layers + 8 * long.head
    else:
        states = long.parameters * (16 + (2 if wide == 2 else 0) + (4 if many > 1 else 0))
    # Bytes of what one layer gives the next.
    fine = 4 if wide == 4 or (profile.tuning == "full" and shared == 1) else 2
    return states + max(
        _kept(long, tokens, wide, not profile.from_hub, fine) + labels * long.vocabulary * LOGITS
        for tokens, labels in _training_passes(profile, many)
    )


def _training_passes(profile: Profile, many: int) -> list[tuple[float, float]]:
    """Tokens of a pass of one process, and how many are trained on: of short samples, of the longest one."""
    near = workload.short_tokens(profile)
    step = max(profile.micro_tokens or profile.sft_batch_tokens / many, near)
    far = profile.pool_tokens[1]
    passes = [(step, step * workload.RESPONSE / near), (max(step, far), workload.RESPONSE)]
    if profile.long_data:
        near, far = (min(n, profile.long_window) for n in (workload.SHORT_TOKENS, workload.LONG_TOKENS[1]))
        step = max(profile.micro_tokens or profile.batch_samples * near / many, near)
        labels = step * workload.SHORT_RESPONSE / workload.SHORT_TOKENS
        passes += [(step, labels), (max(step, far), workload.LONG_RESPONSE)]
    return passes


def _kept(size: Size, tokens: float, wide: int, whole: bool, fine: int = 4) -> float:
    """Bytes that the backward pass needs: all layers, or with gradient checkpoints one and the inputs of all.

    Args:
        wide: bytes of a number in products; norms keep single precision. fine: between layers.
    """
    norms = 4 * size.hidden  # numbers a token: what comes into a layer's two norms, and it normalised
    # Inputs of products and of the activation, attention's parts.
    products = 3 * size.hidden + 2 * (size.heads + size.kv_heads) * size.head_dim + 4 * size.mlp
    layer = tokens * (norms * 4 + products * wide)
    passing = tokens * (2 * size.mlp + 2 * size.hidden) * wide  # gradients of the layer that is being left
    return passing + (size.layers * layer if whole else size.layers * size.hidden * tokens * fine + layer)


def _passing(size: Size, wide: int) -> float:
    """Bytes a token that a pass without gradients holds at a time: one layer's, single precision in norms."""
    return 8 * size.hidden + (4 * size.hidden + 3 * size.mlp) * wide


def adapters(size: Size, rank: int = ADAPTER_RANK) -> int:
    """Parameters of LoRA adapters at all linear layers."""
    keys = size.kv_heads * size.head_dim
    ends = 2 * (size.hidden + size.width) + 2 * (size.hidden + keys) + 3 * (size.hidden + size.mlp)
    return size.layers * rank * ends


def host(profile: Profile, cards: int = 0) -> float:
    """Bytes of memory that models take at most, all in single precision.

    One that will be shared is read whole by every process; worked examples hold two (`loading.load_on_cpu`).
    """
    shared = processes(profile, cards) if profile.sharding != "ddp" else 1
    return max(shared, 2) * 4 * workload.pair(profile)[1].parameters


def disk(profile: Profile) -> Disk:
    """Bytes that the results, with every tuned model, and the hub's cache will take."""
    short, long = workload.pair(profile)
    trained, wide = (
        (adapters(long), 4) if profile.tuning == "lora" else (long.parameters, NUMBER[profile.dtype])
    )
    tuned = profile.pool_seeds * (len(tuning_runs.SELECTION_RUNS) + len(tuning_runs.STRATEGIES))
    tuned += sum(run.row != replication_rows.UNTUNED for run in replication_rows.runs(profile))
    stretched = 4 * short.parameters  # the start of notebook 06's short models
    results = tuned * wide * trained + KEPT_CHECKPOINTS * 12 * trained + stretched + DATA_BYTES
    if not profile.from_hub:
        results += 4 * 2 * long.parameters  # the pair
    return Disk(results, sum(downloads(profile).values()))


def downloads(profile: Profile) -> dict[str, float]:
    """Bytes of each model in the hub's cache, two a parameter where unknown; pickled weights count twice."""
    found = {}
    for name, size in zip((profile.short_model, profile.long_model), workload.pair(profile), strict=True):
        entry = registry.models().get(name)
        copies = 2 if entry and entry.weights == "pickle" else 1
        found[name] = float(copies * ((entry and entry.bytes_per_parameter) or 2) * size.parameters)
    return found if profile.from_hub else {}
