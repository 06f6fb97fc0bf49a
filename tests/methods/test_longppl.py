"""Scores of token losses: LongPPL's key tokens, LongFilter, delta entropy, and the segment contrast."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference.cam import slow_importance
from reference.nll import slow_nll
from reference.token_gains import slow_scores
from scoring_command import command, rows_of, write_data

from gateau_lib import score
from gateau_lib.methods import METHODS, delta_entropy, longfilter, longppl, model_passes, segment_contrast
from gateau_lib.methods.base import Options
from gateau_lib.methods.reader import Reader
from gateau_lib.models.pair import Pair

SEGMENT, WINDOW = 16, 24
TOKENS = ("longppl", "longfilter", "delta_entropy")
LOSSES = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[hnp.arrays(float, n, elements=st.floats(0, 15, allow_subnormal=False))] * 2)
)


def reader(model, encoded, *names, more=(), window=WINDOW):
    passes = {each for name in names for each in METHODS[name].passes} | set(more)
    options = Options(tuple(names), "ntk", SEGMENT, 256, window)
    return Reader([None] * len(encoded), encoded, Pair(model, model, None), options, passes)


@pytest.mark.parametrize("window", [WINDOW, 8, 200])
@pytest.mark.parametrize("more", [(), ("long_pass",)])
def test_scores_match_slow_reference(model, encoded, window, more, monkeypatch):
    """With a window of 8, responses of more than that are scored by their last tokens."""
    monkeypatch.setattr(longppl, "GAIN", 0.1)  # random models are never as sure as the paper's
    monkeypatch.setattr(longppl, "LOSS", 7.0)
    read = reader(model, encoded, *TOKENS, more=more, window=window)
    found = np.array([METHODS[name].fill(read)[name] for name in TOKENS]).T
    want = np.array([slow_scores(model, sample, window, 0.1, 7.0) for sample in encoded])
    np.testing.assert_allclose(found, want, atol=2e-5, rtol=1e-4)
    if window == WINDOW and not more:
        assert (found != 0).any(axis=0).all()  # otherwise zeros would be compared


def test_each_text_is_read_once_whoever_asks(llama, encoded):
    asked = (*TOKENS, "contrast", "perplexity", "segment_contrast")
    read = reader(llama, encoded, *asked, more=["long_pass"])
    for name in asked:
        METHODS[name].fill(read)
    assert len(read.long_pass) == len(encoded)
    whole = sum(len(sample.ids) for sample in encoded)
    assert read.counts["long_pass"]["tokens"] == whole
    assert read.counts["contrast"]["tokens"] == sum(min(WINDOW, len(sample.ids)) for sample in encoded)


@pytest.mark.parametrize("more", [(), ("long_pass",)])
def test_mean_losses_keep_their_last_bit(model, encoded, more):
    """Whoever else asks, and as they were before tokens were kept."""
    alone = reader(model, encoded, "contrast", more=more)
    beside = reader(model, encoded, "contrast", *TOKENS, more=more)
    for name in ("nll_long", "nll_cut"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(beside, name))
    cut = model_passes.short_reader_nll(model, encoded, "truncate", window=WINDOW)
    np.testing.assert_array_equal(alone.nll_cut, cut)
    if not more:
        np.testing.assert_array_equal(alone.nll_long, model_passes.response_nll(model, encoded))


def test_entropy_that_nobody_named_is_not_made_up(llama, encoded):
    with pytest.raises(ValueError, match="entropy_long was not asked for"):
        _ = reader(llama, encoded, "perplexity").entropy_long


def test_by_hand():
    long, cut = np.array([0.5, 1.0, 3.0, 0.1]), np.array([4.5, 2.0, 9.0, 0.0])
    assert longppl.key_tokens(long, cut).tolist() == [True, False, False, False]
    assert longppl.key_token_gain(long, cut) == 1.0
    want = (4 * np.exp(-0.5) + np.exp(-1.0) + 6 * np.exp(-3.0) - 0.1 * np.exp(-0.1)) / 4
    assert longfilter.weighted_gain(long, cut) == pytest.approx(want)
    assert delta_entropy.entropy_drop(np.array([9.0, 1.0, 2.0]), np.array([1.5, 3.5])) == pytest.approx(1.0)
    assert segment_contrast.best_segment_gap(np.array([2.0, 1.5, 3.0]), 1.0) == 0.5
    assert segment_contrast.best_segment_gap(np.array([]), 1.0) is None


@given(LOSSES)
def test_gains_stay_in_their_ranges(pair):
    long, cut = pair
    key, filtered = longppl.key_token_gain(long, cut), longfilter.weighted_gain(long, cut)
    assert key == 0 or key > longppl.GAIN / len(cut)
    assert abs(filtered) <= np.abs(cut - long).mean() + 1e-12
    assert longppl.key_token_gain(cut, cut) == longfilter.weighted_gain(cut, cut) == 0
    # What the cut reading did not score does not count.
    longer = np.append([0.0, 9.0], long)
    assert longppl.key_token_gain(longer, cut) == key and longfilter.weighted_gain(longer, cut) == filtered


def test_segment_contrast_matches_slow_reference(model, encoded):
    found = METHODS["segment_contrast"].fill(reader(model, encoded, "segment_contrast"))["segment_contrast"]
    for sample, value in zip(encoded, found, strict=True):
        whole = slow_nll(model, sample.prompt, sample.response).mean()
        parts = slow_importance(model, sample, SEGMENT)
        assert value is None if not sample.context else value == pytest.approx(min(parts) - whole, abs=1e-4)


def test_the_command_leaves_their_columns(saved_pair, tmp_path):
    data, out = write_data(tmp_path / "data.jsonl"), tmp_path / "scores.parquet"
    asked = (*TOKENS, "segment_contrast", "contrast", "cam")
    assert score.main(command(data, saved_pair, out, "--methods", ",".join(asked))) == 0
    for row in rows_of(out):
        assert all(row[name] is not None for name in TOKENS)
        assert (row["segment_contrast"] is None) == (row["cam"] is None)
        if row["cam"] is not None:
            gap = min(row["segment_nll"]) - row["nll_long"]
            assert row["segment_contrast"] == pytest.approx(gap, abs=1e-9)


def test_losses_of_batches_that_are_halved(llama, encoded, small_memory):
    count = Counter()
    want = model_passes.response_losses(llama, encoded, entropy=True)
    with small_memory(llama, 110):
        got = model_passes.response_losses(llama, encoded, entropy=True, count=count)
    assert count["tokens"] == sum(len(sample.ids) for sample in encoded)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b.entropy, a.entropy, rtol=1e-5)
