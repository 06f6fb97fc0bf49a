"""What a scoring run will cost, before anything runs: tokens, floating-point operations and GPU-hours of
every pass.

Lengths come from records spread over the data, shapes from the models' configurations; no weights are read.
What a pass costs stands beside the pass, in `gateau_lib.methods.reader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gateau_lib.data import sharded
from gateau_lib.data.samples import encode
from gateau_lib.methods.base import Options
from gateau_lib.methods.reader import Lengths, named_passes
from gateau_lib.models import loading
from gateau_lib.models.sizes import Size, of_config
from gateau_lib.scoring.scorer import passes_of
from gateau_lib.scoring.settings import ScoringRun, asked_methods
from gateau_lib.study.errors import DataError, ScoreError

PEAK = 312e12  # operations a second of an A100 in bfloat16, dense (its data sheet)
UTILISATION = 0.4  # of the peak, assumed
CARD = f"GPU-hours: at {UTILISATION:.0%} (assumed) of the {PEAK / 1e12:.0f} TFLOP/s of an A100 in bfloat16, dense."
LENGTHS_READ = 512  # records whose tokens are counted


def passes(sample: Lengths, short: Size, long: Size, options: Options) -> dict[str, tuple[int, float]]:
    """Tokens and operations of every pass over one sample, by the names that a run counts them under."""
    read = named_passes(passes_of(asked_methods(options.methods)))
    return {each.counted: each.cost(sample, short, long, options) for each in read}


def totals(
    samples: Sequence[Lengths], times: float, short: Size, long: Size, options: Options
) -> list[dict[str, Any]]:
    """One row a pass, and their sum: ``tokens, flops, gpu_hours``, ``times`` as many as the given samples
    have."""
    sums: dict[str, np.ndarray] = {}
    for sample in samples:
        for name, cost in passes(sample, short, long, options).items():
            sums[name] = sums.get(name, np.zeros(2)) + cost
    sums["all"] = sum(sums.values(), np.zeros(2))
    hour = PEAK * UTILISATION * 3600
    return [
        {"pass": name, "tokens": times * tokens, "flops": times * flops, "gpu_hours": times * flops / hour}
        for name, (tokens, flops) in sums.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    lines = [f"{'pass':<12}{'tokens':>22}{'PFLOP':>16}{'GPU-hours':>14}"]
    for row in rows:
        numbers = f"{row['tokens']:>22,.0f}{row['flops'] / 1e15:>16,.4g}{row['gpu_hours']:>14,.3g}"
        lines.append(f"{row['pass']:<12}{numbers}")
    return "\n".join(lines)


def plan(run: ScoringRun, records: int = 0) -> str:
    """What a run would cost, as text.

    Args:
        records: how many there are like those of the data; 0 for as many as it holds.

    Raises:
        DataError, ModelError, ScoreError: input, models or options that cannot be used.
    """
    tokenizer, long = loading.load_tokenizer(run.long), of_config(loading.load_config(run.long))
    short = of_config(loading.load_config(run.short)) if run.short else long
    shards = sharded.index(run.data, run.shard_size)
    items = sharded.spread(shards, run.data, LENGTHS_READ)
    samples = []
    for item in items:
        try:
            if item.sample is not None:
                e = encode(item.sample, tokenizer, run.options.max_length, chat=run.options.chat)
                samples.append(
                    Lengths(len(e.start), len(e.context), len(e.instruction), len(e.response), e.dropped)
                )
        except DataError:  # it will be a row with an error, and cost nothing
            continue
    if not samples:
        raise ScoreError(
            f"{run.data}: none of the {len(items)} records looked at can be scored; run without --plan to see why"
        )
    n = records or sum(shard.rows for shard in shards)
    sizes = np.array([sample.whole for sample in samples])
    head = f"{n:,} records like {len(items):,} of {run.data}, {len(items) - len(samples)} of these not usable"
    lengths = (
        f"tokens a sample: median {np.median(sizes):,.0f}, mean {sizes.mean():,.0f}, largest {sizes.max():,}"
    )
    weights = f"{(long.linear + long.head) / 1e9:.3g} billion weights"
    what = f"long model: {weights}, {long.layers} layers; {run.options.cam_mode} CAM"
    return "\n".join(
        [head, lengths, what, table(totals(samples, n / len(items), short, long, run.options)), CARD]
    )
