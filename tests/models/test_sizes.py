"""Sizes are those of the models that are built, from the registry, a formula or a configuration."""

from __future__ import annotations

import pytest

from gateau_lib.models import loading, sizes
from gateau_lib.models.tiny import build_llama
from gateau_lib.study import registry
from gateau_lib.study.errors import ModelError


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_a_size_counts_the_model_that_is_built(kv_heads):
    shape = {"hidden_size": 64, "layers": 2, "heads": 4, "window": 128, "rope_theta": 1e3, "seed": 0}
    model = build_llama(100, **shape, kv_heads=kv_heads)
    size = sizes.of_config(model.config)
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.cache == 2 * 2 * (kv_heads or 4) * 16 and size.mlp == 192 and size.head == 100 * 64


@pytest.mark.parametrize("name", registry.pairs())
def test_parameters_of_the_registry_follow_from_its_sizes(name):
    pair = registry.pairs()[name]
    for entry in (pair.short, pair.long):
        size = sizes.of(entry.repo)
        assert (size.parameters, size.window) == (entry.parameters, entry.window)


def test_published_sizes():
    short, long = (sizes.of(name) for name in ("NousResearch/Llama-2-7b-hf", "THUDM/LongAlign-7B-64k-base"))
    assert short.parameters == 6_738_415_616  # Llama-2-7B, as its authors count it
    assert long.parameters == short.parameters + 2 * 256 * 4096  # LongAlign's table has 32,256 rows


def test_a_folder_is_read_by_its_configuration(saved_pair):
    model, _ = loading.load(saved_pair[1])
    size = sizes.of(str(saved_pair[1]))
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert (size.window, size.vocabulary) == (model.config.max_position_embeddings, model.config.vocab_size)


def test_operations_by_hand():
    size = sizes.of("NousResearch/Llama-2-7b-hf")
    n, attention = 1000, 4 * size.layers * size.hidden
    assert size.flops(n, 0) == 2 * size.linear * n + attention * n * (n + 1) / 2
    assert size.flops(n, 10) - size.flops(n, 0) == 10 * 2 * 32_000 * 4096
    assert size.flops(n, 0, before=7) - size.flops(n, 0) == attention * 7 * n


def test_an_unknown_model_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="size unknown, no configuration to read") as caught:
        sizes.of(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)
