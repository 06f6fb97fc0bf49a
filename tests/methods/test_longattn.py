"""LongAttn against full attention matrices of an eager model, one sample at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.longattn import slow_long_attention
from tiny import VOCABULARY, random_encoded, random_llama
from transformers import Llama4ForCausalLM, Llama4TextConfig

from gateau_lib.methods.longattn import long_attention, long_attention_score, nearest_far
from gateau_lib.models import attention, nll
from gateau_lib.models.nll import NonFiniteLoss


@pytest.mark.parametrize("batch_tokens", [1, 16384])
def test_matches_slow_reference(model, encoded, batch_tokens, monkeypatch):
    monkeypatch.setattr(nll, "BATCH_TOKENS", batch_tokens)
    strength, variance = long_attention(model, encoded)
    want = np.array([slow_long_attention(model, s) for s in encoded])
    np.testing.assert_allclose(strength, want[:, 0], atol=1e-6)
    np.testing.assert_allclose(variance, want[:, 1], rtol=1e-4, atol=1e-9)
    n = np.array([len(s.ids) for s in encoded])
    np.testing.assert_allclose(
        long_attention_score(model, encoded), want[:, 0] - 0.5 * n * want[:, 1], atol=1e-5
    )


def test_rows_are_chunked_without_change(model, encoded, monkeypatch):
    whole = long_attention(model, encoded)
    monkeypatch.setattr(attention, "SCORE_ELEMENTS", 1)  # one query row at a time
    np.testing.assert_allclose(long_attention(model, encoded), whole, rtol=1e-6, atol=1e-12)


@given(st.integers(1, 5000))
def test_far_is_a_quarter_of_the_text(n):
    """The released mask's lower triangle starts at row N - 3 * (N // 4)."""
    assert n / 4 <= nearest_far(n) <= n / 4 + 3


def test_score_does_not_depend_on_company(llama, encoded):
    together = long_attention_score(llama, encoded)
    alone = [long_attention_score(llama, [s])[0] for s in encoded]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len(long_attention_score(llama, [])) == 0


def test_the_pass_stops_at_the_layer_it_reads(llama, encoded, monkeypatch):
    def must_not_run(*args, **kwargs):
        raise AssertionError("the first layer's MLP was computed")

    monkeypatch.setattr(llama.model.layers[0].mlp, "forward", must_not_run)
    count = Counter()
    before = llama.config._attn_implementation
    monkeypatch.setattr(nll, "BATCH_TOKENS", 1)
    long_attention(llama, encoded[:2], count=count)
    tokens = sum(len(s.ids) for s in encoded[:2])
    assert (
        count == {"tokens": tokens, "padded": tokens, "forwards": 2}
        and llama.config._attn_implementation == before
    )


def test_far_attention_by_hand():
    """Four tokens of uniform attention: only the pairs at a distance of one or more count."""
    model = random_llama()
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.zero_()  # equal scores: row r spreads 1 / (r + 1)
        model.model.layers[0].self_attn.q_proj.bias.zero_()
    strength, variance = long_attention(model, [random_encoded("a", 1, 1, 1, seed=0)])
    far = np.zeros((4, 4))
    for row in range(1, 4):
        far[row, :row] = 1 / (row + 1)
    assert strength[0] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 4) and variance[0] == pytest.approx(
        far.var(ddof=1)
    )


def test_a_chunked_layer_is_passed_over():
    """Llama 4: layers of chunks have no window, and in a short text no mask either,
    but only the fourth sees all."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "intermediate_size_mlp": 32,
        "num_attention_heads": 4,
    }
    sizes |= {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2}
    kinds = ["chunked_attention"] * 3 + ["full_attention"]
    config = Llama4TextConfig(
        **sizes, vocab_size=VOCABULARY, attention_chunk_size=32, layer_types=kinds, pad_token_id=0
    )
    torch.manual_seed(3)
    model = Llama4ForCausalLM(config).eval()
    samples = [
        random_encoded(f"n{n}", n - 10, 5, 4, seed=n) for n in (24, 90)
    ]  # within one chunk, and over three
    found = np.array(long_attention(model, samples)).T
    want = [slow_long_attention(model, sample, layer=3) for sample in samples]
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-9)
    # Reading the first layer in place of the fourth would be another number.
    assert abs(slow_long_attention(model, samples[0], layer=0)[0] - want[0][0]) > 1e-3


def test_broken_weights_name_the_sample(encoded):
    broken = random_llama()
    with torch.no_grad():
        broken.model.embed_tokens.weight[encoded[3].context[0]] = float("nan")
    clean = next(s for s in encoded if encoded[3].context[0] not in s.ids)
    with pytest.raises(NonFiniteLoss, match="'s3'") as caught:
        long_attention(broken, [clean, encoded[3]])
    assert caught.value.index == 1
