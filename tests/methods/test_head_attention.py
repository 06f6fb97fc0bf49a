"""Attention of single heads and of the strongest tokens against full attention matrices."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference.ablation import slow_head_attention
from scipy.stats import spearmanr

from gateau_lib.methods import head_attention as heads
from gateau_lib.methods.cam import contextual_awareness
from gateau_lib.methods.leave_one_out import leave_one_out
from gateau_lib.methods.model_passes import long_pass
from gateau_lib.models import attention, nll

SEGMENT = 16


@pytest.mark.parametrize("batch_tokens", [1, 16384])
@pytest.mark.parametrize("top", [None, 1, 5, 99])
def test_matches_slow_reference(model, encoded, top, batch_tokens, monkeypatch):
    monkeypatch.setattr(nll, "BATCH_TOKENS", batch_tokens)
    for sample, got in zip(encoded, heads.head_attention(model, encoded, SEGMENT, top=top), strict=True):
        assert got.shape == (2, 4, -(-len(sample.context) // SEGMENT))
        if sample.context:
            np.testing.assert_allclose(got, slow_head_attention(model, sample, SEGMENT, top), atol=1e-6)


def test_their_mean_is_what_cam_reads(model, encoded, monkeypatch):
    monkeypatch.setattr(attention, "SCORE_ELEMENTS", 1)  # one query row at a time
    both = zip(heads.head_attention(model, encoded, SEGMENT), long_pass(model, encoded, SEGMENT), strict=True)
    for got, whole in both:
        np.testing.assert_allclose(got.mean(axis=1), whole.attention, atol=1e-7)


def test_one_forward_a_sample(llama, encoded):
    count = Counter()
    heads.head_attention(llama, encoded, SEGMENT, count=count)
    assert count["tokens"] == sum(len(sample.ids) for sample in encoded)
    with pytest.raises(ValueError, match="top 0"):
        heads.head_attention(llama, encoded, SEGMENT, top=0)


@given(st.data())
def test_top_tokens_lie_between_mean_and_largest(data):
    weights = data.draw(hnp.arrays(float, (2, data.draw(st.integers(1, 40))), elements=st.floats(0, 1)))
    mean, top, one = (heads.by_segment(weights, 7, k) for k in (None, 3, 1))
    assert mean.shape == top.shape == one.shape
    assert (mean <= top + 1e-12).all() and (top <= one + 1e-12).all()
    np.testing.assert_allclose(heads.by_segment(weights, 7, 7), mean)


@given(st.data())
def test_agreement_is_spearman_s(data):
    n = data.draw(st.integers(2, 8))
    # Few values, so that there are ties and constant heads.
    given_attention = data.draw(hnp.arrays(float, (2, 3, n), elements=st.integers(0, 3)))
    importance = data.draw(hnp.arrays(float, n, elements=st.integers(-2, 2)))
    got = heads.agreement(given_attention, importance)
    for layer, head in np.ndindex(2, 3):
        if np.ptp(importance) == 0:
            assert np.isnan(got[layer, head])
        elif np.ptp(given_attention[layer, head]) == 0:
            assert got[layer, head] == 0
        else:
            want = spearmanr(given_attention[layer, head], importance).statistic
            assert got[layer, head] == pytest.approx(want, abs=1e-9)


def test_heads_that_agree_are_found():
    importance = [np.array([0.1, 3.0, 0.2, 0.0]), np.array([1.0, 0.5]), np.array([7.0]), np.zeros(3)]
    rng = np.random.default_rng(0)
    attentions = [rng.random((2, 4, len(each))) for each in importance]
    for each, truth in zip(attentions, importance, strict=True):
        each[1, 2], each[0, 3] = truth, -truth
    assert heads.best_heads(attentions, importance, 1) == [(1, 2)]
    every = heads.best_heads(attentions, importance, 8)
    assert every[0] == (1, 2) and every[-1] == (0, 3) and len(set(every)) == 8
    chosen = heads.of_heads(attentions[0], [(1, 2), (0, 3)])
    np.testing.assert_array_equal(chosen, [importance[0], -importance[0]])
    with pytest.raises(ValueError, match="between 1 and 8"):
        heads.best_heads(attentions, importance, 9)
    with pytest.raises(ValueError, match="no sample tells"):
        heads.best_heads(attentions[2:], importance[2:], 1)


def test_cam_takes_chosen_heads(llama, encoded):
    some = encoded[:2]
    found = heads.head_attention(llama, some, SEGMENT, top=heads.TOP)
    truth = leave_one_out(llama, some, SEGMENT)
    chosen = heads.best_heads(found, truth, 3)
    for each, importance in zip(found, truth, strict=True):
        assert 0 <= contextual_awareness(-importance, heads.of_heads(each, chosen)) <= 1
