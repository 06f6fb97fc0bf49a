"""What the SkipAlign runs came to: metrics rows, plain text, needle maps, and what it costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from gateau_lib.experiments import outcomes, skip_outcomes, skip_runs, study_corpus
from gateau_lib.models import loading
from gateau_lib.models.loading import SHIPPED
from gateau_lib.study.profiles import resolve
from gateau_lib.study.store import open_study

METHODS = ["theta_a", "theta_a_stretched", "base", "gateau", *skip_runs.STRATEGIES, *skip_runs.VARIANTS]
CELLS = pd.DataFrame(
    {"id": [f"needle-{i}" for i in range(4)], "length": [64, 64, 128, 128], "depth": [0.0, 1.0] * 2}
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    return open_study("smoke", 1, workers=0, eval_items=2)


def evaluation() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    labels = [
        (m, n, f"{s}-{i}", s) for m in METHODS for n in (0, 1) for s in ("needle", "short") for i in range(4)
    ]
    table = pd.DataFrame(labels, columns=["method", "seed", "id", "set"])
    return table.assign(**{name: rng.random(len(table)) for name in ("token_accuracy", "probability")})


def test_metrics_rows_of_both_starts():
    table = evaluation()
    rows = skip_outcomes.skip_metrics(table, CELLS)
    kinds = {(row["metric"], row["condition"]) for row in rows}
    assert kinds == {
        (f"{name}_{measure}", condition)
        for name, conditions in (("needle", ("64", "128")), ("short", ("short_tasks",)))
        for measure in ("probability", "accuracy")
        for condition in conditions
    }
    assert {row["method"] for row in rows} == set(METHODS) - {"base", "gateau"}
    wanted = {"metric": "needle_probability", "method": "pose", "condition": "128", "seed": 1}
    (row,) = (row for row in rows if wanted.items() <= row.items())
    mine = table[
        (table["method"] == "pose") & (table["seed"] == 1) & table["id"].isin(("needle-2", "needle-3"))
    ]
    assert np.isclose(row["value"], mine["probability"].mean()) and row["n"] == 2
    wider = skip_outcomes.skip_metrics(table, CELLS, 512)
    assert {row["condition"] for row in wider} == {"512:64", "512:128", "512:short_tasks"}
    maps = skip_outcomes.needle_maps(table, CELLS, ["pose"])
    assert maps["pose"].shape == (2, 2)


def test_plain_text_fills_the_short_window_and_is_read_by_every_model(study):
    tokenizer = study_corpus.load_tokenizer(study)
    texts = skip_outcomes.plain_texts(study, tokenizer)
    assert {name: {len(ids) for ids in found} for name, found in texts.items()} == {
        "planted": {study.profile.short_window}, "real": {study.profile.short_window}
    }  # fmt: skip
    assert texts == skip_outcomes.plain_texts(study, tokenizer) and len(texts["real"]) == 4
    models = [
        outcomes.untrained("theta_a", SHIPPED / "short"),
        outcomes.Model("x", SHIPPED / "long", "pose", 0),
    ]
    losses = skip_outcomes.plain_losses(study, models, tokenizer)
    assert len(losses) == 2 * 2 * 4
    model, _ = loading.load(SHIPPED / "short")
    ids = torch.tensor([texts["planted"][1]])
    with torch.inference_mode():
        expected = model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
    mine = losses[(losses["method"] == "theta_a") & (losses["text"] == "planted") & (losses["document"] == 1)]
    assert np.isclose(mine["nll"].item(), expected.item(), rtol=1e-4)
    rows = skip_outcomes.plain_metrics(losses, study.profile.short_window)
    assert {(row["metric"], row["method"], row["condition"], row["n"]) for row in rows} == {
        (metric, method, "256", 4) for metric in ("plain_nll", "real_nll") for method in ("theta_a", "pose")
    }
    second = skip_outcomes.plain_metrics(losses, study.profile.short_window, 512)
    assert {row["condition"] for row in second} == {"512:256"}


def test_cost_grows_with_runs_and_needles():
    cpu = resolve("cpu", pool_seeds=1)
    few, more = (skip_outcomes.cost(resolve("cpu", pool_seeds=1, eval_needles=n)).tokens for n in (2, 8))
    assert few < skip_outcomes.cost(cpu).tokens < more
    assert skip_outcomes.cost(resolve("cpu", pool_seeds=1, skip_wider_stages=())).tokens < more
    assert skip_outcomes.wider_window(cpu) == 512
