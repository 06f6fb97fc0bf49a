"""Combinations, selections and their scores against the labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

from gateau_lib.experiments import ranking as ranking_module
from gateau_lib.methods import baselines, gateau, selection

POOL = st.integers(1, 40).flatmap(
    lambda n: hnp.arrays(float, n, elements=st.integers(-20, 20).map(lambda v: v / 4))
)


def names(n):
    return [f"id-{i:03d}" for i in range(n)]


def test_combinations_by_hand():
    hmp, cam = softmax([0.5, -0.5, 0.0]), np.array([0.1, 0.9, 0.5])
    np.testing.assert_allclose(gateau.combine(hmp, cam, "as_released", 0.7), 0.7 * hmp + 0.3 * cam)
    np.testing.assert_allclose(gateau.combine(hmp, cam, "softmax_both", 0.7), 0.7 * hmp + 0.3 * softmax(cam))
    np.testing.assert_allclose(
        gateau.combine(hmp, cam, alpha=0.7), 0.7 * np.array([3, 1, 2]) / 3 + 0.3 * np.array([1, 3, 2]) / 3
    )


def test_scale_audit_of_the_released_combination():
    """With a large pool the softmaxed HMP is of the size 1/n, so the released score ranks as CAM does;
    ranks obey alpha."""
    rng = np.random.default_rng(0)
    hmp, cam = softmax(rng.uniform(-1, 1, 5000)), rng.uniform(0, 1, 5000)
    released = gateau.combine(hmp, cam, "as_released", 0.8)
    assert (
        ranking_module.rank_correlation(released, cam) > 0.999
        and abs(ranking_module.rank_correlation(released, hmp)) < 0.05
    )
    ranked = gateau.combine(hmp, cam, "rank", 0.8)
    assert ranking_module.rank_correlation(ranked, hmp) > 0.9
    with pytest.raises(ValueError, match="constant"):
        ranking_module.rank_correlation(cam, np.ones(5000))


def test_combine_refuses_what_it_cannot_rank():
    good = softmax([1.0, 2.0])
    for arguments, message in [
        ((good, [1.0, np.nan]), "row 1 is NaN"),
        ((good, [1.0]), "same pool"),
        ((good, [1.0, 2.0], "sum"), "choose one of"),
        ((good, [1.0, 2.0], "rank", 1.5), "alpha"),
        (([1.0, 2.0], [1.0, 2.0], "as_released"), "sums to 3"),
        (([], []), "at least one"),
    ]:
        with pytest.raises(ValueError, match=message):
            gateau.combine(*arguments)


@given(POOL, POOL, st.floats(0, 1))
def test_rank_combination_sees_order_only(a, b, alpha):
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    got = gateau.combine(a, b, "rank", alpha)
    np.testing.assert_allclose(gateau.combine(softmax(a), np.exp(b / 10), "rank", alpha), got)
    assert ((got > 0) & (got <= 1 + 1e-12)).all()


@given(POOL, st.floats(-30, 30))
def test_softmax_variant_forgets_a_shift_of_cam(cam, shift):
    hmp = softmax(np.arange(len(cam)) / len(cam))
    np.testing.assert_allclose(
        gateau.combine(hmp, cam + shift, "softmax_both"), gateau.combine(hmp, cam, "softmax_both")
    )


@given(POOL, st.floats(0.01, 1), st.randoms(use_true_random=False))
def test_top_fraction_does_not_depend_on_the_order_of_the_pool(scores, fraction, random):
    ids = names(len(scores))
    top = selection.top_fraction(ids, scores, fraction)
    order = list(range(len(ids)))
    random.shuffle(order)
    assert selection.top_fraction([ids[i] for i in order], scores[order], fraction) == top
    of = dict(zip(ids, scores, strict=True))
    assert [of[i] for i in top] == sorted(scores, reverse=True)[: len(top)]
    assert all((of[a], b) > (of[b], a) for a, b in zip(top, top[1:], strict=False))  # best first, ties by id


@pytest.mark.parametrize(
    ("n", "fraction", "k"), [(100, 0.07, 7), (30, 0.1, 3), (10, 0.25, 3), (3, 1.0, 3), (5, 0.01, 1)]
)
def test_top_fraction_rounds_up(n, fraction, k):
    assert len(selection.top_fraction(names(n), np.arange(n), fraction)) == k


def test_top_fraction_refuses():
    with pytest.raises(ValueError, match="'id-001' is NaN"):
        selection.top_fraction(names(2), [1.0, np.nan], 0.5)
    with pytest.raises(ValueError, match="occurs twice"):
        selection.top_fraction(["a", "a"], [1.0, 2.0], 0.5)
    for fraction in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            selection.top_fraction(names(2), [1.0, 2.0], fraction)


SOURCES = st.sampled_from("abc")


@given(st.lists(SOURCES, max_size=30), st.dictionaries(SOURCES, st.integers(0, 5)), st.integers(0, 30))
def test_quotas_take_the_best_of_each_source(of, quotas, k):
    ranking = names(len(of))
    sources = dict(zip(ranking, of, strict=True))
    taken = selection.within_quotas(ranking, sources, quotas, k)
    allowed = [
        i
        for i in ranking
        if i in [j for j in ranking if sources[j] == sources[i]][: quotas.get(sources[i], 99)]
    ]
    assert taken == allowed[:k]


def test_quotas_by_hand():
    sources = {"a": "x", "b": "x", "c": "y", "d": "x", "e": "y"}
    assert selection.within_quotas("abcde", sources, {"x": 1}, 2) == ["a", "c"]
    assert selection.within_quotas("abcde", sources, {"x": 1, "y": 0}, 4) == ["a"]
    with pytest.raises(ValueError, match="occurs twice"):
        selection.within_quotas(["a", "a"], sources, {}, 2)


@given(st.integers(1, 60), st.data())
def test_random_subset_is_a_subset_and_depends_on_the_set_only(n, data):
    ids, k, seed = names(n), data.draw(st.integers(0, n)), data.draw(st.integers(0, 1000))
    drawn = baselines.random_subset(ids, k, seed)
    assert len(set(drawn)) == k and set(drawn) <= set(ids)
    assert baselines.random_subset(ids[::-1], k, seed) == drawn
    with pytest.raises(ValueError, match="pool"):
        baselines.random_subset(ids, n + 1, seed)


@given(st.data())
def test_length_matched_random_matches_each_tenth(data):
    n = data.draw(st.integers(1, 60))
    ids, lengths = names(n), data.draw(hnp.arrays(int, n, elements=st.integers(1, 40)))
    chosen = baselines.random_subset(ids, data.draw(st.integers(0, n)), seed=1)
    drawn = baselines.length_matched_random(ids, lengths, chosen, seed=2)
    assert len(drawn) == len(set(drawn)) == len(chosen)
    of = dict(zip(ids, lengths, strict=True))
    for edge in np.quantile(lengths, np.arange(1, 10) / 10):
        assert sum(of[i] <= edge for i in drawn) == sum(of[i] <= edge for i in chosen)
    assert set(baselines.length_matched_random(ids[::-1], lengths[::-1], chosen, seed=2)) == set(drawn)


def test_length_matched_random_is_random_within_its_length():
    ids, lengths = names(200), np.arange(200)
    chosen = baselines.longest(ids, lengths, 20)
    drawn = baselines.length_matched_random(ids, lengths, names(200)[:10] + chosen[:5], seed=0)
    assert drawn != baselines.length_matched_random(ids, lengths, names(200)[:10] + chosen[:5], seed=1)
    with pytest.raises(ValueError, match="'x' is not in the pool"):
        baselines.length_matched_random(ids, lengths, ["x"], seed=0)


def test_longest_and_overlap():
    assert baselines.longest(["a", "b", "c", "d"], [5, 9, 5, 1], 3) == ["b", "a", "c"]
    assert ranking_module.overlap(["a", "b"], ["b", "c"]) == pytest.approx(1 / 3)
    assert ranking_module.overlap([], []) == 1 and ranking_module.overlap(["a"], []) == 0
    with pytest.raises(ValueError, match="pool"):
        baselines.longest(["a"], [1], 2)


@given(POOL, st.data())
def test_auc_counts_pairs(scores, data):
    labels = data.draw(hnp.arrays(bool, len(scores)))
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="with and without"):
            ranking_module.auc(labels, scores)
        return
    pairs = [(p > q) + 0.5 * (p == q) for p in scores[labels] for q in scores[~labels]]
    assert ranking_module.auc(labels, scores) == pytest.approx(np.mean(pairs))
    assert ranking_module.auc(labels, -scores) == pytest.approx(1 - np.mean(pairs))


@given(POOL, st.floats(0.01, 1), st.data())
def test_precision_does_not_depend_on_the_order_of_the_pool(scores, fraction, data):
    labels = data.draw(hnp.arrays(bool, len(scores)))
    got = ranking_module.precision_at(labels, scores, fraction)
    assert -1e-12 <= got <= 1 + 1e-12
    order = data.draw(st.permutations(range(len(scores))))
    assert ranking_module.precision_at(labels[order], scores[order], fraction) == pytest.approx(got)


@given(st.integers(1, 30).flatmap(lambda n: st.permutations(range(n))), st.floats(0.01, 1), st.data())
def test_precision_without_ties_is_that_of_the_selection(scores, fraction, data):
    labels = data.draw(hnp.arrays(bool, len(scores)))
    top = selection.top_fraction(names(len(scores)), scores, fraction)
    assert ranking_module.precision_at(labels, scores, fraction) == pytest.approx(
        np.mean([labels[int(i[3:])] for i in top])
    )


def test_precision_of_ties_by_hand():
    assert ranking_module.precision_at([1, 0, 0, 1], [3, 1, 1, 1], 0.5) == pytest.approx((1 + 1 / 3) / 2)
    with pytest.raises(ValueError, match="NaN"):
        ranking_module.precision_at([1, 0], [np.nan, 1], 0.5)
    assert ranking_module.auc([1, 0], [1.0, -np.inf]) == 1


def test_instruction_following_difficulty():
    np.testing.assert_allclose(baselines.instruction_following_difficulty([1.0, 3.0], [2.0, 2.0]), [0.5, 1.5])
    with pytest.raises(ValueError, match="row 1 is 0"):
        baselines.instruction_following_difficulty([1.0, 3.0], [2.0, 0.0])
    with pytest.raises(ValueError, match="same pool"):
        baselines.instruction_following_difficulty([1.0], [2.0, 1.0])
