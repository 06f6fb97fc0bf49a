"""Models are stretched without hidden state: the traps of RoPE in transformers, closed one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES, build
from reference.nll import slow_nll
from tiny import IDS, VOCABULARY, built, eager, logits, random_encoded, random_llama

from gateau_lib.methods import model_passes
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models.loading import load
from gateau_lib.models.nll import plan_batches
from gateau_lib.models.rope import extend_window, ntk_theta, rope_edge, rope_theta, window, with_rope_theta
from gateau_lib.study.errors import ModelError

SEGMENT = 16


def test_twin_shares_every_weight(llama):
    twin = with_rope_theta(llama, 50_000.0, window=512)
    mine, its = dict(llama.named_parameters()), dict(twin.named_parameters())
    assert mine.keys() == its.keys()
    assert all(mine[name].data_ptr() == its[name].data_ptr() for name in mine)
    assert twin.lm_head.weight.data_ptr() == llama.lm_head.weight.data_ptr()
    assert not any(p.is_meta for p in (*twin.parameters(), *twin.buffers()))
    assert (twin.config.max_position_embeddings, llama.config.max_position_embeddings) == (512, 128)
    assert twin.training == llama.training


def test_twin_with_the_same_base_is_equal_and_with_another_it_is_not(llama):
    assert torch.equal(logits(with_rope_theta(llama, rope_theta(llama))), logits(llama))
    assert not torch.allclose(logits(with_rope_theta(llama, 50_000.0)), logits(llama), atol=1e-2)
    assert rope_theta(llama) == 1000.0


def test_twin_equals_a_model_built_with_that_base(llama):
    """The base really reaches the rotary embedding; editing ``config`` after construction
    would do nothing."""
    reference = built(50_000.0)
    reference.load_state_dict(llama.state_dict())
    torch.testing.assert_close(
        logits(with_rope_theta(llama, 50_000.0)), logits(eager(reference)), atol=1e-4, rtol=1e-4
    )


def test_base_survives_saving(llama, saved_pair):
    short, long = (load(folder)[0] for folder in saved_pair)
    assert (rope_theta(short), rope_theta(long)) == (1000.0, 20_000.0)
    assert long.config.max_position_embeddings == 1024
    assert torch.equal(logits(short), logits(llama))
    torch.testing.assert_close(logits(long), logits(with_rope_theta(llama, 20_000.0)))


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_stretched_reading_has_no_memory(kv_heads):
    model = random_llama(kv_heads)
    stretched = extend_window(model, 512)
    short_before, plain = logits(stretched, IDS[:, :50]), logits(model)
    longer = torch.arange(400).remainder(VOCABULARY - 3).add(3).unsqueeze(0)
    alone = logits(stretched, longer)
    assert torch.equal(logits(stretched, IDS[:, :50]), short_before), "what was read before changes a sample"
    assert torch.equal(logits(stretched, longer), alone)
    batch = torch.cat([longer, torch.nn.functional.pad(IDS, (0, 300))])
    torch.testing.assert_close(logits(stretched, batch)[0], alone[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(stretched, batch)[1, :50], short_before[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(model), plain), "the model itself was changed"


def test_stretching_is_the_ntk_base(llama):
    stretched = extend_window(llama, 1024)
    head_dim = llama.config.hidden_size // llama.config.num_attention_heads
    assert rope_theta(stretched) == pytest.approx(1000.0 * 8 ** (head_dim / (head_dim - 2)))
    assert stretched.config.max_position_embeddings == 1024
    assert extend_window(llama, 128) is llama and extend_window(llama, 64) is llama
    # NTK-aware scaling: the slowest frequency is interpolated by the whole factor, the fastest is left alone.
    slow, fast = (stretched.model.rotary_emb.inv_freq / llama.model.rotary_emb.inv_freq)[[-1, 0]]
    assert slow.item() == pytest.approx(1 / 8, rel=1e-4) and fast.item() == 1.0
    assert ntk_theta(1000.0, 1.0, head_dim) == 1000.0


def test_half_precision_keeps_positions_exact(saved_pair):
    """Converting with ``.to(bfloat16)`` would round the frequencies; loading in that precision does not."""
    full, half = load(saved_pair[0])[0], load(saved_pair[0], "bfloat16")[0]
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    for model in (half, with_rope_theta(half, rope_theta(half))):
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
        assert torch.equal(model.model.rotary_emb.inv_freq, full.model.rotary_emb.inv_freq)


@pytest.mark.parametrize("name", FAMILIES)
def test_window_is_stretched_in_every_family(name, encoded):
    """Stretched weights are shared, what no state dict holds is there,
    and the base reaches the layers that need it."""
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
