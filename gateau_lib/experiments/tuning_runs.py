"""The selection experiment of notebooks 06 and 07: which training runs there are, and what their logs say.

The long model is tuned on short instructions plus what a selector chose from a pool, with one token budget.
Every run exists once a candidate pool ``n``, its seed. `skip_runs` is the other experiment.
"""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from gateau_lib.data.corpus import KINDS
from gateau_lib.data.samples import encode
from gateau_lib.experiments import workload
from gateau_lib.models import loading
from gateau_lib.models.sizes import Work, work
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study
from gateau_lib.training.minibatches import training_samples
from gateau_lib.training.packing import plan_batches
from gateau_lib.training.recipe import ByTokens, FineTune
from gateau_lib.training.sft import training_log

SELECTORS = ("gateau", "hmg", "cam", "prolong", "perplexity", "random", "length_matched", "longest", "full")
EQUAL_EPOCHS = "full_epochs"  # the whole pool once more, as many times over as GATEAU's selection
SELECTION_RUNS = ("short_only", *SELECTORS, EQUAL_EPOCHS)

# Prefix of the runs' names, and the methods.
RUNS = {"selection": ("sft", SELECTION_RUNS)}


def run_names(profile: Profile, experiment: str) -> list[str]:
    """Names of all runs of an experiment of `RUNS`, for example ``sft-gateau-0``."""
    prefix, methods = RUNS[experiment]
    return [f"{prefix}-{method}-{n}" for n in range(profile.pool_seeds) for method in methods]


def selected_ids(study: Study, selector: str, n: int) -> tuple[str, ...]:
    """Ids that notebook 05 selected from pool ``n`` (DataError: none), sorted: keys depend on no rank."""
    path = study.root / "selected" / f"05_{selector}-{n}.json"
    if not path.is_file():
        first = f"run notebook 05 of profile {study.profile.name} first"
        raise DataError(f"{path}: no selection by {selector!r}; {first}")
    return tuple(sorted(json.loads(path.read_text(encoding="utf-8"))))


def _job(study: Study, data: Path, kind: str, method: str, n: int, tokens: int, **how: Any) -> FineTune:
    profile, samples = study.profile, (data / "short" / f"{n}.jsonl",)
    how |= {"experiment": kind, "method": method, "pool_seed": n, "seed": study.seed * 100 + n}
    how |= {"window": profile.long_window, "learning_rate": profile.sft_learning_rate} | scale(profile)
    length = ByTokens(tokens, profile.sft_batch_tokens)
    return FineTune(f"{RUNS[kind][0]}-{method}-{n}", samples=samples, length=length, **how)


def scale(profile: Profile) -> dict[str, Any]:
    """How a profile trains, as fields of `FineTune`: number format, processes, what is tuned, what fits."""
    same = {name: getattr(profile, name) for name in ("dtype", "processes", "tuning", "sharding")}
    # Others are large, and keep no activations but those at gradient checkpoints.
    small = profile.short_model in ("scratch", "shipped")
    return same | {"micro_tokens": profile.micro_tokens or None, "gradient_checkpointing": not small}


def selection_jobs(study: Study, data: Path, pair: Path) -> list[FineTune]:
    """Fine-tuning of the long model with equal tokens, and on the whole pool again with equal epochs."""
    jobs, budget = [], study.profile.sft_tokens
    for n in range(study.profile.pool_seeds):
        job = partial(_job, study, data, "selection", n=n, base=pair / "long")
        pool = data / "pools" / f"independent-{n}.jsonl"
        chosen = {name: selected_ids(study, name, n) for name in SELECTORS}
        runs = {name: job(name, tokens=budget, pool=pool, selected=ids) for name, ids in chosen.items()}
        longer = round(budget * sum(sample_lengths(runs["full"])) / sum(sample_lengths(runs["gateau"])))
        again = job(EQUAL_EPOCHS, tokens=longer, pool=pool, selected=chosen["full"])
        jobs += [job("short_only", tokens=budget), *runs.values(), again]
    return jobs


def cost(profile: Profile) -> list[Work]:
    """What the runs of `selection_jobs` cost."""
    pools, samples = profile.pool_seeds, workload.planted(profile)
    mean, near = float(np.mean([sample.whole for sample in samples])), workload.short_tokens(profile)
    short, pool = profile.short_pool * near, profile.pool_per_kind * len(KINDS) * mean
    # The whole pool for as many epochs as a selection.
    longer = (short + pool) / (short + profile.fraction * pool)
    tuned = pools * profile.sft_tokens * (len(SELECTION_RUNS) - 1 + longer)
    steps = math.ceil(tuned / profile.sft_batch_tokens)
    model, passes = workload.pair(profile)[1], workload.passes_a_step(profile)
    rows = workload.rows(samples, tuned / mean)
    return [work("06", "fine-tune on selections", model, rows, passes, steps=steps)]


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
    """One row a run: ``experiment, method, seed``, its log, ``loss`` (mean of the last fifth)."""
    rows = []
    for job, log in zip(jobs, map(training_log, folders), strict=True):
        losses = log.pop("losses")
        labels = {"experiment": job.experiment, "method": job.method, "seed": job.pool_seed}
        rows.append({**labels, **log, "loss": float(np.mean(losses[-max(1, len(losses) // 5) :]))})
    return pd.DataFrame(rows)


def loss_table(jobs: Sequence[FineTune], folders: Sequence[Path]) -> pd.DataFrame:
    """Loss of every method, mean over seeds, then over five steps: ``model, step, loss`` (nats)."""
    logs = []
    for job, folder in zip(jobs, folders, strict=True):
        losses = training_log(folder)["losses"]
        logs.append(pd.DataFrame({"model": job.method, "step": range(1, len(losses) + 1), "loss": losses}))
    means = pd.concat(logs).groupby(["model", "step"], sort=False)["loss"].mean()
    models = means.groupby(level="model", sort=False)
    rolled = models.transform(lambda loss: loss.rolling(5, min_periods=1).mean())
    return rolled.reset_index().sort_values("step", kind="stable")
