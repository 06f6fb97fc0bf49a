"""Profiles resolve and refuse what they do not know."""

from __future__ import annotations

import dataclasses

import pytest

from gateau_lib.study.profiles import PROFILES, Profile, resolve


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_resolves_with_units_and_consistent_sizes(name):
    profile = resolve(name)
    assert profile.name == name
    for field, value, unit, _ in profile.describe():
        assert unit or field == "name", f"{field} has no unit"
        assert value is not None
    assert profile.short_window < profile.long_window and profile.max_length <= profile.long_window
    assert profile.pool_tokens[0] < profile.pool_tokens[1] <= profile.max_length
    assert profile.hidden_size % profile.heads == 0 and 0 < profile.fraction < 1 and 0 <= profile.alpha <= 1


def test_paper_values_have_their_source():
    sourced = {f for f, _, _, source in resolve("paper").describe() if source}
    assert {"short_model", "long_model", "short_window", "long_window", "segment_length", "max_length", "alpha"} <= sourced


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cpuu", {}, "unknown profile 'cpuu': choose one of smoke, cpu, gpu, paper"),
        ("cpu", {"layer": 3}, "unknown profile field 'layer': choose one of"),
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
    same = [f.name for f in dataclasses.fields(Profile) if getattr(changed, f.name) == getattr(resolve("cpu"), f.name)]
    assert set(f.name for f in dataclasses.fields(Profile)) - set(same) == {"layers", "alpha"}
