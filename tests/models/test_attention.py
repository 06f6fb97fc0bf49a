"""Attention in rows and windows: no square matrix, and no layer read in another way than the model means."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from families import build
from reference.cam import slow_attention
from tiny import VOCABULARY, random_encoded
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gateau_lib.data import sharded
from gateau_lib.data.samples import Sample
from gateau_lib.methods import METHODS, SCORED, model_passes, released
from gateau_lib.methods.base import Options
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models import attention
from gateau_lib.models.pair import Pair
from gateau_lib.scoring import part_files
from gateau_lib.study.errors import ModelError

SEGMENT = 16


def test_no_square_matrix_is_built(monkeypatch):
    """Neither a mask nor weights of N x N elements, in a layer with a window,
    with capped scores, or plain."""
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


def test_a_sink_is_one_more_key_without_a_value():
    """By hand: three keys of equal scores and a sink of the score log 3, so half of the weight is left."""
    query = torch.zeros(1, 2, 3, 4)
    sinks, value = torch.tensor([math.log(3.0), -1e9]), torch.arange(24.0).reshape(1, 2, 3, 4)
    layer = attention.Layer(query, query, 1.0, None, None, None, sinks=sinks)
    _, weights = layer.weights(0, 2, 3)
    torch.testing.assert_close(weights, torch.tensor([[[1 / 6] * 3], [[1 / 3] * 3]]))
    output = attention._attention(torch.nn.Module(), query, query, value, None, scaling=1.0, s_aux=sinks)[0]
    mean = value[0].mean(1)  # of the three values
    torch.testing.assert_close(output[0, 2], torch.stack([mean[0] / 2, mean[1]]))


def test_sinks_are_read_from_whole_sequences():
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 4, 10, 8)
    with pytest.raises(ModelError, match="3 queries on 10 keys; rows are read from whole sequences"):
        attention._attention(torch.nn.Module(), query, key, key, None, s_aux=torch.zeros(4))
    with pytest.raises(ModelError, match="3 queries on 10 keys"):  # whose places nothing tells
        attention._attention(torch.nn.Module(), query, key, key, None)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_a_mask_of_numbers_is_added_to_the_scores(bias):
    """Zeros and the dtype's minimum hide as True and False do; a learned bias (Doge) is more than that."""
    query, key = torch.randn(2, 1, 4, 10, 8).unbind()
    seen = torch.ones(10, 10, dtype=torch.bool).tril().view(1, 1, 10, 10)
    added = torch.where(seen, bias * torch.randn(1, 4, 10, 10), torch.finfo(torch.float32).min)
    _, got = attention.Layer(query, key, 0.3, added, None, None).weights(0, 4, 10)
    want = (query @ key.transpose(2, 3) * 0.3 + added).softmax(-1)[0, :, 4:]
    torch.testing.assert_close(got, want)
    _, plain = attention.Layer(query, key, 0.3, seen, None, None).weights(0, 4, 10)
    assert torch.equal(got, plain) == (bias == 0)


def test_a_window_is_sliced_whole_or_not_at_all():
    """Gemma 4 with shared keys takes all rows out of every mask where all logits are wanted."""
    window = attention.Window(16)
    assert window[:, :, slice(0, None), :] is window
    with pytest.raises(ModelError, match="a part of a sliding window's rows is not read"):
        window[:, :, slice(-1, None), :]


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
    """A model that chooses for each token which keys it sees,
    and masks the others for eager and sdpa attention only."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CONFIG_MAPPING[kind](
        **sizes, **tokens, **SPARSE, num_key_value_heads=4, max_position_embeddings=256
    )
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa"])
@pytest.mark.parametrize("method", [name for name in SCORED if METHODS[name].passes])
def test_a_choice_of_keys_is_refused(kind, method, tokenizer):
    """Every method that asks a model reads it by the registered attention,
    which would compute all keys and say nothing."""
    item = sharded.Item(
        "a", Sample("a", "A key lies under the mill. " * 3, "Where is it?", "Under the mill.")
    )
    options = Options((method,), "truncate", SEGMENT, 200, 200, prolong_pairs=3)
    with pytest.raises(ModelError, match="attention with indices is not read here") as error:
        part_files.score_items(
            [item], Pair(sparse(kind), sparse(kind), tokenizer), options, [METHODS[method]]
        )
    assert "\n" not in str(error.value)


def test_the_released_code_refuses_a_choice_of_keys_too(tokenizer):
    model, sample = sparse("deepseek_v32"), random_encoded("a", 48, 5, 4, seed=1)
    with pytest.raises(ModelError, match="layers of indexed_attention, which the released code"):
        released.released_cam(Pair(model, model, tokenizer), [sample], 64, SEGMENT)
    assert model.config._attn_implementation == "sdpa"


UNREAD = ("indices", "block_indices", "sinks", "position_bias", "a_keyword_of_next_year")


@pytest.mark.parametrize("name", UNREAD)
def test_a_keyword_that_is_not_known_is_refused(name):
    function = attention._attention
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
