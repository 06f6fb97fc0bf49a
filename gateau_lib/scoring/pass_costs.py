"""What a scoring run will cost, before anything runs: tokens, operations and GPU-hours of every pass.

Lengths come from records spread over the data, shapes from the models' configurations; no weights are read.
What a pass costs stands beside the pass, in `methods.reader`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from gateau_lib.data import sharded
from gateau_lib.data.samples import encode
from gateau_lib.methods import cascade
from gateau_lib.methods.base import Options
from gateau_lib.methods.reader import Lengths, named_passes
from gateau_lib.models import loading
from gateau_lib.models.sizes import Size, of_config
from gateau_lib.scoring import score_table
from gateau_lib.scoring.part_files import passes_of
from gateau_lib.scoring.settings import ScoringRun, asked_methods
from gateau_lib.study.errors import DataError, ScoreError

PEAK = 312e12  # operations a second of an A100 in bfloat16, dense (its data sheet)
UTILISATION = 0.4  # of the peak, assumed
RATE = f"{UTILISATION:.0%} (assumed) of the {PEAK / 1e12:.0f} TFLOP/s of an A100 in bfloat16, dense"
CARD = f"GPU-hours: at {RATE}."
LENGTHS_READ = 512  # records whose tokens are counted


def totals(samples: Sequence[Lengths], n: float, short: Size, long: Size, options: Options) -> pd.DataFrame:
    """What ``n`` samples like these cost: columns ``tokens, flops``, a row a pass by its counted name."""
    costs = {
        each.counted: np.sum([each.cost(sample, short, long, options) for sample in samples], axis=0)
        for each in named_passes(passes_of(asked_methods(options.methods)))
    }
    return pd.DataFrame(costs, index=["tokens", "flops"]).T * n / len(samples)


def gpu_hours(flops: float) -> float:
    """Hours of one A100."""
    return flops / (PEAK * UTILISATION * 3600)


def plan(run: ScoringRun, records: int = 0) -> str:
    """What a run would cost, as text; ``records``: how many like those of the data (0: as many as it holds).

    Raises DataError, ModelError, ScoreError: input, models or options that cannot be used.
    """
    if records < 0:
        raise ScoreError(f"--plan {records}: give a number of records, or none for as many as the data hold")
    options, tokenizer = run.options, loading.load_tokenizer(run.long)
    long = of_config(loading.load_config(run.long))
    short = of_config(loading.load_config(run.short)) if run.short else long
    shards = sharded.index(run.data, run.shard_size, run.read_as)
    items, samples = sharded.spread(shards, run.data, LENGTHS_READ), list[Lengths]()
    errors: list[tuple[str | None, str | None]] = []
    for item in items:
        try:
            if item.sample is not None:
                e = encode(item.sample, tokenizer, options.max_length, chat=options.chat)
                tokens = len(e.start), len(e.context), len(e.instruction), len(e.response)
                samples.append(Lengths(*tokens, e.dropped))
            errors.append((item.id, item.error))
        except DataError as error:  # it will be a row with an error, and cost nothing
            errors.append((item.id, str(error)))
    why = score_table.reasons(errors)
    if not samples:
        none = f"none of the {len(items)} records looked at can be scored"
        raise ScoreError(f"{run.data}: {none}: {'; '.join(why)}")
    n = records or sum(shard.rows for shard in shards)
    table = totals(samples, n, short, long, options)
    exact = table["tokens"].sum()
    more = []
    if run.cascade is not None:
        usable = n * len(samples) / len(items)
        table.loc["cam"] *= cascade.expected_reads(round(usable), run.cascade)
        share = f"{table['tokens'].sum() / exact:.0%} of the {exact:,.0f} that all of CAM takes"
        more = [
            f"cascade {run.cascade:g}: CAM of some samples, about {share}; an estimate, see docs/cluster.md"
        ]
    table.loc["all"] = table.sum()
    lengths = np.array([sample.whole for sample in samples])
    middle, weights = f"median {np.median(lengths):,.0f}, mean {lengths.mean():,.0f}", long.linear + long.head
    lines = [
        f"{n:,} records like {len(items):,} of {run.data}, {len(items) - len(samples)} of these not usable",
        *(f"not usable: {each}" for each in why),
        f"tokens a sample: {middle}, largest {max(lengths):,}",
        f"long model: {weights / 1e9:.3g} billion weights, {long.layers} layers; {options.cam_mode} CAM",
        f"{'pass':<12}{'tokens':>22}{'PFLOP':>16}{'GPU-hours':>14}",
    ]
    for name, tokens, flops in table.itertuples():
        lines.append(f"{name:<12}{tokens:>22,.0f}{flops / 1e15:>16,.4g}{gpu_hours(flops):>14,.3g}")
    return "\n".join([*lines, *more, CARD])
