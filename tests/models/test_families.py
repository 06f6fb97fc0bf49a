"""Every supported family of models, with random weights,
against eager attention one sample at a time and without padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES, build
from reference.cam import slow_attention, slow_importance
from reference.longattn import slow_long_attention
from reference.nll import slow_nll
from tiny import eager
from transformers import PreTrainedModel

from gateau_lib.methods import model_passes
from gateau_lib.methods.longattn import long_attention
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models import nll
from gateau_lib.models.loading import load
from gateau_lib.models.nll import continuation_nll
from gateau_lib.study.errors import ModelError

SEGMENT = 16


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> PreTrainedModel:
    return build(request.param)


@pytest.mark.parametrize("batch_tokens", [1, 16384])  # alone without padding; padded together
def test_long_pass_is_exact(family, encoded, batch_tokens, monkeypatch):
    monkeypatch.setattr(nll, "BATCH_TOKENS", batch_tokens)
    for sample, got in zip(encoded, model_passes.long_pass(family, encoded, SEGMENT), strict=True):
        want = slow_attention(family, sample, SEGMENT)
        assert got.attention.shape == want.shape
        np.testing.assert_allclose(got.mass, want * got.keys, atol=1e-6)
        np.testing.assert_allclose(
            got.tokens.nll, slow_nll(family, sample.prompt, sample.response), rtol=1e-5
        )


def test_losses_are_exact(family, encoded):
    want = [slow_nll(family, s.prompt, s.response).mean() for s in encoded]
    np.testing.assert_allclose(response_nll(family, encoded), want, rtol=1e-5)
    for sample, got in zip(encoded, model_passes.segment_importance(family, encoded, SEGMENT), strict=True):
        np.testing.assert_allclose(got, slow_importance(family, sample, SEGMENT), rtol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 16384])
def test_long_attention_is_exact_or_refused(family, encoded, batch_tokens, monkeypatch):
    monkeypatch.setattr(nll, "BATCH_TOKENS", batch_tokens)
    kinds = getattr(family.config, "layer_types", None) or ["full_attention"]
    if family.config.model_type in ("mistral", "phi3") and family.config.sliding_window:
        with pytest.raises(ModelError, match="no layer sees the whole text"):
            long_attention(family, encoded)
        return
    layer = kinds.index("full_attention")
    got = np.array(long_attention(family, encoded)).T
    want = np.array([slow_long_attention(family, s, layer) for s in encoded])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-9)


def test_the_model_is_left_as_it_was(family, encoded):
    ids = torch.tensor([encoded[0].ids])
    before, implementation = family(ids).logits, family.config._attn_implementation
    model_passes.long_pass(family, encoded[:2], SEGMENT)
    assert family.config._attn_implementation == implementation and torch.equal(family(ids).logits, before)


def test_what_a_family_saves_is_whole(family, tokenizer, tmp_path):
    """No family has weights that are taken for missing, or for too many, though they are not."""
    for part in (family, tokenizer):
        part.save_pretrained(tmp_path)
    loaded, ids = load(tmp_path, to=torch.device("cpu"))[0], torch.arange(3, 43)[None]
    assert torch.equal(loaded(ids).logits, family(ids).logits)


def test_batches_of_one_model_agree_with_its_eager_copy_in_bfloat16(encoded):
    """Half precision is not exact, but rows and windows must not be further from fp32
    than eager attention is."""
    model = build("gemma3")
    half = type(model)(model.config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    full = response_nll(model, encoded)
    mine = np.abs(response_nll(half, encoded) - full).max()
    plain = np.abs([slow_nll(eager(half), s.prompt, s.response).mean() for s in encoded] - full).max()
    assert mine < 2 * plain + 0.05


def test_one_token_alone(llama):
    (got,) = continuation_nll(llama, [[1]], [[5]])
    np.testing.assert_allclose(got, slow_nll(llama, [1], [5]), rtol=1e-5)
