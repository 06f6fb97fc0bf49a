"""Rows about scores, and what is chosen, of a small study: against the tables they are made of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gateau_lib.data.kinds import NEEDS_FAR, NOISE
from gateau_lib.data.longalign import read_samples
from gateau_lib.experiments import compositions, pool, ranking, score_rows, selection_runs, study_corpus
from gateau_lib.methods.cam import contextual_awareness
from gateau_lib.models.loading import SHIPPED
from gateau_lib.study import store

SIZES = {
    "pool_per_kind": 2,
    "noise_per_kind": 4,
    "pool_tokens": (300, 340),
    "pool_seeds": 2,
    "max_length": 330,
}
SIZES |= {"prolong_pairs": 6, "short_pool": 1, "short_plenty": 1, "eval_items": 1, "eval_lengths": (256,)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEAU_RESULTS", str(tmp_path_factory.mktemp("results")))
        return store.open_study("smoke", 3, **SIZES)


@pytest.fixture(scope="module")
def data(study):
    return study_corpus.prepared(study)


@pytest.fixture(scope="module")
def whole(study, data):
    return score_rows.whole(study, data, SHIPPED)


def test_every_composition_has_every_method_in_its_own_ranks(study, whole):
    assert list(whole["pool"].unique()) == list(compositions.COMPOSITIONS)
    assert set(score_rows.METHODS) <= set(whole) and not whole[list(score_rows.METHODS)].isna().any(axis=None)
    for _, part in whole.groupby(["pool", "seed"]):
        ranks = (
            study.profile.alpha * part["hmp"].rank() + (1 - study.profile.alpha) * part["cam_default"].rank()
        )
        np.testing.assert_allclose(part["gateau_rank"], ranks / len(part))
    # What belongs to a sample alone is the same wherever it stands.
    alone = whole.groupby(["seed", "id"])[["cam_default", "random", "cam_uniform_attention", "prolong"]]
    assert (alone.nunique() == 1).all(axis=None)


def test_attention_is_replaced_in_cam_alone(whole):
    drawn = score_rows.composition(whole, "independent")
    for row in drawn.head(3).itertuples():
        uniform = contextual_awareness(row.segment_nll, np.ones((1, len(row.segment_nll))))
        assert row.cam_uniform_attention == pytest.approx(uniform)
    assert (drawn["cam_shuffled_attention"] != drawn["cam_softmax_attention"]).any()


def test_a_kind_stands_alone_against_honest_samples_that_need_nothing_far(whole):
    methods = ["hmg_log_truncate", "longest"]
    rows = score_rows.kind_rows(whole, methods)
    assert {(row["condition"], row["method"], row["seed"]) for row in rows} == {
        (kind, method, n) for kind in NEEDS_FAR for method in methods for n in range(2)
    }
    drawn = score_rows.composition(whole, "independent")
    for row in rows:
        part = drawn[drawn["seed"] == row["seed"]]
        wanted = part[part["kind"] == row["condition"]][row["method"]]
        others = part[~part["kind"].isin(NEEDS_FAR | NOISE)][row["method"]]
        better = [(a > b) + 0.5 * (a == b) for a in wanted for b in others]
        assert row["value"] == pytest.approx(np.mean(better)) and row["metric"] == "auc"
        assert row["n"] == len(wanted) + len(others) and len(wanted) == 2


def test_arms_choose_from_the_pool_as_it_was_drawn(study, data, whole):
    chosen = score_rows.chosen(study, data, SHIPPED)
    assert list(chosen) == [0, 1]
    for n, arms in chosen.items():
        ids = [sample.id for sample in read_samples(data / "pools" / f"independent-{n}.jsonl")]
        assert set(arms) == {arm.name for arm in selection_runs.arms(study.profile)}
        assert sorted(arms["scarce_30-full"]) == sorted(ids)
        assert all(set(each) <= set(ids) for each in arms.values())
        part = score_rows.composition(whole, "independent").query("seed == @n")
        best = part.sort_values("hmp", ascending=False)["id"]
        assert arms["scarce_30-hmg"] == list(best[: math.ceil(0.3 * len(ids))])
    # Each number of a pool draws anew.
    places = [[int(name[-3:]) for name in arms["scarce_30-random"]] for arms in chosen.values()]
    assert places[0] != places[1]


def test_what_is_compared_between_pairs_is_of_the_common_pool(data, study):
    pools = [read_samples(data / "pools" / f"common-{n}.jsonl") for n in range(2)]
    assert pools[0] == pools[1]
    # A pair has one pool, see `evidence_run.profile_of_pairs`.
    study = replace(study, profile=replace(study.profile, pool_seeds=1))
    chosen = score_rows.common(study, data, SHIPPED)
    assert list(chosen) == list(score_rows.COMPARED)
    count = math.ceil(study.profile.fraction * len(pools[0]))
    table = pool.scored(study, SHIPPED, data, ("common",), ["homologous"])
    gap = (table["nll_short_truncate"] - table["nll_long"]).set_axis(table["id"]).sort_values(ascending=False)
    assert chosen["hmg_log_truncate"] == list(gap.index[:count])
    assert {len(set(ids)) for ids in chosen.values()} == {count}


def test_documents_are_ranked_against_all_and_against_repetition():
    kinds = ["dependent", "dependent", "local", "independent", "repetitive", "repetitive"]
    scores = [3.0, 1.0, 0.0, 2.0, 4.0, 0.5]
    table = pd.DataFrame(
        {"seed": 0, "kind": kinds, "prolong": scores, "prolong_no_specificity": scores[::-1]}
    )
    found = {(r["method"], r["condition"]): (r["value"], r["n"]) for r in score_rows.document_rows(table)}
    assert found["prolong", "documents"] == (5 / 8, 6)
    assert found["prolong", "documents_repetitive"] == (2 / 4, 4)
    assert found["prolong_no_specificity", "documents_repetitive"] == (2 / 4, 4)


def test_rows_of_all_parts_are_there_once(whole):
    rows = score_rows.guidance_rows(whole) + score_rows.awareness_rows(whole)
    rows += score_rows.combination_rows(whole) + score_rows.kind_rows(whole)
    table = pd.DataFrame(rows)
    assert not table.duplicated(["metric", "method", "condition", "seed"]).any()
    assert table["value"].between(-1, 1).all() and ranking.FRACTIONS == (0.1, 0.3, 0.5)
    precise = table[table["metric"] == "precision_at_30"]
    assert set(precise["method"]) == set(score_rows.PRECISE)
