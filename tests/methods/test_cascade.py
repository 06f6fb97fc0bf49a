"""Who can still enter a selection, and CAM's ranks from a part of the pool."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from gateau_lib.methods import cascade
from gateau_lib.methods.gateau import GATEAU, RankOptions

pools = st.tuples(
    st.integers(1, 60), st.integers(0, 10**6), st.floats(0.02, 0.9), st.sampled_from([0.8, 0.9, 1.0])
)


def ranks(values):
    return rankdata(values) / len(values)


@settings(max_examples=200, deadline=None)
@given(pools)
def test_no_sample_outside_the_candidates_could_enter_whatever_its_cam(drawn):
    n, seed, fraction, alpha = drawn
    rng = np.random.default_rng(seed)
    hmp, cam = ranks(rng.integers(0, 2 * n, n)), ranks(rng.integers(0, 2 * n, n))
    count = int(np.ceil(round(fraction * n, 9)))
    read = hmp >= np.sort(hmp)[-count]
    while (more := cascade.can_enter(hmp, np.where(read, cam, np.nan), count, alpha) & ~read).any():
        read |= more
    others = np.flatnonzero(~read)
    for worst in (1.0, 1 / n, None):  # the largest ranks, the smallest, the true ones
        filled = np.where(read, cam, cam if worst is None else worst)
        score = alpha * hmp + (1 - alpha) * filled
        last = np.sort(score[read])[-count]
        assert (score[others] < last).all()
    least = (1 - fraction - 1 / n) - (1 - alpha) / alpha  # the bound that holds before anything is read
    assert (hmp[read] >= least - 1e-9).all()


@settings(max_examples=100, deadline=None)
@given(pools)
def test_ranks_are_exact_where_all_was_read(drawn):
    n, seed, *_ = drawn
    rng = np.random.default_rng(seed)
    cam, candidate = rng.integers(0, n, n).astype(float), rng.random(n) < 0.4
    assert np.array_equal(cascade.cam_ranks(cam, candidate), ranks(cam))


def test_drawn_samples_stand_for_those_not_read():
    rng = np.random.default_rng(0)
    cam, candidate = rng.random(20_000), np.arange(20_000) < 3_000
    read = candidate | (np.arange(20_000) % 10 == 0)
    found = cascade.cam_ranks(np.where(read, cam, np.nan), candidate)
    assert np.array_equal(np.isnan(found), ~read)
    assert np.abs(found - ranks(cam))[read].max() < 0.03
    alone = cascade.cam_ranks(np.where(candidate, cam, np.nan), candidate)
    assert np.abs(alone - ranks(cam))[candidate].max() < 0.03


def test_who_is_drawn_follows_from_ids_and_seed():
    names, hmp = [f"s{i}" for i in range(1000)], np.arange(1, 1001) / 1000
    candidate, drawn = cascade.first(names, hmp, 100)
    assert 100 < candidate.sum() < 300 and not (candidate & drawn).any()
    assert drawn.sum() == cascade.drawn_of(1000 - candidate.sum()) < 200
    turned = cascade.first(names[::-1], hmp[::-1], 100)
    assert np.array_equal(turned[1][::-1], drawn)
    assert not np.array_equal(cascade.first(names, hmp, 100, seed=1)[1], drawn)
    assert cascade.drawn_of(0) == 0 and cascade.drawn_of(10**9) == cascade.DRAWN


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_the_expected_share_is_that_of_independent_ranks(fraction):
    rng = np.random.default_rng(1)
    n = 20_000
    hmp, cam = ranks(rng.random(n)), ranks(rng.random(n))
    count = int(fraction * n)
    read, _ = cascade.first([str(i) for i in range(n)], hmp, count)
    while (more := cascade.can_enter(hmp, np.where(read, cam, np.nan), count, 0.8) & ~read).any():
        read |= more
    assert read.mean() == pytest.approx(cascade.expected_share(fraction), abs=0.01)


def test_with_all_read_the_ranking_is_gateau():
    rng = np.random.default_rng(2)
    pool = pd.DataFrame({"nll_short": rng.random(50), "nll_long": rng.random(50), "cam": rng.random(50)})
    pool["cam_mode"] = [cascade.CANDIDATE, cascade.DRAWN_ROW] * 25
    assert np.array_equal(cascade.ranking(pool, 0.8), GATEAU.rank(pool, RankOptions()))
