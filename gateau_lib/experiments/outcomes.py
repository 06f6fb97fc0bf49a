"""What the training experiments came to: every run evaluated, as tables and metrics rows (notebook 08)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gateau_lib.data import passages
from gateau_lib.data.corpus import TASKS
from gateau_lib.evaluation.planted import evaluate_all, perplexity_by_length
from gateau_lib.experiments import selection_runs, workload
from gateau_lib.models import loading
from gateau_lib.models.sizes import Work
from gateau_lib.study.intervals import SEEDS, t_interval
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all
from gateau_lib.training.recipe import FineTune

PERPLEXITY_TAIL = 64  # tokens
# Of the selection experiment's metrics: the columns of `planted.teacher_forced` they are means of.
MEASURES = {"probability": "probability", "accuracy": "token_accuracy", "exact": "exact"}


class Model(NamedTuple):
    """A model to be evaluated, and what its rows are called."""

    name: str
    folder: Path
    method: str
    seed: int | None = None  # number of its candidate pool; None: untrained, its rows are given to each seed
    condition: str = ""  # of its run


def tuned(jobs: Sequence[FineTune], folders: Sequence[Path]) -> list[Model]:
    """The models that runs have made."""
    pairs = zip(jobs, folders, strict=True)
    return [Model(job.name, path, job.method, job.pool_seed, job.condition) for job, path in pairs]


def untrained(method: str, folder: Path) -> Model:
    """A model that no run has made."""
    return Model(method, folder, method)


def evaluated(
    study: Study, data: Path, models: Sequence[Model], sets: Sequence[str], generated: bool
) -> pd.DataFrame:
    """Rows of `planted.evaluate_all` on files of ``data/eval`` by name, labelled as by `by_method`."""
    paths = {name: data / "eval" / f"{name}.jsonl" for name in sets}
    folders = {model.name: model.folder for model in models}
    rows = evaluate_all(study, folders, paths, generated=generated)
    return by_method(rows, models, study.profile.pool_seeds)


def by_method(rows: pd.DataFrame, models: Sequence[Model], pool_seeds: int) -> pd.DataFrame:
    """``rows`` with ``method, condition, seed`` in place of ``model``; an untrained model's once a seed."""
    seeds = {m.name: range(pool_seeds) if m.seed is None else [m.seed] for m in models}
    labels = [(m.name, m.method, m.condition, seed) for m in models for seed in seeds[m.name]]
    named = pd.DataFrame(labels, columns=["model", "method", "condition", "seed"])
    return named.merge(rows, on="model").drop(columns="model")


def _write_perplexity(model: Path, documents: Any, lengths: tuple[int, ...], dtype: str, out: Path) -> None:
    loaded, _ = loading.load(model, dtype)
    perplexity_by_length(loaded, documents, lengths, tail=PERPLEXITY_TAIL).to_parquet(out / "rows.parquet")


def perplexities(study: Study, models: Sequence[Model], tokenizer: Any) -> pd.DataFrame:
    """NLL by length of held-out documents that restate in their second half what their first half says.

    Columns ``method, seed, document, length, nll``: nats per token of the last tokens, read with ``length``.
    """
    lengths, count = study.profile.eval_lengths, max(2, study.profile.eval_items // 2)
    # A document may miss its wanted length by a sentence or two.
    longer = replace(study.profile, pool_tokens=(max(lengths) + 100, max(lengths) + 200))
    drawn = passages.documents(longer, tokenizer, study.seed * 100 + 90_000, "dependent", count)
    documents = [tokenizer(text, verbose=False)["input_ids"] for _, text in drawn]
    inputs = {"documents": documents, "lengths": lengths, "dtype": study.profile.dtype}
    builds = {m.name: Build("perplexity", _write_perplexity, {"model": m.folder, **inputs}) for m in models}
    folders = build_all(study, builds, at_once(study.profile), "perplexity")
    read = {name: pd.read_parquet(path / "rows.parquet") for name, path in zip(builds, folders, strict=True)}
    return by_method(pd.concat(read, names=["model"]).reset_index("model"), models, study.profile.pool_seeds)


def cost(profile: Profile) -> Work:
    """What notebook 08 costs for selections: the tuned models, and the one they began with, held-out sets."""
    samples, model = workload.planted(profile), workload.pair(profile)[1]
    arms = selection_runs.arms(profile)
    # Models on the sets long and short; those of the main condition write answers too.
    selected = profile.pool_seeds * len(arms) + 1
    writing = profile.pool_seeds * sum(arm.condition == arms[0].condition for arm in arms) + 1
    short, long = 2 * profile.eval_items, len(TASKS) * profile.eval_items  # samples of a set
    answer = workload.RESPONSE
    # How many are read, tokens of each, and of those the scored ones.
    reads = [(selected * long / len(samples), sample.whole, answer) for sample in samples]
    reads.append((selected * short, round(workload.short_tokens(profile)), answer))
    tokens = sum(count * length for count, length, _ in reads)
    operations = sum(count * model.flops(length, scored) for count, length, scored in reads)
    return Work("08", "evaluate", tokens, operations, written=writing * (short + long) * answer)


def metrics_rows(rows: pd.DataFrame, metric: str, measure: str, condition: str) -> list[dict[str, Any]]:
    """Metrics rows of `evidence.write_metrics`: the mean of ``measure`` for each method and seed, in order.

    ``condition`` is a column of ``rows`` whose values are the conditions, or the condition itself.
    """
    rows = rows.assign(condition=rows[condition].astype(str) if condition in rows else condition)
    groups = rows.groupby(["method", "condition", "seed"], sort=False)[measure]
    table = pd.DataFrame({"value": groups.mean().astype(float), "n": groups.size()}).reset_index()
    return table.assign(metric=metric).to_dict("records")


def in_conditions(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `evaluated` with those of untrained models once in every condition that a run has, first."""
    untuned, tuned = rows[rows["condition"] == ""], rows[rows["condition"] != ""]
    again = [untuned.assign(condition=condition) for condition in tuned["condition"].unique()]
    return pd.concat([*again, tuned], ignore_index=True)


def selection_metrics(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Metrics of the selection runs from the rows of `evaluated` on the sets long and short.

    ``long_probability``, ``short_probability``: of the whole right answer; ``_accuracy``: share of its tokens
    that are the most likely ones; ``long_exact``: all are; ``long_probability_<task>``: of one long task.
    Methods are selectors and untrained models, conditions those of `selection_runs.arms`.
    """
    rows = in_conditions(rows)
    long, short = (rows[rows["set"] == name] for name in ("long", "short"))
    wanted = [(f"long_{name}", long, column) for name, column in MEASURES.items()]
    wanted += [(f"short_{name}", short, MEASURES[name]) for name in ("probability", "accuracy")]
    tasks = long.groupby("kind", sort=False)
    wanted += [(f"long_probability_{task}", part, "probability") for task, part in tasks]
    return [row for metric, part, column in wanted for row in metrics_rows(part, metric, column, "condition")]


def task_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Long tasks by method, means: how likely the answer is, its tokens right when read; what was written.

    ``rows``: of one condition. Exact match and F1 of written answers are there if some were written.
    """
    measures = {"probability": "probability of the answer", "token_accuracy": "answer tokens right"}
    measures |= {"exact_match": "exact match", "f1": "token F1"}
    long = rows[rows["set"] == "long"].rename(columns=measures)
    named = [name for name in measures.values() if name in long]
    table = long.groupby(["method", "kind"], sort=False)[named].mean()
    return table.unstack("kind").rename_axis(columns=["measure", "task"])


def against(rows: Iterable[dict[str, Any]], reference: str) -> pd.DataFrame:
    """Each method's mean ``value``, and its paired ``difference`` from another: mean and 95 % (or NaN)."""
    table = pd.DataFrame(rows).pivot(index="seed", columns="method", values="value")
    out = {}
    for method, value in table.items():
        gap = value - table[reference]
        mean, low, high = t_interval(gap) if len(gap) >= SEEDS else (gap.mean(), np.nan, np.nan)
        out[method] = {"value": value.mean(), "difference": mean, "low": low, "high": high}
    return pd.DataFrame(out).T.rename_axis("method").sort_values("value", ascending=False)
