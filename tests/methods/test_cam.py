"""Attention and importance of segments against `output_attentions=True`, one sample at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference.cam import slow_attention, slow_importance
from tiny import random_encoded, random_llama

from gateau_lib.methods import cam, model_passes
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models import attention, nll
from gateau_lib.models.nll import NonFiniteLoss, OutOfMemory

SEGMENT = 16


@pytest.mark.parametrize("batch_tokens", [1, 16384])
@pytest.mark.parametrize("segment_length", [1, SEGMENT, 200])
def test_long_pass_matches_eager_attention(model, encoded, segment_length, batch_tokens, monkeypatch):
    monkeypatch.setattr(nll, "BATCH_TOKENS", batch_tokens)
    passes = model_passes.long_pass(model, encoded, segment_length)
    for sample, got in zip(encoded, passes, strict=True):
        want = slow_attention(model, sample, segment_length)
        assert got.attention.shape == want.shape == (2, -(-len(sample.context) // segment_length))
        np.testing.assert_allclose(got.attention, want, atol=1e-6)
        np.testing.assert_allclose(got.mass, want * got.keys, atol=1e-6)
        assert got.keys.sum() == len(sample.context) and got.tokens.nll.shape == (len(sample.response),)


def test_long_pass_gives_the_response_nll(model, encoded):
    np.testing.assert_allclose(
        [p.nll for p in model_passes.long_pass(model, encoded, SEGMENT)],
        response_nll(model, encoded),
        rtol=1e-5,
    )


def test_attention_rows_are_chunked_without_change(model, encoded, monkeypatch):
    whole = model_passes.long_pass(model, encoded, SEGMENT)
    monkeypatch.setattr(attention, "SCORE_ELEMENTS", 1)  # one query row at a time
    for a, b in zip(whole, model_passes.long_pass(model, encoded, SEGMENT), strict=True):
        np.testing.assert_allclose(a.attention, b.attention, atol=1e-7)


def test_one_forward_a_sample_and_the_model_left_as_it_was(llama, encoded, monkeypatch):
    count = Counter()
    before = llama.config._attn_implementation
    monkeypatch.setattr(nll, "BATCH_TOKENS", 1)
    model_passes.long_pass(llama, encoded, SEGMENT, count=count)
    assert count["forwards"] == len(encoded) and count["tokens"] == count["padded"] == sum(
        len(s.ids) for s in encoded
    )
    assert llama.config._attn_implementation == before
    with pytest.raises(ValueError, match="segment_length"):
        model_passes.long_pass(llama, encoded, 0)


def test_both_interfaces_are_registered():
    from transformers import AttentionInterface, AttentionMaskInterface

    assert attention.IMPLEMENTATION in AttentionInterface().valid_keys()
    assert attention.IMPLEMENTATION in AttentionMaskInterface().valid_keys()


def test_bfloat16_attention_has_an_fp32_softmax():
    generator = torch.Generator().manual_seed(0)
    query = (3 * torch.randn(4, 40, 8, generator=generator)).bfloat16()  # (heads, N, D)
    key = (3 * torch.randn(2, 40, 8, generator=generator)).bfloat16()  # two key-value heads
    layer = attention.Layer(query[None], key[None], 0.4, mask=None, window=None, softcap=None)
    got = model_passes.segment_mean(layer, 0, random_encoded("a", 29, 4, 6, seed=0), 8)
    scores = query.double() @ key.double().repeat_interleave(2, 0).transpose(1, 2) * 0.4
    weights = scores.masked_fill(torch.ones(40, 40).triu(1).bool(), -torch.inf).softmax(-1)[:, 34:, 1:30]
    want = torch.stack([part.mean() for part in weights.split(8, dim=-1)])
    torch.testing.assert_close(got, want, atol=1e-7, rtol=0)


def test_bfloat16_model_is_scored(encoded):
    for got in model_passes.long_pass(random_llama().to(torch.bfloat16), encoded, SEGMENT):
        assert got.attention.dtype == np.float64 and np.isfinite(got.nll) and (got.mass.sum(1) <= 1).all()


@pytest.mark.parametrize("batch_tokens", [1, 16384])
@pytest.mark.parametrize("segment_length", [SEGMENT, 200])
def test_segment_importance_matches_slow_reference(model, encoded, segment_length, batch_tokens, monkeypatch):
    monkeypatch.setattr(nll, "BATCH_TOKENS", batch_tokens)
    got = model_passes.segment_importance(model, encoded, segment_length)
    for sample, values in zip(encoded, got, strict=True):
        np.testing.assert_allclose(values, slow_importance(model, sample, segment_length), rtol=1e-5)


def test_broken_sample_is_named_by_its_place_in_the_call(encoded):
    broken = random_llama()
    broken.lm_head.weight = torch.nn.Parameter(
        broken.lm_head.weight.clone()
    )  # untied: only readers of the token break
    with torch.no_grad():
        broken.model.embed_tokens.weight[encoded[3].context[-1]] = float("nan")
    clean = [s for s in encoded if encoded[3].context[-1] not in s.ids][:2]
    with pytest.raises(NonFiniteLoss, match="sample 's3', segment 2") as caught:
        model_passes.segment_importance(broken, [*clean, encoded[3]], SEGMENT)
    assert caught.value.index == 2
    with pytest.raises(NonFiniteLoss, match="sample 's3'") as caught:
        model_passes.long_pass(broken, [*clean, encoded[3]], SEGMENT)
    assert caught.value.index == 2


@pytest.mark.parametrize("room", [101, 150])
def test_batches_that_do_not_fit_are_halved(llama, encoded, small_memory, room):
    want = model_passes.long_pass(llama, encoded, SEGMENT)
    count = Counter()
    with small_memory(llama, room):
        got = model_passes.long_pass(llama, encoded, SEGMENT, count=count)
        nlls = model_passes.segment_importance(llama, encoded, SEGMENT)
    assert count["tokens"] == sum(len(s.ids) for s in encoded)  # a pass that failed is not counted
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b.attention, a.attention, atol=1e-7)
        np.testing.assert_allclose(b.tokens.nll, a.tokens.nll, rtol=1e-5)
    for a, b in zip(model_passes.segment_importance(llama, encoded, SEGMENT), nlls, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)


def test_a_sample_that_does_not_fit_alone_is_named(llama, encoded, small_memory):
    with (
        small_memory(llama, 85),
        pytest.raises(OutOfMemory, match="sample 's1': does not fit into memory") as caught,
    ):
        model_passes.long_pass(llama, encoded[:3], SEGMENT)
    assert caught.value.index == 1
    with small_memory(llama, 25), pytest.raises(OutOfMemory, match="sample 's1', segment 0") as caught:
        model_passes.segment_importance(llama, [encoded[2], encoded[1]], SEGMENT)
    assert caught.value.index == 1


def test_context_shorter_than_a_segment_is_one_segment(llama, encoded):
    short = encoded[2]
    assert len(model_passes.segment_importance(llama, [short], SEGMENT)[0]) == 1
    assert model_passes.long_pass(llama, [short], SEGMENT)[0].attention.shape == (2, 1)
    assert cam.contextual_awareness([1.5], [[0.2], [0.1]]) == pytest.approx(0.0, abs=1e-12)


def test_contextual_awareness_by_hand():
    nll, layers = np.log([1.0, 2.0]), np.array([[0.02, 0.04], [0.04, 0.02]])
    # importance 2/3, 1/3; attention 1/2, 1/2; cosine = (1/2) / (sqrt(5)/3 * sqrt(1/2))
    cosine = 0.5 / (np.sqrt(5) / 3 * np.sqrt(0.5))
    assert cam.contextual_awareness(nll, layers) == pytest.approx(1 - cosine)
    assert cam.contextual_awareness(nll, layers, sign="aligned") == pytest.approx(cosine)
    low = np.exp([-1.0, -2.0])  # PPL 1 and 2
    cosine = low.sum() * 0.5 / (np.linalg.norm(low) * np.sqrt(0.5))
    assert cam.contextual_awareness(nll, layers, importance="softmax_ppl", sign="aligned") == pytest.approx(
        cosine
    )
    assert cam.contextual_awareness(nll, layers, importance="ppl", sign="aligned") == pytest.approx(
        3 / np.sqrt(10)
    )
    peaked = np.exp([1.0, 0.0])
    cosine = peaked @ [2, 1] / (np.linalg.norm(peaked) * np.sqrt(5))
    assert cam.contextual_awareness(nll, [[0.5, 0.0]], attention="softmax", sign="aligned") == pytest.approx(
        cosine
    )


def test_contextual_awareness_refuses_what_it_cannot_score():
    with pytest.raises(ValueError, match="no context segments"):
        cam.contextual_awareness([], np.zeros((2, 0)))
    with pytest.raises(ValueError, match="shape"):
        cam.contextual_awareness([1.0, 2.0], [[1.0]])
    with pytest.raises(ValueError, match="finite"):
        cam.contextual_awareness([np.nan], [[1.0]])
    for option in ("importance", "attention", "sign"):
        with pytest.raises(ValueError, match="choose one of"):
            cam.contextual_awareness([1.0], [[1.0]], **{option: "nonsense"})


@given(st.data())
def test_contextual_awareness_is_finite_and_invariant(data):
    n = data.draw(st.integers(1, 12))
    nll = data.draw(hnp.arrays(float, n, elements=st.floats(0, 800)))
    layers = data.draw(hnp.arrays(float, (3, n), elements=st.floats(0, 1)))
    options = {
        "importance": data.draw(st.sampled_from(cam.IMPORTANCES)),
        "attention": data.draw(st.sampled_from(cam.ATTENTIONS)),
        "sign": data.draw(st.sampled_from(cam.SIGNS)),
    }
    score = cam.contextual_awareness(nll, layers, **options)
    assert -1e-9 <= score <= 1 + 1e-9
    order = data.draw(st.permutations(range(n)))
    assert cam.contextual_awareness(nll[order], layers[:, order], **options) == pytest.approx(score, abs=1e-9)
    if layers.max() > 1e-3:
        assert cam.contextual_awareness(nll, layers / 7, **options) == pytest.approx(score, abs=1e-9)
    if (
        options["importance"] != "softmax_ppl"
    ):  # softmax(-NLL) and PPL ratios forget a common factor of the perplexity
        assert cam.contextual_awareness(nll + 2.5, layers, **options) == pytest.approx(score, abs=1e-9)
