"""The training experiments' job lists, batches, tables and metrics rows, and what a mask changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import Sample
from gateau_lib.experiments import claims, outcomes, training_figures, tuning_runs
from gateau_lib.study.errors import DataError
from gateau_lib.study.intervals import t_interval
from gateau_lib.study.store import open_study

SIZES = {"pool_seeds": 2, "sft_tokens": 3000, "sft_batch_tokens": 600, "long_window": 512}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    return open_study("smoke", 1, **SIZES)


@pytest.fixture
def inputs(study, tmp_path, saved_pair):
    """Corpus folder and pair; pool samples 0..9, of which every selector has chosen four, `full` all."""
    data = tmp_path / "data"
    for n in range(2):
        short = [Sample(f"short-{n}-{i}", "word " * (4 + i), "What?", "This.") for i in range(6)]
        pool = [Sample(f"pool-{n}-{i}", "word " * (40 + 5 * i), "What?", "That.") for i in range(10)]
        write_samples(short, data / "short" / f"{n}.jsonl")
        write_samples(pool, data / "pools" / f"independent-{n}.jsonl")
        for selector in tuning_runs.SELECTORS:
            ids = [s.id for s in pool[::-1]][: 10 if selector == "full" else 4]
            (study.root / "selected" / f"05_{selector}-{n}.json").write_text(json.dumps(ids))
    return data, saved_pair[0].parent


def test_selection_jobs_are_one_a_selector_and_pool_at_one_budget(study, inputs):
    jobs = tuning_runs.selection_jobs(study, *inputs)
    assert len(jobs) == 2 * (len(tuning_runs.SELECTORS) + 2) == len({job.name for job in jobs})
    assert {job.name for job in jobs} == set(tuning_runs.run_names(study.profile, "selection"))
    equal = [job for job in jobs if job.method != tuning_runs.EQUAL_EPOCHS]
    assert {job.length.tokens for job in equal} == {3000} and {job.seed for job in jobs} == {100, 101}
    by_name = {job.name: job for job in jobs}
    longer, full, gateau = (by_name[f"sft-{name}-1"] for name in (tuning_runs.EQUAL_EPOCHS, "full", "gateau"))
    epochs = [job.length.tokens / sum(tuning_runs.sample_lengths(job)) for job in (longer, gateau)]
    assert np.isclose(*epochs, rtol=1e-3) and longer.selected == full.selected and len(gateau.selected) == 4
    assert by_name["sft-short_only-0"].pool is None


def test_a_missing_selection_names_the_file_and_the_notebook(study, inputs):
    (study.root / "selected" / "05_cam-1.json").unlink()
    with pytest.raises(DataError, match=r"05_cam-1\.json.*run notebook 05"):
        tuning_runs.selection_jobs(study, *inputs)


def test_batch_shapes_hold_the_same_tokens_and_count_padding(study, inputs):
    job = tuning_runs.selection_jobs(study, *inputs)[1]
    shapes = tuning_runs.batch_shapes(job)
    used = {name: sum(tokens for tokens, _ in sizes) for name, sizes in shapes.items()}
    assert len(set(used.values())) == 1 and len(shapes["as they come"]) == len(shapes["sorted"])
    assert all(padding >= 0 for sizes in shapes.values() for _, padding in sizes)


def rows(method, seeds, **columns):
    return pd.DataFrame([{"model": method if n is None else f"sft-{method}-{n}", **columns} for n in seeds])


def test_untrained_models_count_for_every_seed():
    models = [outcomes.untrained("base", Path())]
    models += [outcomes.Model(f"sft-length_matched-{n}", Path(), "length_matched", n) for n in (0, 2)]
    found = pd.concat([rows("base", [None], x=1), rows("length_matched", [0, 2], x=2)])
    table = outcomes.by_method(found, models, pool_seeds=3)
    assert table[["method", "seed"]].to_records(index=False).tolist() == [
        ("base", 0), ("base", 1), ("base", 2), ("length_matched", 0), ("length_matched", 2)
    ]  # fmt: skip


def evaluation(methods, sets, seed=0):
    rng = np.random.default_rng(seed)
    items = [
        (f"{s}-{i}", s, kind)
        for s in sets
        for i, kind in enumerate(("single", "multi_hop", "aggregate", "single"))
    ]
    measures = ("token_accuracy", "exact_match", "f1")
    return pd.DataFrame(
        {"method": m, "seed": n, "id": i, "set": s, "kind": kind}
        | dict(zip(measures, rng.random(3), strict=True))
        for m in methods for n in range(3) for i, s, kind in items
    )  # fmt: skip


def test_metrics_rows_are_those_the_ledger_declares():
    block = [b for b in yaml.safe_load(claims.LEDGER.read_text())["rows"] if b["notebook"] == "07_evaluation"]
    methods = ["base", "short_only", *tuning_runs.SELECTORS, tuning_runs.EQUAL_EPOCHS]
    table = evaluation(methods, ["long", "short"])
    found = outcomes.selection_metrics(table)
    have = {(r["metric"], r["method"], r["condition"]) for r in found}
    assert {
        (metric, method, "equal_tokens") for metric in block[0]["metrics"] for method in block[0]["methods"]
    } <= have
    assert ("long_accuracy", "full", "equal_epochs") in have and not any(
        m == tuning_runs.EQUAL_EPOCHS for _, m, _ in have
    )
    wanted = table[(table["method"] == "cam") & (table["seed"] == 1) & (table["set"] == "long")][
        "token_accuracy"
    ].mean()
    (row,) = (r for r in found if (r["metric"], r["method"], r["seed"]) == ("long_accuracy", "cam", 1))
    assert np.isclose(row["value"], wanted) and row["n"] == 4


def test_differences_are_paired_by_seed():
    values = {"a": [0.5, 0.7, 0.6], "b": [0.4, 0.5, 0.5]}
    table = outcomes.against(
        [{"method": m, "seed": n, "value": v} for m, vs in values.items() for n, v in enumerate(vs)], "b"
    )
    assert np.allclose(
        table.loc["a", ["difference", "low", "high"]].astype(float), t_interval([0.1, 0.2, 0.1])
    )
    assert table.index[0] == "a" and table.loc["b", "difference"] == 0


def test_figures_draw():
    figure = training_figures.positions(
        {"normal": range(9), "skip_all": [0, 1, 2, 9, 10, 11, 20, 21, 22]}, 6, 8, 24
    )
    assert len(figure.axes) == 1
    assert len(training_figures.reach({"a": np.tri(4), "b": np.tri(4)}, [2]).axes) == 2
    assert len(training_figures.padding({"a": [(3, 1)], "b": [(4, 0)]}).axes) == 2
    grid = pd.DataFrame([[0.1, 0.9]], index=[0.5], columns=[64, 128])
    assert (
        len(training_figures.needle_maps(dict.fromkeys("abcd", grid)).axes) == 7
    )  # two lines of three, and the colour bar
    table = pd.DataFrame(
        {"value": [0.5], "difference": [0.1], "low": [np.nan], "high": [np.nan]}, index=["a"]
    )
    assert len(training_figures.differences(table, "a", "x").axes) == 1
    losses = pd.DataFrame(
        {"method": "a", "seed": [0, 1, 2] * 2, "length": [64] * 3 + [128] * 3, "nll": [1, 2, 3, 1, 1, 2]}
    )
    assert len(training_figures.perplexity_lines(losses).axes) == 1


def test_perplexities_read_every_model_at_every_length(study, saved_pair, monkeypatch):
    study = open_study("smoke", 1, workers=0, eval_lengths=(96, 192), eval_items=4)
    monkeypatch.setattr(outcomes.passages, "documents", lambda *_: [("d", "a" * 400), ("e", "b" * 400)])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved_pair[0])
    models = [
        outcomes.untrained("base", saved_pair[1]),
        outcomes.Model("skip-pose-0", saved_pair[0], "pose", 0),
    ]
    table = outcomes.perplexities(study, models, tokenizer)
    assert (
        len(table) == 2 * 2 * (study.profile.pool_seeds + 1)
        and torch.isfinite(torch.tensor(table["nll"].to_numpy())).all()
    )
