"""A scored pool in other mixtures: which samples are in them, and that scores stay what they were."""

import numpy as np
import pandas as pd
import pytest

from gateau_lib.data.kinds import KINDS, NEEDS_FAR, NOISE
from gateau_lib.experiments import compositions
from gateau_lib.experiments.ranking import auc


def scored() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    kinds = [kind for kind in KINDS for _ in range(15 if kind in NOISE else 12)]
    rows = {"pool": "independent", "seed": 0, "id": [f"{kind}-{n}" for n, kind in enumerate(kinds)]}
    table = pd.DataFrame(rows | {"kind": kinds, "needs_far": [kind in NEEDS_FAR for kind in kinds]})
    size = len(table)
    return table.assign(n_tokens=rng.integers(600, 1900, size), score=rng.random(size)).sample(
        frac=1, random_state=1
    )


def test_every_composition_is_a_part_of_the_pool_with_its_scores():
    pool = scored()
    whole = compositions.mixed(pool)
    assert list(whole["pool"].unique()) == list(compositions.COMPOSITIONS)
    for _, part in whole.groupby("pool"):
        assert part["id"].is_unique
        there = pool[pool["id"].isin(part["id"])]
        assert list(part["id"]) == list(there["id"]) and list(part["score"]) == list(there["score"])
    assert len(whole[whole["pool"] == "independent"]) == len(pool)


def test_shares_of_noise_are_what_the_names_say():
    pool = scored()
    assert not compositions.composed(pool, "clean", 0)["kind"].isin(NOISE).any()
    noisy = compositions.composed(pool, "noisy", 0)
    assert noisy["kind"].isin(NOISE).mean() == pytest.approx(compositions.NOISY, abs=0.02)
    honest = noisy[~noisy["kind"].isin(NOISE)].groupby("kind").size()
    assert honest.max() - honest.min() <= 1 and len(honest) == len(KINDS) - len(NOISE)
    other = compositions.composed(pool, "noisy", 1)
    assert set(other["id"]) != set(noisy["id"])
    pd.testing.assert_frame_equal(noisy, compositions.composed(pool, "noisy", 0))


def test_in_the_confounded_pool_length_tells_need():
    pool = scored()
    tied = compositions.composed(pool, "confounded", 0)
    assert auc(tied["needs_far"], tied["n_tokens"]) == 1.0
    assert abs(auc(pool["needs_far"], pool["n_tokens"]) - 0.5) < 0.15


def test_other_pools_stay_as_they_are():
    pool = scored().assign(pool="real")
    pd.testing.assert_frame_equal(compositions.mixed(pool), pool.reset_index(drop=True))


@pytest.mark.parametrize("share", [0, 0.1, 0.3, 0.45, 0.7])
def test_any_share_of_noise_can_be_drawn_and_what_is_scarce_stays_whole(share):
    pool = scored()
    part = compositions.with_noise(pool, share, 3)
    noise = part["kind"].isin(NOISE)
    assert noise.mean() == pytest.approx(share, abs=0.03)  # every kind is rounded by itself
    whole = pool["kind"].isin(NOISE)
    assert noise.sum() == whole.sum() or (~noise).sum() == (~whole).sum()
    assert list(part["id"]) == [one for one in pool["id"] if one in set(part["id"])]
    pd.testing.assert_frame_equal(part, compositions.with_noise(pool, share, 3))


def test_a_pool_without_noise_gets_none():
    honest = scored().query("kind not in @NOISE")
    for share in (0, 0.4):
        pd.testing.assert_frame_equal(compositions.with_noise(honest, share, 0), honest)
