"""A pool at many shares of noise: pool-level scores are taken anew in each, the early model's are its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from gateau_lib.data.kinds import KINDS, NEEDS_FAR, NOISE
from gateau_lib.experiments import phase
from gateau_lib.experiments.ranking import auc
from gateau_lib.methods.base import READINGS

STUDY = SimpleNamespace(seed=3, profile=SimpleNamespace(alpha=0.7))


@pytest.fixture
def table(monkeypatch) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = [kind for kind in KINDS for _ in range(9)]
    rows = pd.DataFrame({"pool": "independent", "seed": 0, "kind": names})
    rows = rows.assign(id=[f"{kind}-{n}" for n, kind in enumerate(names)])
    rows = rows.assign(needs_far=rows["kind"].isin(NEEDS_FAR), n_tokens=rng.integers(600, 1900, len(rows)))
    columns = ["nll_long", "nll_long_truncate", "nll_alone", "cam_default", "prolong", "zlib_contrast"]
    columns += [f"nll_short_{reading}" for reading in READINGS]
    rows = rows.assign(**{name: rng.random(len(rows)) for name in columns})
    rows["segment_nll"] = [rng.random(4) for _ in range(len(rows))]
    early = pd.DataFrame({"id": rows["id"], "early": rng.random(len(rows)), "early_cut": 2.0})
    monkeypatch.setattr(phase.pool, "scored", lambda *given: rows.copy())
    monkeypatch.setattr(phase.explanations, "table", lambda *given: early.sample(frac=1, random_state=0))
    return rows.assign(early=early["early"])


def test_every_share_has_its_mixtures_and_its_area(table):
    found = pd.DataFrame(phase.rows(STUDY, Path(), Path()))
    assert set(found["metric"]) == {phase.METRIC} and found["value"].between(0, 1).all()
    early = {f"{name}{phase.SUFFIX}" for name in phase.HALF_WAY}
    assert set(found["method"]) == {*phase.FINISHED, *early}
    assert list(found["condition"].unique()) == ["0", "0.15", "0.3", "0.45", "0.6"]
    counts = found.groupby(["method", "condition"])["seed"].agg(["size", "nunique"])
    assert (counts == phase.DRAWS).all(axis=None)


def test_a_mixture_without_anything_to_find_is_left_out(table):
    small = table.groupby("kind").head(2)
    shares = phase.at_shares(small, 0).groupby("pool")["needs_far"].sum()
    assert (shares > 0).all() and "0.6" not in shares.index and "0" in shares.index


def test_without_noise_it_is_the_area_of_the_honest_samples(table):
    found = pd.DataFrame(phase.rows(STUDY, Path(), Path()))
    clean = found[found["condition"] == "0"].set_index("method")["value"]
    honest = table[~table["kind"].isin(NOISE)]
    assert set(clean["perplexity_guidance"]) == {auc(honest["needs_far"], honest["nll_long"])}
    assert set(clean["perplexity_guidance_early"]) == {auc(honest["needs_far"], honest["early"])}
    both = (honest["nll_short_ntk"], honest["early"])
    short, long = ((np.exp(each) - np.exp(each).min()) / np.ptp(np.exp(each)) for each in both)
    assert clean["hmg_minmax_ntk_early"].iloc[0] == pytest.approx(auc(honest["needs_far"], short - long))


def test_a_pair_without_an_early_model_has_rows_of_the_finished_one_alone(table, monkeypatch):
    monkeypatch.setattr(phase.explanations, "table", lambda *given: table[["id"]])
    assert {row["method"] for row in phase.rows(STUDY, Path(), Path())} == set(phase.FINISHED)
