"""Profiles resolve and refuse what they do not know."""

from __future__ import annotations

import dataclasses

import pytest

from gateau_lib.study import registry
from gateau_lib.study.profiles import PROFILES, Profile, resolve

VARIANTS = [*PROFILES, *(f"gpu+{pair}" for pair in registry.pairs())]
REHEARSALS = [f"rehearse-{name}" for name in VARIANTS if name not in ("smoke", "cpu")]


@pytest.mark.parametrize("name", [*VARIANTS, *REHEARSALS])
def test_every_profile_resolves_with_consistent_sizes(name):
    profile = resolve(name)
    assert profile.name == name
    assert all(value is not None for _, value, _ in profile.describe())
    assert profile.short_window < profile.long_window and profile.max_length <= profile.long_window
    assert profile.pool_tokens[0] < profile.pool_tokens[1] <= profile.max_length
    assert profile.hidden_size % profile.heads == 0 and 0 < profile.fraction < 1 and 0 <= profile.alpha <= 1
    assert len(profile.alphas) == len(profile.short_samples)


def test_what_varies_a_profile_is_told_by_fields():
    paired = resolve("gpu+granite-2b")
    assert (paired.base, paired.pair, paired.rehearsed, paired.needs_gpu, paired.from_hub) == (
        "gpu",
        "granite-2b",
        False,
        True,
        True,
    )
    rehearsed = resolve("rehearse-gpu+granite-2b")
    assert (rehearsed.base, rehearsed.pair, rehearsed.rehearsed) == ("gpu", "granite-2b", True)
    assert not rehearsed.needs_gpu and rehearsed.from_hub
    assert [name for name in PROFILES if resolve(name).needs_gpu] == ["gpu", "paper"]
    assert [name for name in PROFILES if resolve(name).from_hub] == ["paper"]


def test_a_rehearsal_runs_every_stage_of_its_profile_at_tiny_sizes():
    real, tiny = resolve("paper"), resolve("rehearse-paper")
    stages = (
        "short_model",
        "long_model",
        "long_data",
        "short_data",
        "tuning",
        "template",
        "benchmarks",
        "epochs",
    )
    assert [getattr(tiny, name) for name in stages] == [getattr(real, name) for name in stages]
    assert (tiny.processes, tiny.long_samples, tiny.long_window) == (2, 24, resolve("smoke").long_window)
    assert resolve("rehearse-gpu").short_stages == resolve("smoke").short_stages


def test_paper_values_have_their_source():
    sourced = {f for f, _, source in resolve("paper").describe() if source}
    assert {
        "short_model",
        "long_model",
        "short_window",
        "long_window",
        "segment_length",
        "max_length",
        "alpha",
    } <= sourced


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cpuu", {}, "unknown profile 'cpuu': choose one of smoke, cpu, gpu, paper, gpu\\+PAIR"),
        ("rehearse-", {}, "unknown profile 'rehearse-': choose one of"),
        ("rehearse-cpu", {}, "profile 'cpu' needs no rehearsal: run it"),
        ("paper+granite-2b", {}, "only make gpu takes PAIR: make gpu PAIR=llama-2-7b, "),
        ("gpu+nothing", {}, "unknown pair 'nothing': the registry has llama-2-7b, "),
        ("cpu", {"layer": 3}, "unknown profile field 'layer': choose one of short_model, "),
        ("cpu", {"base": "paper"}, "unknown profile field 'base': choose one of"),
        ("cpu", {"name": "mine"}, "unknown profile field 'name': choose one of"),
        ("cpu", {"layers": "3"}, "profile field 'layers' takes int, got '3'"),
        ("cpu", {"alpha": "high"}, "profile field 'alpha' takes float"),
    ],
)
def test_bad_profiles_are_one_line(name, overrides, message):
    with pytest.raises(ValueError, match="^" + message) as caught:
        resolve(name, **overrides)
    assert "\n" not in str(caught.value)


def test_overrides_replace_only_what_they_name():
    changed = resolve("cpu", layers=5, alpha=1)
    same = [
        f.name
        for f in dataclasses.fields(Profile)
        if getattr(changed, f.name) == getattr(resolve("cpu"), f.name)
    ]
    assert {f.name for f in dataclasses.fields(Profile)} - set(same) == {"layers", "alpha"}
