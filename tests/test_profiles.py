"""Profiles resolve and refuse what they do not know; plans add up and say in one line what a machine lacks."""

from __future__ import annotations

import dataclasses

import pytest

from gateau_lib import corpus, hmg, plan, run, skipalign
from gateau_lib.models import build_llama
from gateau_lib.profiles import PROFILES, Profile, resolve


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


# Plans -------------------------------------------------------------------------------------------------------------------


def test_plan_counts_what_the_library_has():
    assert (plan.KINDS, plan.READINGS, plan.STRATEGIES) == (len(corpus.KINDS), len(hmg.READINGS), len(skipalign.STRATEGIES))


def test_parameters_are_those_of_the_model_that_is_built():
    profile = resolve("cpu")
    shape = plan.size(profile)
    sizes = {"hidden_size": profile.hidden_size, "layers": profile.layers, "heads": profile.heads}
    model = build_llama(shape.vocabulary, **sizes, window=256, rope_theta=1e3, seed=0)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert plan.LLAMA_2_7B.parameters == 6_738_415_616


def test_forward_operations_by_hand():
    one = plan.Size(layers=1, hidden=2, mlp=3, vocabulary=5, tied=True)
    assert one.parameters == 4 * 4 + 3 * 6 + 3 * 2 + 10 == 50
    assert one.forward(10, 7) == 10 * (100 + 2 * 2 * 7)


@pytest.mark.parametrize("name", ["gpu", "paper"])
def test_plan_names_models_data_tokens_operations_and_memory(name):
    text = plan.describe(resolve(name))
    for word in ("models", "data", "tokens", "operations", "memory", resolve(name).short_model):
        assert word in text
    parts = plan.work(resolve(name))
    assert all(part.tokens > 0 and part.operations > 0 for part in parts)


def no_gpu(monkeypatch, memory=()):
    monkeypatch.setattr(plan, "gpu_memory", lambda: list(memory))
    monkeypatch.setattr(plan, "available", lambda name: False)


@pytest.mark.parametrize("name", ["smoke", "cpu"])
def test_small_profiles_need_nothing(name, monkeypatch):
    no_gpu(monkeypatch)
    assert plan.missing(resolve(name)) == []


def test_missing_gpu_and_hub_stop_the_run_in_one_line(monkeypatch, capsys, tmp_path):
    no_gpu(monkeypatch)
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    assert run.main(["paper"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: profile paper cannot run here: no NVIDIA GPU is visible")
    assert "NousResearch/Llama-2-7b-hf is not in the cache and the hub does not answer" in last


def test_too_little_gpu_memory_and_a_cpu_build_are_named(monkeypatch):
    no_gpu(monkeypatch, memory=[8 * 2**30])
    monkeypatch.setattr(plan, "version", lambda name: "2.13.0+cpu")
    build, memory, *hub = plan.missing(resolve("paper"))
    assert "torch is the CPU build" in build and "GB of GPU memory needed, 8 GB here" in memory and len(hub) == 2
    no_gpu(monkeypatch, memory=[80 * 2**30])
    monkeypatch.setattr(plan, "version", lambda name: "2.13.0")
    assert plan.missing(resolve("gpu")) == []


def test_plan_only_prints(monkeypatch, capsys, tmp_path):
    no_gpu(monkeypatch)
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    assert run.main(["gpu", "--plan"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("plan of profile gpu") and "  missing  no NVIDIA GPU" in said
