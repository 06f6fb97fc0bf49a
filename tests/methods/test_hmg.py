"""Homologous models' guidance: readings of the short model, and the pool-level gap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference.hmg import rebuilt, slow_mean_nll
from tiny import random_encoded, random_llama

from gateau_lib.methods import hmg, model_passes
from gateau_lib.models.nll import NonFiniteLoss
from gateau_lib.models.rope import ntk_theta

LOSSES = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[hnp.arrays(float, n, elements=st.floats(0, 12, allow_subnormal=False))] * 2)
)


def test_raw_reads_the_sample_as_it_is(llama, encoded):
    want = [slow_mean_nll(llama, s.prompt, s.response) for s in encoded]
    np.testing.assert_allclose(model_passes.short_reader_nll(llama, encoded, "raw"), want, rtol=1e-5)


def test_truncate_keeps_instruction_and_response(llama, encoded):
    window = 30
    want = []
    for s in encoded:
        room = window - 1 - len(s.instruction) - len(s.response)
        context = s.context[len(s.context) - room :] if len(s.context) > room else s.context
        want.append(slow_mean_nll(llama, [1] + context + s.instruction, s.response))
    np.testing.assert_allclose(
        model_passes.short_reader_nll(llama, encoded, "truncate", window=window), want, rtol=1e-5
    )
    np.testing.assert_array_equal(
        model_passes.short_reader_nll(llama, encoded, "truncate"),
        model_passes.short_reader_nll(llama, encoded, "truncate", window=128),
    )


@pytest.mark.parametrize(("window", "prefix", "scored"), [(12, 3, 9), (10, 1, 9), (6, 1, 5), (2, 1, 1)])
def test_truncate_of_a_sample_whose_ending_exceeds_the_window(llama, window, prefix, scored):
    sample = random_encoded("w", 20, 5, 9, seed=4)
    got = model_passes.last_window(sample, window)
    assert (len(got[0]), len(got[1])) == (prefix, scored)
    assert got[0] + got[1] == [1] + sample.ids[1:][-(window - 1) :]
    want = slow_mean_nll(llama, *got)
    np.testing.assert_allclose(
        model_passes.short_reader_nll(llama, [sample], "truncate", window=window), [want], rtol=1e-5
    )


def test_truncate_without_start_token_keeps_a_predecessor():
    sample = random_encoded("w", 20, 5, 9, seed=4)
    bare = type(sample)(sample.id, [], sample.context, sample.instruction, sample.response)
    assert model_passes.last_window(bare, 6) == (sample.response[-6:-5], sample.response[-5:])
    with pytest.raises(ValueError, match="window"):
        model_passes.last_window(bare, 1)


@pytest.mark.parametrize(("window", "target"), [(None, 512), (64, 256)])
def test_ntk_reads_with_one_fixed_base(llama, encoded, window, target):
    stretched = rebuilt(llama, ntk_theta(1000.0, target / (window or 128), head_dim=8))
    want = [slow_mean_nll(stretched, s.prompt, s.response) for s in encoded]
    got = model_passes.short_reader_nll(llama, encoded, "ntk", window=window, target=target)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    alone = model_passes.short_reader_nll(llama, encoded[1:2], "ntk", window=window, target=target)
    np.testing.assert_allclose(
        alone, got[1:2], rtol=1e-5
    )  # no memory of what was read before, no influence of the batch
    assert llama.config.max_position_embeddings == 128


def test_ntk_stretches_to_the_longest_sample_by_default(llama):
    long = random_encoded("long", 300, 5, 4, seed=1)
    np.testing.assert_array_equal(
        model_passes.short_reader_nll(llama, [long], "ntk"),
        model_passes.short_reader_nll(llama, [long], "ntk", target=len(long.ids)),
    )
    short = random_encoded("short", 20, 5, 4, seed=1)
    np.testing.assert_array_equal(
        model_passes.short_reader_nll(llama, [short], "ntk"),
        model_passes.short_reader_nll(llama, [short], "raw"),
    )


@pytest.mark.parametrize("window", [None, 64, 32])
def test_ntk_each_reads_every_sample_with_its_own_base(llama, encoded, window):
    want = []
    for s in encoded:
        factor = max(1.0, len(s.ids) / (window or 128))
        stretched = rebuilt(llama, ntk_theta(1000.0, factor, head_dim=8))
        want.append(slow_mean_nll(stretched, s.prompt, s.response))
    got = model_passes.short_reader_nll(llama, encoded, "ntk_each", window=window)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    raw = model_passes.short_reader_nll(llama, encoded, "raw")
    inside = np.array([len(s.ids) <= (window or 128) for s in encoded])
    np.testing.assert_allclose(got[inside], raw[inside], rtol=1e-5)
    assert window is None or (np.abs(got - raw)[~inside] > 1e-4).all()
    assert llama.config.max_position_embeddings == 128


def test_ntk_each_does_not_depend_on_company(llama, encoded):
    got = model_passes.short_reader_nll(llama, encoded, "ntk_each", window=32)
    order = [4, 1, 0, 3, 2]
    some = model_passes.short_reader_nll(llama, [encoded[i] for i in order], "ntk_each", window=32)
    np.testing.assert_allclose(some, got[order], rtol=1e-5)
    assert len(model_passes.short_reader_nll(llama, [], "ntk_each")) == 0


def test_ntk_each_names_a_sample_that_cannot_be_read(encoded):
    broken = random_llama()
    broken.lm_head.weight = torch.nn.Parameter(broken.lm_head.weight.clone())
    broken.config.tie_word_embeddings = False  # only readers of the token break
    with torch.no_grad():
        broken.model.embed_tokens.weight[encoded[3].context[0]] = float("nan")
    clean = [s for s in encoded if encoded[3].context[0] not in s.ids][:2]
    with pytest.raises(NonFiniteLoss, match="'s3'") as caught:
        model_passes.short_reader_nll(broken, [*clean, encoded[3]], "ntk_each", window=32)
    assert caught.value.index == 2


def test_unknown_names(llama, encoded):
    with pytest.raises(ValueError, match="reading"):
        model_passes.short_reader_nll(llama, encoded, "dynamic")
    with pytest.raises(ValueError, match="scale"):
        hmg.pool_gap([1.0], [1.0], scale="ppl")


def test_gap_by_hand():
    short, long = np.log([1.0, 3.0, 5.0]), np.log([2.0, 4.0, 3.0])
    np.testing.assert_allclose(hmg.pool_gap(short, long), [0 - 0, 0.5 - 1, 1 - 0.5], atol=1e-12)
    np.testing.assert_allclose(hmg.pool_gap(short, long, scale="log"), np.log([0.5, 0.75, 5 / 3]))
    weights = np.exp([0, -0.5, 0.5])
    np.testing.assert_allclose(hmg.homologous_models_perplexity(short, long), weights / weights.sum())


def test_pool_is_refused_rather_than_guessed():
    with pytest.raises(ValueError, match="row 1 is not finite"):
        hmg.pool_gap([1.0, np.nan], [1.0, 1.0])
    with pytest.raises(ValueError, match="equally long"):
        hmg.pool_gap([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        hmg.homologous_models_perplexity([], [])


def test_constant_pool_gives_zeros():
    np.testing.assert_array_equal(hmg.pool_gap([2.0] * 4, [1.0] * 4), np.zeros(4))
    np.testing.assert_allclose(hmg.homologous_models_perplexity([2.0] * 4, [1.0] * 4), np.full(4, 0.25))


@given(LOSSES)
def test_gap_and_hmp_stay_in_their_ranges(pair):
    short, long = pair
    gap, hmp = hmg.pool_gap(short, long), hmg.homologous_models_perplexity(short, long)
    assert (np.abs(gap) <= 1 + 1e-12).all()
    assert hmp.sum() == pytest.approx(1) and hmp.max() / hmp.min() <= np.e**2 * (1 + 1e-9)
    assert (np.diff(hmp[np.argsort(gap)]) >= -1e-15).all()


@given(LOSSES, st.floats(-3, 3), st.floats(-3, 3))
def test_min_max_forgets_a_common_factor_of_perplexity(pair, a, b):
    short, long = pair
    assume(all(np.ptp(x) > 1e-3 for x in pair))
    np.testing.assert_allclose(hmg.pool_gap(short + a, long + b), hmg.pool_gap(short, long), atol=1e-8)


@given(
    hnp.arrays(float, st.integers(1, 30), elements=st.floats(-1e3, 1e3)),
    st.floats(0.1, 10),
    st.floats(-50, 50),
)
def test_min_max_is_invariant_and_bounded(values, scale, shift):
    moved = hmg.min_max(values)
    assert moved.min() == 0 and moved.max() in (0, 1)
    assume(np.ptp(values) > 1e-2)
    np.testing.assert_allclose(hmg.min_max(values * scale + shift), moved, atol=1e-9)


@given(LOSSES, st.randoms(use_true_random=False))
def test_gap_follows_a_permutation_of_the_pool(pair, random):
    short, long = pair
    order = list(range(len(short)))
    random.shuffle(order)
    np.testing.assert_allclose(
        hmg.pool_gap(short[order], long[order]), hmg.pool_gap(short, long)[order], atol=1e-12
    )


def test_huge_losses_do_not_overflow():
    assert np.isfinite(hmg.pool_gap([900.0, 1.0], [2.0, 800.0])).all()
