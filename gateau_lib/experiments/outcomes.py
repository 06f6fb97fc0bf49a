"""What the training experiments came to: every run evaluated, as tables and metrics rows (notebook 07)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gateau_lib.data import passages
from gateau_lib.data.corpus import TASKS
from gateau_lib.evaluation.planted import evaluate_all, perplexity_by_length
from gateau_lib.experiments import workload
from gateau_lib.experiments.tuning_runs import EQUAL_EPOCHS, SELECTION_RUNS
from gateau_lib.models import loading
from gateau_lib.models.sizes import Work
from gateau_lib.study.intervals import SEEDS, t_interval
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all
from gateau_lib.training.recipe import FineTune

PERPLEXITY_TAIL = 64  # tokens


class Model(NamedTuple):
    """A model to be evaluated, and what its rows are called."""

    name: str
    folder: Path
    method: str
    seed: int | None = None  # number of its candidate pool; None: untrained, its rows are given to each seed


def tuned(jobs: Sequence[FineTune], folders: Sequence[Path]) -> list[Model]:
    """The models that runs have made."""
    return [Model(job.name, path, job.method, job.pool_seed) for job, path in zip(jobs, folders, strict=True)]


def untrained(method: str, folder: Path) -> Model:
    """A model that no run has made."""
    return Model(method, folder, method)


def evaluated(
    study: Study, data: Path, models: Sequence[Model], sets: Sequence[str], generated: bool
) -> pd.DataFrame:
    """Rows of `planted.evaluate_all` on files of ``data/eval`` by name, with ``method`` and ``seed``."""
    paths = {name: data / "eval" / f"{name}.jsonl" for name in sets}
    folders = {model.name: model.folder for model in models}
    rows = evaluate_all(study, folders, paths, generated=generated)
    return by_method(rows, models, study.profile.pool_seeds)


def by_method(rows: pd.DataFrame, models: Sequence[Model], pool_seeds: int) -> pd.DataFrame:
    """``rows`` with ``method`` and ``seed`` in place of ``model``; an untrained model's once a seed."""
    seeds = {m.name: range(pool_seeds) if m.seed is None else [m.seed] for m in models}
    labels = [(m.name, m.method, seed) for m in models for seed in seeds[m.name]]
    named = pd.DataFrame(labels, columns=["model", "method", "seed"])
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
    """What notebook 07 costs for selections: the tuned models, and the one they began with, held-out sets."""
    samples, model = workload.planted(profile), workload.pair(profile)[1]
    selected = profile.pool_seeds * len(SELECTION_RUNS) + 1  # models on the sets long and short, with answers
    short, long = 2 * profile.eval_items, len(TASKS) * profile.eval_items  # samples of a set
    answer = workload.RESPONSE
    # How many are read, tokens of each, and of those the scored ones.
    reads = [(selected * long / len(samples), sample.whole, answer) for sample in samples]
    reads.append((selected * short, round(workload.short_tokens(profile)), answer))
    tokens = sum(count * length for count, length, _ in reads)
    operations = sum(count * model.flops(length, scored) for count, length, scored in reads)
    return Work("07", "evaluate", tokens, operations, written=selected * (short + long) * answer)


def metrics_rows(rows: pd.DataFrame, metric: str, measure: str, condition: str) -> list[dict[str, Any]]:
    """Metrics rows of `evidence.write_metrics`: the mean of ``measure`` for each method and seed, in order.

    ``condition`` is a column of ``rows`` whose values are the conditions, or the condition itself.
    """
    rows = rows.assign(condition=rows[condition].astype(str) if condition in rows else condition)
    groups = rows.groupby(["method", "condition", "seed"], sort=False)[measure]
    table = pd.DataFrame({"value": groups.mean().astype(float), "n": groups.size()}).reset_index()
    return table.assign(metric=metric).to_dict("records")


def selection_metrics(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Metrics of the selection runs from the rows of `evaluated` on the sets long and short.

    Conditions: ``equal_tokens``; ``equal_epochs`` for the whole pool and GATEAU's selection (the same runs).
    """
    measures = {"accuracy": "token_accuracy", "exact": "exact_match", "f1": "f1"}
    found: list[dict[str, Any]] = []
    for kind, name in [*(("long", name) for name in measures), ("short", "accuracy")]:
        found += metrics_rows(rows[rows["set"] == kind], f"{kind}_{name}", measures[name], "equal_tokens")
    epochs = {EQUAL_EPOCHS: "full", "gateau": "gateau"}
    again = [row | {"method": epochs[row["method"]]} for row in found if row["method"] in epochs]
    equal = [row for row in found if row["method"] != EQUAL_EPOCHS]
    return equal + [row | {"condition": "equal_epochs"} for row in again]


def task_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Long tasks by method: exact match and F1 of written answers, answer tokens right when read; means."""
    measures = {"exact_match": "exact match", "f1": "token F1", "token_accuracy": "answer tokens right"}
    long = rows[rows["set"] == "long"].rename(columns=measures)
    table = long.groupby(["method", "kind"], sort=False)[list(measures.values())].mean()
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
