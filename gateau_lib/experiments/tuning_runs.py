"""What the training experiments of notebooks 06 and 07 share, what their logs say, and *skipping*.

*Selection*: see `selection_runs`. *Skipping*: the short model, its RoPE base stretched and not yet trained at
it, is tuned on short instructions alone under each position strategy. Every run exists once a candidate pool
``n``, its seed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from gateau_lib.data.samples import encode
from gateau_lib.experiments import workload
from gateau_lib.models import loading, rope
from gateau_lib.models.sizes import Work, work
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study, artefact
from gateau_lib.training.minibatches import training_samples
from gateau_lib.training.packing import plan_batches
from gateau_lib.training.recipe import ByTokens, FineTune
from gateau_lib.training.sft import training_log

STRATEGIES = ("normal", "packed", "pose", "skip_outer", "skip_inner", "skip_all")


# Prefix of the runs' names, and the methods.
RUNS = {"skipping": ("skip", STRATEGIES)}


def run_names(profile: Profile, experiment: str) -> list[str]:
    """Names of all runs of an experiment of `RUNS`, for example ``skip-pose-0``."""
    prefix, methods = RUNS[experiment]
    return [f"{prefix}-{method}-{n}" for n in range(profile.pool_seeds) for method in methods]


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


def skip_jobs(study: Study, data: Path, pair: Path) -> list[FineTune]:
    """Fine-tuning of the stretched short model on short instructions, equal tokens and samples."""
    shared: dict[str, Any] = {"base": pair / "short", "rope_theta": _stretched_theta(study, pair)}
    shared["tokens"] = study.profile.skip_steps * study.profile.sft_batch_tokens
    # Packed: plain causal attention over the whole row. Kept apart, it would only be Normal in other batches.
    return [
        _job(study, data, "skipping", name, n, **shared, strategy=name, packed_isolated=name != "packed")
        for n in range(study.profile.pool_seeds)
        for name in STRATEGIES
    ]


def cost(profile: Profile) -> Work:
    """What the runs of `skip_jobs` cost."""
    near = round(workload.short_tokens(profile))
    tokens = profile.pool_seeds * len(STRATEGIES) * profile.skip_steps * profile.sft_batch_tokens
    model, passes = workload.pair(profile)[1], workload.passes_a_step(profile)
    rows, steps = [(tokens / near, near, workload.RESPONSE)], math.ceil(tokens / profile.sft_batch_tokens)
    return work("06", "SkipAlign, its rivals", model, rows, passes, steps=steps)


def _stretched_theta(study: Study, pair: Path) -> float:
    """The RoPE base of the short model stretched to the target window by the NTK rule, as HMG reads it."""
    return rope.stretched_theta(loading.load_config(pair / "short"), study.profile.long_window)


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


def stretched(study: Study, pair: Path) -> Path:
    """Folder of the short model stretched to the target window, untrained at it: where skipping starts."""
    theta, window, dtype = _stretched_theta(study, pair), study.profile.long_window, study.profile.dtype

    def build(out: Path) -> None:
        # Not on a GPU: it is on its way to a file only.
        model, tokenizer = loading.load(pair / "short", dtype, torch.device("cpu"))
        rope.with_rope_theta(model, theta, window).save_pretrained(out)
        tokenizer.save_pretrained(out)

    made_of = {"short": pair / "short", "theta": theta, "window": window, "dtype": dtype}
    return artefact(study, "stretched", build, code=[stretched], **made_of)


@torch.inference_mode()
def influence(model: PreTrainedModel, ids: Sequence[int], positions: Sequence[int], mask: bool) -> np.ndarray:
    """Which tokens change what the model computes at which others: each is exchanged, outputs compared.

    ``mask``: pass a mask of ones. Returns bool (tokens, tokens): at row i, column j if token j reaches token
        i.
    """
    n, vocabulary = len(ids), model.config.vocab_size
    batch = torch.tensor(ids).repeat(n + 1, 1)
    batch[range(n), range(n)] = (batch[range(n), range(n)] + 1) % vocabulary  # the last row stays as it is
    given = {"input_ids": batch, "position_ids": torch.tensor(positions).repeat(n + 1, 1)}
    given |= {"attention_mask": torch.ones_like(batch)} if mask else {}
    there = {name: tensor.to(model.device) for name, tensor in given.items()}
    hidden = model.model(**there, use_cache=False).last_hidden_state
    change = (hidden[:n] - hidden[n]).abs().amax(-1)  # (exchanged token, token)
    return (change > 1e-6 * hidden.abs().max()).T.cpu().numpy()
