"""Every supported family of models, with random weights, against eager attention one sample at a time and without padding."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from families import FAMILIES, build
from reference.cam import slow_attention, slow_importance
from reference.longattn import slow_long_attention
from reference.nll import slow_nll
from tiny import VOCABULARY, eager, random_encoded
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gateau_lib.data import sharded
from gateau_lib.data.samples import Sample, encode
from gateau_lib.methods import METHODS, SCORED, model_passes, released
from gateau_lib.methods.base import Options
from gateau_lib.methods.longattn import long_attention
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models import attention
from gateau_lib.models.loading import load
from gateau_lib.models.nll import continuation_nll, plan_batches
from gateau_lib.models.pair import Pair
from gateau_lib.models.rope import extend_window, rope_edge, rope_theta, window, with_rope_theta
from gateau_lib.scoring import scorer
from gateau_lib.study.errors import ModelError

SEGMENT = 16


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> PreTrainedModel:
    return build(request.param)


@pytest.mark.parametrize("batch_tokens", [1, 16384])  # alone without padding; padded together
def test_long_pass_is_exact(family, encoded, batch_tokens):
    for sample, got in zip(
        encoded, model_passes.long_pass(family, encoded, SEGMENT, batch_tokens=batch_tokens), strict=True
    ):
        want = slow_attention(family, sample, SEGMENT)
        assert got.attention.shape == want.shape
        np.testing.assert_allclose(got.mass, want * got.keys, atol=1e-6)
        np.testing.assert_allclose(got.token_nll, slow_nll(family, sample.prompt, sample.response), rtol=1e-5)


def test_losses_are_exact(family, encoded):
    want = [slow_nll(family, s.prompt, s.response).mean() for s in encoded]
    np.testing.assert_allclose(response_nll(family, encoded), want, rtol=1e-5)
    for sample, got in zip(encoded, model_passes.segment_importance(family, encoded, SEGMENT), strict=True):
        np.testing.assert_allclose(got, slow_importance(family, sample, SEGMENT), rtol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 16384])
def test_long_attention_is_exact_or_refused(family, encoded, batch_tokens):
    kinds = getattr(family.config, "layer_types", None) or ["full_attention"]
    if family.config.model_type in ("mistral", "phi3") and family.config.sliding_window:
        with pytest.raises(ModelError, match="no layer sees the whole text"):
            long_attention(family, encoded)
        return
    layer = kinds.index("full_attention")
    got = np.array(long_attention(family, encoded, batch_tokens=batch_tokens)).T
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


@pytest.mark.parametrize("name", FAMILIES)
def test_window_is_stretched_in_every_family(name, encoded):
    """Stretched weights are shared, what no state dict holds is there, and the base reaches the layers that need it."""
    model = build(name)
    if name == "phi3, long rope":
        with pytest.raises(ModelError, match="'longrope' cannot be stretched"):
            extend_window(model, 1024)
        return
    same, far = with_rope_theta(model, rope_theta(model)), extend_window(model, 1024)
    assert window(far) == 1024 and extend_window(model, 256) is model
    assert not any(t.is_meta for t in (*far.parameters(), *far.buffers()))
    assert all(
        a.data_ptr() == b.data_ptr() for a, b in zip(model.parameters(), far.parameters(), strict=True)
    )
    np.testing.assert_allclose(response_nll(same, encoded[:3]), response_nll(model, encoded[:3]), rtol=1e-6)
    assert not np.allclose(response_nll(far, encoded[:3]), response_nll(model, encoded[:3]), rtol=1e-4)
    rotated = 4 if name == "phi" else 8
    assert rope_theta(far) == pytest.approx(rope_theta(model) * 4 ** (rotated / (rotated - 2)))
    # The slowest channel is interpolated by the whole factor, the fastest is left alone.
    prefix = "full_attention_" if name == "gemma3" else ""
    new, old = (getattr(m.get_decoder().rotary_emb, f"{prefix}inv_freq") for m in (far, model))
    assert (new / old)[-1].item() == pytest.approx(1 / 4, rel=1e-4) and (new / old)[0].item() == 1.0
    if name == "gemma3":
        assert torch.equal(
            far.get_decoder().rotary_emb.sliding_attention_inv_freq,
            model.model.rotary_emb.sliding_attention_inv_freq,
        )


def test_long_rope_never_mixes_both_sides_of_its_edge(encoded):
    """One batch is read with one set of factors, chosen by its longest row."""
    model = build("phi3, long rope")
    assert rope_edge(model) == 70 and rope_edge(build("llama")) is None
    around = [random_encoded(f"n{n}", n - 10, 5, 4, seed=n) for n in (65, 69, 70, 71, 72, 80)]
    assert [len(s.ids) for s in around] == [65, 69, 70, 71, 72, 80]
    groups = plan_batches([len(s.ids) for s in around], 16384, rope_edge(model))
    assert sorted(map(sorted, groups)) == [[0, 1, 2], [3, 4, 5]]
    want = [slow_nll(model, s.prompt, s.response).mean() for s in around]
    np.testing.assert_allclose(response_nll(model, around), want, rtol=1e-5)
    np.testing.assert_allclose(
        [p.nll for p in model_passes.long_pass(model, around, SEGMENT)], want, rtol=1e-5
    )


def test_dynamic_rope_is_refused(encoded):
    model = build("llama")
    twin = type(model)(type(model.config).from_dict(model.config.to_dict()))
    twin.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 4.0}
    with pytest.raises(ModelError, match="depends on what was read before"):
        response_nll(twin, encoded[:1])


def test_no_square_matrix_is_built(monkeypatch):
    """Neither a mask nor weights of N x N elements, in a layer with a window, with capped scores, or plain."""
    n = 512
    sample = random_encoded("long", n - 16, 10, 5, seed=3)
    monkeypatch.setattr(attention, "SCORE_ELEMENTS", 4 * 4 * n)
    for name in ("llama", "mistral, sliding", "gemma2", "gemma3"):
        largest = 0

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                nonlocal largest
                out = function(*args, **(kwargs or {}))
                flat = out if isinstance(out, (tuple, list)) else (out,)
                largest = max([largest, *(t.numel() for t in flat if isinstance(t, torch.Tensor))])
                return out

        model = build(name)
        with Watch():
            (got,) = model_passes.long_pass(model, [sample], SEGMENT)
        assert largest < n * n / 4, name
        np.testing.assert_allclose(got.attention, slow_attention(model, sample, SEGMENT), atol=1e-6)


def test_a_segment_out_of_the_window_gets_nothing():
    sample = random_encoded("w", 60, 5, 4, seed=9)
    (got,) = model_passes.long_pass(build("mistral, sliding"), [sample], SEGMENT)
    assert (got.attention[:, 0] == 0).all() and (got.attention[:, -1] > 0).all()


def test_attention_that_cannot_be_read_is_refused(encoded, monkeypatch):
    model = build("llama")
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    with pytest.raises(ModelError, match="attention of this family cannot be read") as error:
        model_passes.long_pass(model, encoded[:1], SEGMENT)
    assert "\n" not in str(error.value)
    assert np.isfinite(response_nll(model, encoded[:1])).all()  # losses need no exchange


def test_a_family_that_mixes_other_layers_in_is_refused():
    from transformers import Lfm2Config, Lfm2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Lfm2Config(
        vocab_size=VOCABULARY, num_key_value_heads=2, layer_types=["conv", "full_attention"], **sizes
    )
    with pytest.raises(ModelError, match="1 of 2 layers have softmax attention"):
        model_passes.long_pass(
            Lfm2ForCausalLM(config).eval(), [random_encoded("a", 20, 5, 4, seed=1)], SEGMENT
        )


def test_attention_sinks_are_refused():
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    config = GptOssConfig(
        vocab_size=VOCABULARY, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1, **sizes
    )
    with pytest.raises(ModelError, match="s_aux"):
        model_passes.long_pass(
            GptOssForCausalLM(config).eval(), [random_encoded("a", 20, 5, 4, seed=1)], SEGMENT
        )


SPARSE = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
}
SPARSE |= {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
SPARSE |= {"index_topk": 16, "index_n_heads": 2, "index_head_dim": 16}  # a token sees 16 tokens at most


@functools.cache
def sparse(kind: str) -> PreTrainedModel:
    """A model that chooses for each token which keys it sees, and masks the others for eager and sdpa attention only."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CONFIG_MAPPING[kind](
        **sizes, **tokens, **SPARSE, num_key_value_heads=4, max_position_embeddings=256
    )
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa"])
@pytest.mark.parametrize("method", SCORED)
def test_a_choice_of_keys_is_refused(kind, method, tokenizer):
    """Every method reads the model by the registered attention, which would compute all keys and say nothing."""
    item = sharded.Item("a", Sample("a", "A key lies under the mill. " * 3, "Where is it?", "Under the mill."))
    options = Options((method,), "truncate", SEGMENT, 200, 200, prolong_pairs=3)
    with pytest.raises(ModelError, match="attention with indices is not read here") as error:
        scorer.score_items([item], Pair(sparse(kind), sparse(kind), tokenizer), options, [METHODS[method]])
    assert "\n" not in str(error.value)


def test_the_released_code_refuses_a_choice_of_keys_too(tokenizer):
    sample = Sample("a", "A key lies under the mill. " * 3, "Where is it?", "Under the mill.")
    model = sparse("deepseek_v32")
    with pytest.raises(ModelError, match="attention with indices is not read here"):
        released.released_cam(Pair(model, model, tokenizer), [encode(sample, tokenizer, None)], 192, SEGMENT)
    assert model.config._attn_implementation == "sdpa"


UNREAD = ("indices", "block_indices", "sinks", "s_aux", "position_bias", "a_keyword_of_next_year")


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("function", [attention._attention, released._attention_with_rows])
def test_a_keyword_that_is_not_known_is_refused(function, name):
    query, key, value = torch.randn(3, 1, 4, 10, 8).unbind()
    with pytest.raises(ModelError, match=f"Module: attention with {name} is not read here"):
        function(torch.nn.Module(), query, key, value, None, **{name: torch.ones(1)})
    plain = function(torch.nn.Module(), query, key, value, None)[0]
    assert torch.equal(function(torch.nn.Module(), query, key, value, None, **{name: None})[0], plain)


def test_keywords_that_change_nothing_are_let_through():
    query, key, value = torch.randn(3, 1, 4, 10, 8).unbind()
    more = {
        "dropout": 0.0,
        "is_causal": True,
        "sliding_window": 24,
        "position_ids": torch.arange(10)[None],
        "use_cache": False,
    }
    more |= {
        "cache_position": torch.arange(10),
        "num_items_in_batch": torch.tensor(3),
        "output_attentions": False,
    }
    plain = attention._attention(torch.nn.Module(), query, key, value, None)[0]
    assert torch.equal(attention._attention(torch.nn.Module(), query, key, value, None, **more)[0], plain)


def test_a_view_ahead_is_refused_however_it_is_asked_for():
    query, key, value = torch.randn(3, 1, 4, 10, 8).unbind()
    encoder = torch.nn.Module()
    encoder.is_causal = False
    for module, more in ((encoder, {}), (torch.nn.Module(), {"is_causal": False})):
        with pytest.raises(ModelError, match="attention with a view ahead is not read here"):
            attention._attention(module, query, key, value, None, **more)


def test_patterns_other_than_a_window_keep_the_librarys_mask():
    """Chunked attention also has a local size; a row after a chunk's border sees itself only."""
    from transformers.masking_utils import chunked_causal_mask_function, sliding_window_causal_mask_function

    common = {
        "batch_size": 1,
        "q_length": 40,
        "kv_length": 40,
        "attention_mask": torch.ones(1, 40, dtype=torch.bool),
    }
    window_function = sliding_window_causal_mask_function(16)
    assert attention._mask(mask_function=window_function, local_size=16, **common) == attention.Window(16)
    chunked = chunked_causal_mask_function(16, torch.zeros(1, dtype=torch.long))
    assert attention._mask(mask_function=chunked, local_size=16, **common).shape == (1, 1, 40, 40)
    padded = common | {"attention_mask": torch.arange(40)[None] > 3}
    assert attention._mask(mask_function=window_function, local_size=16, **padded).shape == (1, 1, 40, 40)


def test_batches_of_one_model_agree_with_its_eager_copy_in_bfloat16(encoded):
    """Half precision is not exact, but rows and windows must not be further from fp32 than eager attention is."""
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
