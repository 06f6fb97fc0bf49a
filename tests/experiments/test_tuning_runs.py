"""The training experiments' job lists, batches, tables and metrics rows, and what a mask changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import families
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import LlamaConfig

from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import Sample
from gateau_lib.experiments import claims, outcomes, training_figures, tuning_runs
from gateau_lib.models import loading, rope
from gateau_lib.study import devices
from gateau_lib.study.intervals import t_interval
from gateau_lib.study.store import open_study

SIZES = {"pool_seeds": 2, "sft_tokens": 3000, "sft_batch_tokens": 600, "long_window": 512, "skip_steps": 3}


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


@pytest.mark.parametrize(
    "family", ["llama", "phi", "gemma3"]
)  # a head turned whole; by half; one base a kind of layer
def test_the_stretched_base_is_the_one_hmg_reads_with(study, tmp_path, family):
    families.build(family).save_pretrained(tmp_path / "short")
    bases = {job.rope_theta for job in tuning_runs.skip_jobs(study, tmp_path, tmp_path)}
    assert bases == {rope.rope_theta(rope.extend_window(families.build(family), study.profile.long_window))}


def test_skip_jobs_differ_in_strategy_only(study, inputs):
    jobs = tuning_runs.skip_jobs(study, *inputs)
    assert [job.name for job in jobs] == tuning_runs.run_names(study.profile, "skipping")
    assert [job.method for job in jobs[:6]] == list(tuning_runs.STRATEGIES)
    alike = {"name": "", "method": "", "strategy": "normal", "packed_isolated": True}
    assert len({replace(job, **alike) for job in jobs[:6]}) == 1
    short = LlamaConfig.from_pretrained(inputs[1] / "short")
    times, d = study.profile.long_window / short.max_position_embeddings, short.head_dim
    assert jobs[0].rope_theta == pytest.approx(short.rope_parameters["rope_theta"] * times ** (d / (d - 2)))


def test_batch_shapes_hold_the_same_tokens_and_count_padding(study, inputs):
    job = tuning_runs.skip_jobs(study, *inputs)[0]
    shapes = tuning_runs.batch_shapes(job)
    used = {name: sum(tokens for tokens, _ in sizes) for name, sizes in shapes.items()}
    assert len(set(used.values())) == 1 and len(shapes["as they come"]) == len(shapes["sorted"])
    assert all(padding >= 0 for sizes in shapes.values() for _, padding in sizes)


def test_influence_shows_the_blocks_that_a_missing_mask_makes(llama):
    ids, positions = list(range(10, 22)), [0, 1, 2, 3, 40, 41, 42, 43, 80, 81, 82, 83]
    causal = np.tri(12, dtype=bool)
    assert (tuning_runs.influence(llama, ids, positions, mask=True) == causal).all()
    blocks = np.arange(12) // 4
    cut = tuning_runs.influence(llama, ids, positions, mask=False)
    assert (cut == (causal & (blocks[:, None] == blocks[None, :]))).all()


def test_the_stretched_model_is_built_on_the_cpu_in_the_profile_s_dtype(study, saved_pair, monkeypatch):
    study = open_study("smoke", 1, dtype="bfloat16", long_window=512)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "device", lambda: torch.device("meta"))  # any other device
        folder = tuning_runs.stretched(study, saved_pair[0].parent)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    model, _ = loading.load(folder)
    assert rope.window(model) == 512 and rope.rope_theta(model) == tuning_runs._stretched_theta(
        study, saved_pair[0].parent
    )


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


def test_metrics_rows_of_skipping_are_those_the_ledger_declares():
    block = [b for b in yaml.safe_load(claims.LEDGER.read_text())["rows"] if b["notebook"] == "07_evaluation"]
    skipping = evaluation(["theta_a_stretched", "base", *tuning_runs.STRATEGIES], ["needle", "short"])
    cells = pd.DataFrame(
        {"id": [f"needle-{i}" for i in range(4)], "length": [64, 64, 128, 128], "depth": [0.0, 1.0] * 2}
    )
    have = {(r["metric"], r["method"], r["condition"]) for r in outcomes.skip_metrics(skipping, cells)}
    expected = {("long_accuracy", m, length) for m in block[1]["methods"] for length in ("64", "128")}
    assert have == expected | {("short_accuracy", m, "short_tasks") for m in block[2]["methods"]}
    maps = outcomes.needle_maps(skipping, cells, ["pose"])
    assert maps["pose"].shape == (2, 2)


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
