"""What a scoring run will cost, before anything runs: tokens, floating-point operations and GPU-hours of every pass.

Lengths come from records spread over the data, shapes from the models' configurations; no weights are read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gateau_lib.data import sharded
from gateau_lib.data.samples import encode
from gateau_lib.models import loading
from gateau_lib.models.pair import names
from gateau_lib.models.sizes import Size, of_config
from gateau_lib.scoring import settings
from gateau_lib.study.errors import DataError, ScoreError

PEAK = 312e12  # operations a second of an A100 in bfloat16, dense (its data sheet)
UTILISATION = 0.4  # of the peak, assumed
CARD = f"GPU-hours: at {UTILISATION:.0%} (assumed) of the {PEAK / 1e12:.0f} TFLOP/s of an A100 in bfloat16, dense."
LENGTHS_READ = 512  # records whose tokens are counted




@dataclass(frozen=True)
class Lengths:
    """Tokens of one sample's parts."""

    start: int
    context: int
    instruction: int
    response: int
    dropped: int = 0  # context tokens cut on the left; ProLong reads them

    @property
    def whole(self) -> int:
        """Tokens of the whole sample."""
        return self.start + self.context + self.instruction + self.response




def passes(sample: Lengths, short: Size, long: Size, options: settings.Options) -> dict[str, tuple[int, float]]:
    """Tokens and operations of every pass over one sample, by the names of `scorer.score_items`."""
    n, y, asked, found = sample.whole, sample.response, set(options.methods), {}
    around = sample.start + sample.instruction + y
    parts = [min(options.segment_length, sample.context - i) for i in range(0, sample.context, options.segment_length)]
    near = min(n, options.short_window)
    if options.as_released:
        from gateau_lib.methods.released import CUT

        window = max(1, options.max_length // options.segment_length) * options.segment_length
        parts = [options.segment_length] * (window // options.segment_length)
        if "hmg" in asked:
            found["hmg"] = 2 * n, short.flops(n, n) + long.flops(n, n)
        around = min(CUT, sample.instruction) - 1 + min(CUT, y) - 1  # no start token, first tokens dropped
        whole = window + around
        cam = [(whole, long.flops(whole, whole)), *((p + around, long.flops(p + around, p + around)) for p in parts)]
    else:
        if asked - {"prolong", "longattn"}:
            found["long_pass"] = n, long.flops(n, y)
        if "hmg" in asked:
            read = near if options.reading == "truncate" else n
            found["hmg"] = read, short.flops(read, y)
        if "contrast" in asked:
            found["contrast"] = near, long.flops(near, y)
        if "ifd" in asked:
            found["ifd"] = 1 + y, long.flops(1 + y, y)
        if "longattn" in asked:  # counted as a whole pass, though it ends at the first layer that sees the whole text
            found["longattn"] = n, long.flops(n, 0) / long.layers
        if options.adaptive and parts:  # how many segments are read does not depend on what the attention says
            from gateau_lib.methods.cam_adaptive import segments_read

            parts = np.array(parts)[segments_read(np.ones((1, len(parts))), np.zeros(len(parts)))].tolist()
        cam = [(p + around, long.flops(p + around, y)) for p in parts]
    if "cam" in asked:
        found["cam"] = sum(tokens for tokens, _ in cam), sum(flops for _, flops in cam)
    if "prolong" in asked:
        found["prolong"] = _prolong(n - sample.start + sample.dropped, long, options)
    return found


def _prolong(n: int, long: Size, options: settings.Options) -> tuple[int, float]:
    """Every segment read once and once more for every sampled pair, after a cached one; as released, both anew."""
    length = options.segment_length
    count = min(n // length, max(2, options.max_length // length))
    pairs = min(options.prolong_pairs, count * (count - 1) // 2)
    if options.as_released:
        pairs = pairs if pairs == options.prolong_pairs else 0
        return (count + 2 * pairs) * length, count * long.flops(length, length) + pairs * long.flops(2 * length, 2 * length)
    alone, after = long.flops(length, length), long.flops(length, length - 1, before=length)
    return (count + pairs) * length, count * alone + pairs * after


def totals(samples: Sequence[Lengths], times: float, short: Size, long: Size, options: settings.Options) -> list[dict[str, Any]]:
    """One row a pass, and their sum: ``tokens, flops, gpu_hours``, ``times`` as many as the given samples have."""
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
    lines += [f"{r['pass']:<12}{r['tokens']:>22,.0f}{r['flops'] / 1e15:>16,.4g}{r['gpu_hours']:>14,.3g}" for r in rows]
    return "\n".join(lines)




def plan(given: argparse.Namespace) -> str:
    """What the command line would cost, as text.

    Raises:
        DataError, ModelError, ScoreError: input, models or options that cannot be used.
    """
    from gateau_lib.scoring.settings import methods_of, options_of

    short_name, long_name = names(given.short, given.long, methods_of(given.methods))
    config, tokenizer = loading.load_config(long_name), loading.load_tokenizer(long_name)
    long = of_config(config)
    short = of_config(loading.load_config(short_name)) if short_name else long
    options = options_of(given, short.window, long.window)
    shards = sharded.index(given.data, given.shard_size)
    items = sharded.spread(shards, given.data, LENGTHS_READ)
    samples = []
    for item in items:
        try:
            if item.sample is not None:
                e = encode(item.sample, tokenizer, options.max_length, chat=options.chat)
                samples.append(Lengths(len(e.start), len(e.context), len(e.instruction), len(e.response), e.dropped))
        except DataError:  # it will be a row with an error, and cost nothing
            continue
    if not samples:
        raise ScoreError(f"{given.data}: none of the {len(items)} records looked at can be scored; run without --plan to see why")
    n = given.plan or sum(shard.rows for shard in shards)
    sizes = np.array([sample.whole for sample in samples])
    head = f"{n:,} records like {len(items):,} of {given.data}, {len(items) - len(samples)} of these not usable"
    lengths = f"tokens a sample: median {np.median(sizes):,.0f}, mean {sizes.mean():,.0f}, largest {sizes.max():,}"
    what = f"long model: {(long.linear + long.head) / 1e9:.3g} billion weights, {long.layers} layers; {options.cam_mode} CAM"
    return "\n".join([head, lengths, what, table(totals(samples, n / len(items), short, long, options)), CARD])
