"""Estimated segment importance: what is read is exact, what is not read is never outside of what was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import random_encoded

from gateau_lib.methods import cam_adaptive, model_passes
from gateau_lib.models.nll import NonFiniteLoss
from gateau_lib.scoring import speed

SEGMENT = 4


@pytest.fixture(scope="module")
def long_samples():
    """Contexts of 40, 23 and 30 segments, the last of them short; the second response has one token."""
    return [
        random_encoded(f"s{i}", *shape, seed=i)
        for i, shape in enumerate([(160, 5, 4), (90, 3, 1), (118, 6, 8)])
    ]


def scored(model, samples):
    passes = model_passes.long_pass(model, samples, SEGMENT)
    return (
        passes,
        model_passes.segment_importance(model, samples, SEGMENT),
        cam_adaptive.adaptive_importance(model, samples, passes, SEGMENT),
    )


def test_segments_that_are_read_are_exact_and_the_others_lie_between_them(model, long_samples):
    passes, exact, estimated = scored(model, long_samples)
    for sample, one, want, got in zip(long_samples, passes, exact, estimated, strict=True):
        read = cam_adaptive.plan_reading(one.attention, cam_adaptive.shared_text(sample, SEGMENT)).read
        assert got.shape == want.shape and 0 < read.sum() < len(read)
        np.testing.assert_allclose(got[read], want[read], rtol=1e-5)
        assert got[read].min() - 1e-9 <= got[~read].min() and got[~read].max() <= got[read].max() + 1e-9


def test_a_sample_of_few_segments_is_exact(model, encoded):
    passes, exact, estimated = (part for part in scored(model, encoded))
    for one, want, got in zip(passes, exact, estimated, strict=True):
        if one.attention.shape[1] <= cam_adaptive.FEWEST:
            np.testing.assert_allclose(got, want, rtol=1e-5)


def test_without_context_there_is_nothing_to_estimate(llama):
    bare = [random_encoded("bare", 0, 8, 3, seed=0)]
    _, exact, estimated = scored(llama, bare)
    assert [len(each) for each in exact] == [len(each) for each in estimated] == [0]


def test_an_estimate_does_not_depend_on_the_company_of_a_sample(llama, long_samples):
    together, alone = scored(llama, long_samples)[2][1], scored(llama, long_samples[1:2])[2][0]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_fewer_tokens_are_read(llama, long_samples):
    passes, counts = model_passes.long_pass(llama, long_samples, SEGMENT), [Counter(), Counter()]
    model_passes.segment_importance(llama, long_samples, SEGMENT, count=counts[0])
    cam_adaptive.adaptive_importance(llama, long_samples, passes, SEGMENT, count=counts[1])
    assert counts[1]["tokens"] < 0.6 * counts[0]["tokens"]


def test_the_exact_engine_reads_the_fewest_tokens(llama, encoded):
    count = Counter()
    model_passes.long_pass(llama, encoded, 16, count=count)
    model_passes.segment_importance(llama, encoded, 16, count=count)
    model_passes.short_reader_nll(llama, encoded, "raw", count=count)
    assert count["tokens"] == cam_adaptive.minimum_tokens(encoded, 16)


def test_a_broken_loss_names_sample_and_segment(llama, long_samples):
    passes = model_passes.long_pass(llama, long_samples, SEGMENT)
    norm = llama.model.norm.weight
    kept = norm.data.clone()
    try:
        norm.data.fill_(float("nan"))
        with pytest.raises(NonFiniteLoss, match=r"'s\d', segment"):
            cam_adaptive.adaptive_importance(llama, long_samples, passes, SEGMENT)
    finally:
        norm.data.copy_(kept)


def test_passes_of_other_segments_are_refused(llama, long_samples):
    passes = model_passes.long_pass(llama, long_samples, 2 * SEGMENT)
    with pytest.raises(ValueError, match="segment"):
        cam_adaptive.adaptive_importance(llama, long_samples, passes, SEGMENT)


def test_shared_text_by_hand():
    sample = replace(
        random_encoded("hand", 0, 1, 1, seed=0), context=[5, 6, 7, 8, 9, 9, 5, 9], response=[6, 7, 5]
    )
    shared = cam_adaptive.shared_text(
        sample, 2
    )  # segments 56 78 99 59; 5 in two of four, 6 and 7 in one each, no pair within one
    assert shared.tolist() == pytest.approx([np.log(4) + np.log(2), np.log(4), 0.0, np.log(2)])


@given(st.integers(1, 200), st.integers(1, 4), st.integers(0, 99))
def test_some_segments_are_read_and_the_most_attended_one_is_among_them(n, layers, seed):
    rng = np.random.default_rng(seed)
    attention = rng.random((layers, n)) * 0.01 / n
    attention[:, seed % n] += 0.5
    read = cam_adaptive.plan_reading(attention, rng.random(n)).read
    assert read.dtype == bool and read.shape == (n,) and read[seed % n]
    assert read.sum() == min(n, max(cam_adaptive.FEWEST, round(cam_adaptive.SHARE * n)))


def test_fidelity_by_hand():
    exact = np.arange(20) / 20
    assert speed.fidelity(exact, exact) == {
        "rank_correlation": pytest.approx(1.0),
        "top_overlap": 1.0,
        "largest_error": 0.0,
    }
    swapped = exact.copy()
    swapped[[17, 18]] = swapped[[18, 17]]  # the second of the top two changes place with the third
    found = speed.fidelity(exact, swapped)
    assert found["top_overlap"] == 0.5 and found["largest_error"] == pytest.approx(0.05)
    assert found["rank_correlation"] == pytest.approx(1 - 6 * 2 / (20 * (20**2 - 1)))


def test_weights_of_nothing_are_no_preference():
    with torch.no_grad():
        read = cam_adaptive.plan_reading(np.zeros((2, 40)), np.zeros(40)).read
    assert read.sum() == max(cam_adaptive.FEWEST, round(cam_adaptive.SHARE * 40))
