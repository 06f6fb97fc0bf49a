"""Segments left out of the context against one plain reading each."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from reference.ablation import slow_leave_one_out
from tiny import random_llama

from gateau_lib.methods.leave_one_out import leave_one_out, without_segment
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models.nll import NonFiniteLoss

SEGMENT = 16


@pytest.mark.parametrize("segment_length", [SEGMENT, 200])
def test_matches_slow_reference(model, encoded, segment_length):
    for sample, got in zip(encoded, leave_one_out(model, encoded, segment_length), strict=True):
        want = slow_leave_one_out(model, sample, segment_length)
        assert got.shape == (-(-len(sample.context) // segment_length),) == (len(want),)
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_losses_that_are_known_are_not_read_again(llama, encoded):
    count = Counter()
    nll = response_nll(llama, encoded)
    got = leave_one_out(llama, encoded, SEGMENT, nll_long=nll, count=count)
    for a, b in zip(got, leave_one_out(llama, encoded, SEGMENT), strict=True):
        np.testing.assert_array_equal(a, b)
    parts = [range(0, len(sample.context), SEGMENT) for sample in encoded]
    assert count["tokens"] == sum(
        len(sample.ids) - min(SEGMENT, len(sample.context) - begin)
        for sample, begins in zip(encoded, parts, strict=True)
        for begin in begins
    )


def test_the_segments_are_all_there_is_and_each_is_left_out_once(encoded):
    for sample in encoded:
        for i, begin in enumerate(range(0, len(sample.context), SEGMENT)):
            rest = sample.context[:begin] + sample.context[begin + SEGMENT :]
            assert without_segment(sample, SEGMENT, i) == sample.start + rest + sample.instruction


def test_a_broken_sample_is_named(encoded):
    broken = random_llama()
    broken.lm_head.weight = torch.nn.Parameter(broken.lm_head.weight.clone())  # untied
    with torch.no_grad():
        broken.model.embed_tokens.weight[encoded[3].context[-1]] = float("nan")
    clean = next(s for s in encoded if encoded[3].context[-1] not in s.ids)
    with pytest.raises(NonFiniteLoss, match="sample 's3', segment 0") as caught:
        leave_one_out(broken, [clean, encoded[3]], SEGMENT, nll_long=[1.0, 1.0])
    assert caught.value.index == 1
