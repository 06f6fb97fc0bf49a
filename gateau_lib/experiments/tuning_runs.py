"""What the training experiments of notebooks 07 and 08 share, and what the logs of their runs say.

The experiments: `selection_runs` and `skip_runs`. Every run exists once a candidate pool ``n``, its seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from gateau_lib.data.samples import encode
from gateau_lib.models import loading
from gateau_lib.study.profiles import Profile
from gateau_lib.training.minibatches import training_samples
from gateau_lib.training.packing import plan_batches
from gateau_lib.training.recipe import ByTokens, FineTune
from gateau_lib.training.sft import training_log


def scale(profile: Profile) -> dict[str, Any]:
    """How a profile trains, as fields of `FineTune`: number format, processes, what is tuned, what fits."""
    same = {name: getattr(profile, name) for name in ("dtype", "processes", "tuning", "sharding")}
    # Others are large, and keep no activations but those at gradient checkpoints.
    small = profile.short_model in ("scratch", "shipped")
    return same | {"micro_tokens": profile.micro_tokens or None, "gradient_checkpointing": not small}


def sample_lengths(job: FineTune) -> list[int]:
    """Training tokens of each sample of a job, end-of-text token included."""
    tokenizer = loading.load_tokenizer(job.base)
    return [len(encode(sample, tokenizer, job.window - 1).ids) + 1 for sample in training_samples(job)]


def batch_shapes(job: FineTune) -> dict[str, list[tuple[int, int]]]:
    """``(tokens, padding)`` of every batch of a job: in sorted batches, as many shuffled ones, and packed."""
    lengths, length = sample_lengths(job), cast(ByTokens, job.length)
    size = (length.tokens, length.batch_tokens, job.seed)
    plan = plan_batches(lengths, *size)
    order = np.random.default_rng(job.seed).permutation([i for batch in plan for (i,) in batch])
    naive: list[list[tuple[int, ...]]] = [[(i,) for i in part] for part in np.array_split(order, len(plan))]

    def shape(batch: list[tuple[int, ...]]) -> tuple[int, int]:
        rows = [sum(lengths[i] for i in row) for row in batch]
        return sum(rows), len(rows) * max(rows) - sum(rows)

    plans = {"as they come": naive, "sorted": plan, "packed": plan_batches(lengths, *size, job.window)}
    return {name: [shape(batch) for batch in batches] for name, batches in plans.items()}


def training_table(jobs: Sequence[FineTune], folders: Sequence[Path]) -> pd.DataFrame:
    """One row a run: ``experiment, method, condition, seed``, its log, ``loss`` (mean of the last fifth)."""
    rows = []
    for job, log in zip(jobs, map(training_log, folders), strict=True):
        losses = log.pop("losses")
        labels = {name: getattr(job, name) for name in ("experiment", "method", "condition")}
        last = float(np.mean(losses[-max(1, len(losses) // 5) :]))
        rows.append({**labels, "seed": job.pool_seed, **log, "loss": last})
    return pd.DataFrame(rows)


def loss_table(jobs: Sequence[FineTune], folders: Sequence[Path]) -> pd.DataFrame:
    """Loss of every method, mean over seeds, then over five steps: ``model, step, loss`` (nats).

    ``jobs``: of one condition, since a method is one line.
    """
    logs = []
    for job, folder in zip(jobs, folders, strict=True):
        losses = training_log(folder)["losses"]
        logs.append(pd.DataFrame({"model": job.method, "step": range(1, len(losses) + 1), "loss": losses}))
    means = pd.concat(logs).groupby(["model", "step"], sort=False)["loss"].mean()
    models = means.groupby(level="model", sort=False)
    rolled = models.transform(lambda loss: loss.rolling(5, min_periods=1).mean())
    return rolled.reset_index().sort_values("step", kind="stable")
