"""What is timed by hand computes the same losses as the library."""

from __future__ import annotations

from collections import Counter

import numpy as np

from gateau_lib.methods import model_passes
from gateau_lib.scoring import speed_limit


def test_by_hand_gives_the_librarys_losses(llama, encoded):
    count = Counter[str]()
    found = speed_limit.by_hand(llama, speed_limit.whole(encoded), count)
    np.testing.assert_allclose(found, model_passes.response_nll(llama, encoded), rtol=1e-5)
    assert count["tokens"] == sum(len(one.ids) for one in encoded) and count["forwards"] == len(encoded)


def test_rows_of_one_length_may_share_a_pass(llama, encoded):
    (row,) = speed_limit.whole(encoded[:1])
    alone, together = Counter[str](), Counter[str]()
    one = speed_limit.by_hand(llama, [row] * 5, alone)
    np.testing.assert_allclose(speed_limit.by_hand(llama, [row] * 5, together, at_once=2), one, rtol=1e-6)
    assert (alone["forwards"], together["forwards"]) == (5, 3) and alone["tokens"] == together["tokens"]


def test_rows_after_others_read_their_keys(llama, encoded):
    before, row = encoded[0].ids[:9], encoded[1].ids[:7]
    found = speed_limit.by_hand(llama, [(row, 6)] * 5, Counter[str](), at_once=2, after=before)
    (pair,) = speed_limit.by_hand(llama, [(before + row, 6)], Counter[str]())
    np.testing.assert_allclose(found, [pair] * 5, rtol=1e-5)
