"""The registry: complete, consistent with itself, and honest about where its facts come from."""

from __future__ import annotations

import re

import pytest

from gateau_lib.study import registry
from gateau_lib.study.profiles import PROFILES

PAIRS = list(registry.pairs().values())
MODELS = list(registry.models().values())
DATA = list(registry.data_sets().values())
COMMIT = re.compile(r"[0-9a-f]{40}")


def test_it_has_the_published_a_current_and_a_small_pair():
    assert {"llama-2-7b", "llama-3-8b", "granite-2b"} <= set(registry.pairs())
    published, paper = registry.pairs()["llama-2-7b"], PROFILES["paper"]
    assert (published.short.repo, published.long.repo) == (paper.short_model, paper.long_model)
    assert (published.short.window, published.long.window) == (paper.short_window, paper.long_window)
    assert published.long.rope_theta == paper.long_rope_factor * published.short.rope_theta
    small = registry.pairs()["granite-2b"]
    assert (
        2 * (small.short.parameters + small.long.parameters) < 12 * 2**30
    )  # both in 16 bits beside activations, in 24 GB


def test_it_has_every_data_set_that_a_profile_names():
    assert {entry.kind for entry in DATA} == {
        "long",
        "short",
        "longbench",
        "longbench-chat",
        "mt-bench",
        "haystack",
    }
    for profile in PROFILES.values():
        for key, kind in ((profile.long_data, "long"), (profile.short_data, "short")):
            assert not key or registry.data_sets()[key].kind == kind


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_pair_is_of_one_family_with_two_windows(pair):
    short, long = pair.short, pair.long
    assert long.window > short.window and short.repo != long.repo and pair.note
    for fact in ("layers", "hidden", "mlp", "heads", "kv_heads", "tied"):
        assert getattr(short, fact) == getattr(long, fact), fact
    assert short.rope_type in ("default", None)  # else it could not be stretched by a fixed base
    assert None in (short.rope_theta, long.rope_theta) or long.rope_theta > short.rope_theta


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.repo)
def test_sizes_of_every_model_are_known(model):
    sizes = (
        model.parameters,
        model.layers,
        model.hidden,
        model.mlp,
        model.heads,
        model.kv_heads,
        model.vocabulary,
    )
    assert all(isinstance(size, int) for size in sizes) and isinstance(model.tied, bool)
    assert model.weights in ("safetensors", "pickle")


@pytest.mark.parametrize("entry", [*MODELS, *DATA], ids=lambda entry: entry.repo)
def test_every_fact_has_a_source_and_every_revision_is_a_commit(entry):
    assert entry.repo.count("/") == 1
    assert "/" in entry.source  # a repository's path or a page
    assert entry.revision is None or COMMIT.fullmatch(entry.revision)
    assert "\n" not in entry.source


def test_repositories_and_files_are_named_once():
    assert len(MODELS) == 2 * len(PAIRS)
    assert len({(entry.repo, entry.host) for entry in DATA}) == len(DATA)
    assert all(entry.files for entry in DATA)
