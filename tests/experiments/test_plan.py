"""Plans add up, and agree with what was counted and measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gateau_lib import run
from gateau_lib.data import tokenizer as tokenizers
from gateau_lib.evaluation import haystack
from gateau_lib.experiments import plan, pool, replication, study_corpus, workload
from gateau_lib.models.tiny import build_llama
from gateau_lib.study import store
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.profiles import resolve

TABLES = PACKAGE.parent / "results" / "cpu" / "tables"
SMALL = {"pool_per_kind": 2, "pool_seeds": 1, "short_pool": 1, "eval_items": 1, "eval_lengths": (256,)}


def test_a_scratch_model_is_counted_as_it_is_built():
    profile = resolve("cpu")
    shape = {"hidden_size": profile.hidden_size, "layers": profile.layers, "heads": profile.heads}
    vocabulary = len(tokenizers.build_tokenizer())
    model = build_llama(vocabulary, **shape, window=profile.long_window, rope_theta=1e3, seed=0)
    assert workload.pair(profile)[1].parameters == sum(p.numel() for p in model.parameters())


# Against what was counted -----------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[store.Study, dict[str, int]]:
    """A study with small pools, and tokens that scoring them with tiny untrained models took."""
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    study = store.open_study("smoke", 0, **SMALL)
    data, pair, tokenizer = (
        study_corpus.prepared(study),
        tmp_path / "pair",
        study_corpus.load_tokenizer(study),
    )
    for name in ("short", "long"):
        model = build_llama(
            len(tokenizer), hidden_size=32, layers=1, heads=4, window=256, rope_theta=1e3, seed=0
        )
        model.save_pretrained(pair / name)
        tokenizer.save_pretrained(pair / name)
    planted = pool.scored(study, pair, data, ["independent"], list(pool.PARTS)).attrs["count"]
    real = pool.scored(study, pair, data, ["real"], ["homologous"]).attrs["count"]
    documents = pool.scored_documents(study, pair, data).attrs["count"]
    return study, {
        "HMG and its relatives": planted["homologous"]["tokens"] + real["homologous"]["tokens"],
        "CAM": planted["awareness"]["tokens"],
        "ProLong": planted["dependencies"]["tokens"] + documents["documents"]["tokens"],
        "the other selectors": planted["others"]["tokens"],
    }


def test_tokens_of_scoring_agree_with_those_that_models_read(scored):
    study, counted = scored
    planned = {part.what: part.tokens for part in pool.cost(study.profile)}
    assert set(planned) == set(counted)
    for what, tokens in counted.items():
        assert 0.8 < planned[what] / tokens < 1.25, f"{what}: planned {planned[what]:,.0f}, read {tokens:,}"


def test_training_and_evaluation_agree_with_the_recorded_study():
    runs, held_out = pd.read_csv(TABLES / "07_runs.csv"), pd.read_csv(TABLES / "01_data_card.csv")
    long, needle, short = (
        held_out.set_index("set")["tokens"][f"eval/{name}"] for name in ("long", "needle", "short")
    )
    profile = resolve("cpu")
    seeds, count = profile.pool_seeds, runs.groupby("experiment").size()
    recorded = runs.groupby("experiment")[["tokens", "steps"]].sum()
    planned = {part.what: part for part in plan.work(profile)}
    selection, skipping = planned["fine-tune on selections"], planned["SkipAlign, its rivals"]
    tuned = recorded.drop("selection").sum()  # from both short models
    # The long model too; on the needles also both short models, as they were and raised, and those tuned on
    # GATEAU's selection.
    models = len(runs) - count["selection"] + 4
    texts = (
        profile.eval_items // 2 * sum(profile.eval_lengths) + 4 * profile.eval_items * profile.short_window
    )
    ratios = [
        selection.tokens / recorded["tokens"]["selection"],
        selection.steps / recorded["steps"]["selection"],
        skipping.tokens / tuned["tokens"],
        skipping.steps / tuned["steps"],
        planned["evaluate"].tokens / ((count["selection"] + 1) * (long + short)),
        planned["evaluate skipping"].tokens / ((models + 1 + seeds) * (needle + short) + models * texts),
    ]
    assert all(0.8 < ratio < 1.25 for ratio in ratios), ratios


def test_hours_of_the_published_training_agree_with_what_its_authors_report():
    """LongAlign, figure 5: 23.3 hours on 8 x A800, Llama-2-7B, sorted batching, all samples and ShareGPT."""
    profile = resolve("paper")
    cost = replication.tuning_cost(profile, [(80_000, 10_000)])
    hours = plan.hours(cost, workload.pair(profile)[1]) / 8
    assert 23.3 / 1.5 < hours < 23.3 * 1.5


def test_needle_items_are_as_many_as_the_benchmark_makes(tokenizer):
    profile = resolve("paper", eval_lengths=(400,))
    text = "The sun rose over the hills. A dog barked. " * 9
    made = haystack.items([text], tokenizer, (400,), haystack.DEPTHS, seed=0)
    ((count, length, _),) = haystack.BENCHMARK.cost(profile)
    assert (count, length) == (len(made), 400)


def test_a_step_of_adapters_or_with_checkpoints_is_so_many_passes():
    steps = {
        name: workload.passes_a_step(resolve(*name)) for name in (("gpu",), ("paper",), ("gpu+granite-2b",))
    }
    assert steps == {("gpu",): 3, ("paper",): 4, ("gpu+granite-2b",): 3}


# As text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu", "paper"])
def test_plan_names_models_data_steps_hours_memory_and_disk(name, machine):
    machine(80, 80)
    text = plan.describe(resolve(name))
    words = "models, data, training, steps, tokens, operations, GPU-hours, the 2 GPU(s) here, memory, disk"
    assert all(word in text for word in words.split(", "))
    assert resolve(name).long_model in text
    assert all(part.tokens > 0 and part.operations > 0 for part in plan.work(resolve(name)))


@pytest.mark.parametrize("ray", [True, False])
def test_parts_that_one_gpu_does_are_not_divided(ray, machine, monkeypatch):
    machine(*[80] * 8)
    for module in (plan, replication):
        monkeypatch.setattr(module, "find_spec", lambda name: ray)
    profile = resolve("paper")
    hours = {part.what: plan.hours(part, workload.pair(profile)[1]) for part in plan.work(profile)}
    alone = {"recall of the pair", "short-tasks"} | (set() if ray else {"score the long samples"})
    expected = sum(hour if what in alone else hour / 8 for what, hour in hours.items())
    text = plan.describe(profile)
    assert f"{expected:,.1f} hours on the 8 GPU(s) here" in text
    note = (
        "the published long samples are scored on one of the 8 GPUs: Ray is not installed (pip install ray)"
    )
    assert (note in text) != ray
    machine(80)
    assert "Ray" not in plan.describe(profile)


def test_benchmarks_that_will_not_run_are_a_note(machine):
    machine(*[80] * 8, online=False)
    said = "\n".join(plan.notes(resolve("paper")))
    assert "longbench will be reported as not run" in said and "need a judge" in said


def test_plan_only_prints(machine, capsys, tmp_path):
    machine()
    assert run.main(["gpu", "--plan"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("plan of profile gpu") and "  missing  no NVIDIA GPU" in said
    assert not list((tmp_path / "results" / "gpu" / "cache").iterdir())
