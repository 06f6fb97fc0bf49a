"""The training experiments' job lists, batches, tables and metrics rows, and what a mask changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import Sample
from gateau_lib.experiments import needle_figures, outcomes, training_figures, tuning_runs
from gateau_lib.study.intervals import t_interval
from gateau_lib.study.store import open_study
from gateau_lib.training.recipe import ByTokens, FineTune

SIZES = {"pool_seeds": 2, "sft_tokens": 3000, "sft_batch_tokens": 600, "long_window": 512}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    return open_study("smoke", 1, **SIZES)


@pytest.fixture
def inputs(study, tmp_path, saved_pair):
    """Corpus folder and pair."""
    data = tmp_path / "data"
    for n in range(2):
        short = [Sample(f"short-{n}-{i}", "word " * (4 + i), "What?", "This.") for i in range(6)]
        write_samples(short, data / "short" / f"{n}.jsonl")
    return data, saved_pair[0].parent


def test_batch_shapes_hold_the_same_tokens_and_count_padding(study, inputs):
    data, pair = inputs
    files, length = (data / "short" / "0.jsonl",), ByTokens(3000, 600)
    job = FineTune("a", pair / "long", files, 512, 1e-3, 0, length)
    shapes = tuning_runs.batch_shapes(job)
    used = {name: sum(tokens for tokens, _ in sizes) for name, sizes in shapes.items()}
    assert len(set(used.values())) == 1 and len(shapes["as they come"]) == len(shapes["sorted"])
    assert all(padding >= 0 for sizes in shapes.values() for _, padding in sizes)


def rows(method, seeds, **columns):
    return pd.DataFrame([{"model": method if n is None else f"sft-{method}-{n}", **columns} for n in seeds])


def test_untrained_models_count_for_every_seed():
    models = [outcomes.untrained("base", Path())]
    models += [
        outcomes.Model(f"sft-length_matched-{n}", Path(), "length_matched", n, "scarce_30") for n in (0, 2)
    ]
    found = pd.concat([rows("base", [None], x=1), rows("length_matched", [0, 2], x=2)])
    table = outcomes.by_method(found, models, pool_seeds=3)
    assert table[["method", "seed"]].to_records(index=False).tolist() == [
        ("base", 0), ("base", 1), ("base", 2), ("length_matched", 0), ("length_matched", 2)
    ]  # fmt: skip
    assert table["condition"].tolist() == [""] * 3 + ["scarce_30"] * 2


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
        len(needle_figures.needle_maps(dict.fromkeys("abcd", grid)).axes) == 7
    )  # two lines of three, and the colour bar
    gains = needle_figures.needle_gains({"a": grid, "b": grid + 0.05}, "a", "p")
    assert len(gains.axes) == 2 and gains.get_label().startswith("Against a, at 128 tokens")
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
