"""Arms of the selection experiment: what each takes of a pool, its run, and its metrics rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gateau_lib.data.kinds import KINDS, NEEDS_FAR, NOISE
from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import Sample
from gateau_lib.experiments import outcomes, ranking, selection_runs, tuning_runs
from gateau_lib.experiments.selection_runs import DRAWS, Arm
from gateau_lib.methods import METHODS
from gateau_lib.methods.base import READINGS
from gateau_lib.study import workers
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import resolve
from gateau_lib.study.store import open_study
from gateau_lib.training import fine_tuning

SIZES = {"pool_seeds": 2, "sft_tokens": 3000, "sft_batch_tokens": 600, "long_window": 512, "workers": 0}
PROFILE = resolve("cpu")
ARMS = selection_runs.arms(PROFILE)
NLLS = ("long", "long_truncate", "alone", *(f"short_{reading}" for reading in READINGS))


def pool_table(per_kind: int = 8, seed: int = 0) -> pd.DataFrame:
    """A scored pool with random scores: columns of all parts, of every method beside them too."""
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in KINDS for _ in range(per_kind)]
    table = pd.DataFrame({"pool": "independent", "seed": 0, "kind": kinds})
    table["id"] = [f"independent-0-{kind}-{i % per_kind:03d}" for i, kind in enumerate(kinds)]
    table["needs_far"] = table["kind"].isin(NEEDS_FAR)
    table["n_tokens"] = rng.integers(600, 1900, len(table))
    nll = {f"nll_{name}": rng.uniform(0.1, 4, len(table)) for name in NLLS}
    scores = {name: rng.random(len(table)) for name in ("cam_default", "prolong")}
    others = {column: rng.random(len(table)) for name in ranking.OTHERS for column in METHODS[name].needs}
    return table.assign(**others | nll | scores)


@pytest.fixture(scope="module")
def table():
    return pool_table()


@pytest.fixture(scope="module")
def chosen(table):
    return selection_runs.choices(table, PROFILE, 0)


# What is run ------------------------------------------------------------------------------------------------


def test_the_arms_are_those_of_the_experiment():
    found = pd.DataFrame([(arm.condition, arm.selector) for arm in ARMS], columns=["condition", "selector"])
    counts = found.groupby("condition", sort=False).size().to_dict()
    rivals = len(selection_runs.FREE)
    assert counts == {
        "scarce_30": 14 + rivals, "scarce_10": 7, "scarce_50": 7, "plenty_30": 5, "scarce_30_epochs": 3
    }  # fmt: skip
    assert not found.duplicated().any() and ("zlib_contrast" in METHODS) == (rivals == 1)
    main = set(found["selector"][found["condition"] == "scarce_30"])
    assert set(found["selector"]) == main >= {"oracle", "near", "short_only", "ifd", "contrast"}
    assert len(selection_runs.run_names(resolve("cpu", pool_seeds=2))) == 2 * len(ARMS)


def test_another_share_has_conditions_of_its_own():
    conditions = {arm.condition for arm in selection_runs.arms(resolve("cpu", fraction=0.1))}
    assert conditions == {"scarce_10", "scarce_30", "scarce_50", "plenty_10", "scarce_10_epochs"}


# What an arm takes ------------------------------------------------------------------------------------------


def test_arms_of_a_share_take_equally_many(table, chosen):
    assert set(chosen) == {arm.name for arm in ARMS}
    near = int((~table["needs_far"] & ~table["kind"].isin(NOISE)).sum())
    for arm in ARMS:
        size = {"short_only": 0, "full": len(table)}.get(arm.selector, int(np.ceil(arm.share * len(table))))
        ids = chosen[arm.name]
        assert len(set(ids)) == len(ids) == (min(size, near) if arm.selector == "near" else size)
        assert set(ids) <= set(table["id"])


def test_labels_decide_what_oracle_and_near_draw_from(table, chosen):
    kind = table.set_index("id")["kind"]
    assert set(kind[chosen["scarce_30-oracle"]]) <= NEEDS_FAR
    assert set(kind[chosen["scarce_30-near"]]) == set(KINDS) - NEEDS_FAR - NOISE
    # Where more are wanted than need far evidence, what is honest comes before noise.
    half = pd.Series(kind[selection_runs._chosen(table, "oracle", 0.5, 0)])
    assert half.isin(NEEDS_FAR).sum() == table["needs_far"].sum() and not half.isin(NOISE).any()


@pytest.mark.parametrize("selector", ["random", "gateau", "hmg", "cam", "perplexity", "ifd", "prolong"])
def test_a_larger_share_holds_the_smaller_one(chosen, selector):
    small, middle, large = (chosen[f"scarce_{share}-{selector}"] for share in (10, 30, 50))
    assert middle[: len(small)] == small and large[: len(middle)] == middle


@pytest.mark.parametrize("selector", DRAWS)
def test_a_larger_draw_holds_the_smaller_one(table, selector):
    small, middle, large = (selection_runs._chosen(table, selector, share, 0) for share in (0.1, 0.3, 0.5))
    assert middle[: len(small)] == small and large[: len(middle)] == middle


def test_draws_differ_by_selector_and_seed_and_not_by_order(table, chosen):
    again = selection_runs.choices(table.sample(frac=1, random_state=0), PROFILE, 0)
    assert {name: set(ids) for name, ids in again.items()} == {name: set(ids) for name, ids in chosen.items()}
    other = selection_runs.choices(table, PROFILE, 1)
    drawn = [each[f"scarce_30-{name}"] for each in (chosen, other) for name in ("random", "oracle")]
    assert len({tuple(ids) for ids in drawn}) == 4 and len(set(DRAWS.values())) == len(DRAWS) < 10
    assert all(chosen[name] == other[name] for name in chosen if name.endswith(("-gateau", "-ifd", "-cam")))


def test_scores_choose_by_their_own_direction(table, chosen):
    by_id = table.set_index("id")
    count = len(chosen["scarce_30-cam"])
    contrast = by_id["nll_long_truncate"] - by_id["nll_long"]
    for name, score in {
        "perplexity": by_id["nll_long"],
        "cam": by_id["cam_default"],
        "contrast": contrast,
        "longest": by_id["n_tokens"],
        "prolong": by_id["prolong"],
    }.items():
        best = score.sort_values(ascending=False)
        assert score[chosen[f"scarce_30-{name}"]].tolist() == best[:count].tolist()
    ratio = (by_id["nll_long"] / by_id["nll_alone"])[chosen["scarce_30-ifd"]]
    assert (ratio <= 1).all() and (ratio.diff()[1:] <= 0).all()


def test_gateau_weighs_its_parts_by_the_setting(table, chosen):
    """By hand: ranks of HMP and CAM, 0.7 to 0.3 where short samples are scarce, 0.8 to 0.2 where plenty."""
    scores = ranking.combined(ranking.guidance(table), 0.5)
    for setting, alpha in (("scarce", 0.7), ("plenty", 0.8)):
        ranks = alpha * scores["hmp"].rank() + (1 - alpha) * scores["cam_default"].rank()
        best = ranks.set_axis(scores["id"]).sort_values(ascending=False, kind="stable")
        ids = chosen[f"{setting}_30-gateau"]
        assert np.allclose(ranks.set_axis(scores["id"])[ids], best[: len(ids)])
    assert set(chosen["scarce_30-gateau"]) != set(chosen["plenty_30-gateau"])
    assert chosen["scarce_30-random"] == chosen["plenty_30-random"]  # as what is no combination


def test_length_matched_follows_gateau_s_lengths(table, chosen):
    edges = np.quantile(table["n_tokens"], np.arange(1, 10) / 10)
    tenth = pd.Series(np.searchsorted(edges, table["n_tokens"]), table["id"])
    a, b = (tenth[chosen[f"scarce_30-{name}"]].value_counts() for name in ("gateau", "length_matched"))
    assert a.sort_index().equals(b.sort_index())


# Runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    return open_study("smoke", 1, **SIZES)


@pytest.fixture
def inputs(tmp_path, saved_pair):
    """Corpus folder, pair, and ids: each arm of a share takes as many of ten, GATEAU and HMG the same."""
    data = tmp_path / "data"
    for n in range(2):
        short = [Sample(f"short-{n}-{i}", "word " * (4 + i), "What?", "This.") for i in range(6)]
        pool = [Sample(f"pool-{n}-{i}", "word " * (40 + 5 * i), "What?", "That.") for i in range(10)]
        write_samples(short[:2], data / "short" / f"{n}.jsonl")
        write_samples(short, data / "plenty" / f"{n}.jsonl")
        write_samples(pool, data / "pools" / f"independent-{n}.jsonl")
    return data, saved_pair[0].parent


def ids_of(n: int) -> dict[str, list[str]]:
    found = {}
    for arm in ARMS:
        first = 0 if arm.selector in ("gateau", "hmg") else selection_runs.EVERY.index(arm.selector) % 4 + 1
        count = {"short_only": 0, "full": 10}.get(arm.selector, round(10 * arm.share))
        first = 0 if arm.selector == "full" else first
        found[arm.name] = [f"pool-{n}-{i}" for i in reversed(range(first, first + count))]
    return found


def jobs_of(study, inputs, n):
    """The jobs of pool ``n``."""
    jobs = selection_runs.selection_jobs(study, *inputs, {0: ids_of(0), 1: ids_of(1)})
    return [job for job in jobs if job.pool_seed == n]


def test_jobs_are_one_an_arm_at_one_budget(study, inputs):
    jobs = jobs_of(study, inputs, 1)
    assert [job.name for job in jobs] == [f"sft-{arm.name}-1" for arm in ARMS]
    assert [(job.condition, job.method) for job in jobs] == [(arm.condition, arm.selector) for arm in ARMS]
    equal = [job for job, arm in zip(jobs, ARMS, strict=True) if arm.budget == "tokens"]
    assert {job.length.tokens for job in equal} == {3000} and {job.seed for job in jobs} == {101}
    short = {job.condition: len(tuning_runs.training_samples(replace(job, pool=None))) for job in jobs}
    assert short == {"plenty_30": 6} | dict.fromkeys(set(short) - {"plenty_30"}, 2)
    by_name = {job.name: job for job in jobs}
    alone = by_name["sft-scarce_30-short_only-1"]
    assert alone.pool is None and len(tuning_runs.training_samples(alone)) == 2
    assert by_name["sft-scarce_30-gateau-1"].selected == ("pool-1-0", "pool-1-1", "pool-1-2")  # sorted


def test_equal_epochs_are_those_of_gateau_s_run(study, inputs):
    jobs = {job.name: job for job in jobs_of(study, inputs, 0)}

    def epochs(name: str) -> float:
        return jobs[name].length.tokens / sum(tuning_runs.sample_lengths(jobs[name]))

    wanted = epochs("sft-scarce_30-gateau-0")
    for selector in ("random", "full"):
        assert np.isclose(epochs(f"sft-scarce_30_epochs-{selector}-0"), wanted, rtol=1e-3)
    assert jobs["sft-scarce_30_epochs-full-0"].length.tokens > 3000
    assert jobs["sft-scarce_30_epochs-gateau-0"].length == jobs["sft-scarce_30-gateau-0"].length


def test_an_arm_without_ids_is_named(study, inputs):
    with pytest.raises(DataError, match=r"pool 1: nothing is chosen for 'scarce_10-cam'; choose anew"):
        selection_runs.selection_jobs(study, *inputs, {0: ids_of(0), 1: ids_of(1) | {"scarce_10-cam": []}})


def test_what_notebook_06_chose_is_read_again_and_its_want_is_named(study, inputs):
    for n in range(2):
        path = selection_runs.write_choices(study, n, ids_of(n))
    assert path.read_text().count("\n") == len(ARMS) + 2 and selection_runs.read_choices(study, 1) == ids_of(
        1
    )
    jobs = selection_runs.selection_jobs(study, *inputs, selection_runs.selected(study))
    assert [job.name for job in jobs] == selection_runs.run_names(study.profile)
    path.unlink()
    with pytest.raises(DataError, match=r"06_choices-1\.json: .*run notebook 06 of profile smoke first"):
        selection_runs.selected(study)


def test_runs_that_differ_in_name_only_are_one_artefact(study, inputs, monkeypatch):
    jobs = jobs_of(study, inputs, 0)
    alike = [job for job in jobs if job.method in ("gateau", "hmg") and job.condition.startswith("scarce_30")]
    others = [job for job in jobs if job.name in ("sft-scarce_10-gateau-0", "sft-plenty_30-gateau-0")]
    assert len(alike) == 3 and len({job.name for job in alike}) == 3
    trained = []

    def pretend(job, out):
        trained.append(job.name)
        (out / "log").write_text(job.name)

    asked: list[str] = []  # jobs that processes would be given

    def run_jobs(function, jobs, *how):
        asked.extend(jobs)
        return workers_run_jobs(function, jobs, *how)

    workers_run_jobs = workers.run_jobs
    monkeypatch.setattr(workers, "run_jobs", run_jobs)
    monkeypatch.setattr(fine_tuning.sft, "fine_tune", pretend)
    folders = fine_tuning.fine_tune_all(study, [*alike, *others])
    assert len(set(folders[:3])) == 1 and len(set(folders)) == 3
    assert trained == asked == [alike[0].name, *(job.name for job in others)]
    assert all(folder.name.startswith("selection-") for folder in folders)
    assert fine_tuning.fine_tune_all(study, alike[1:2]) == folders[:1] and len(trained) == 3


def test_the_cost_counts_equal_tokens_and_longer_runs():
    planned = selection_runs.cost(PROFILE)
    least = len(ARMS) - 1  # GATEAU's run with equal epochs is the one with equal tokens
    assert least < planned.tokens / PROFILE.pool_seeds / PROFILE.sft_tokens < least + 3
    assert planned.steps == pytest.approx(planned.tokens / PROFILE.sft_batch_tokens, abs=1)


# Outcomes ---------------------------------------------------------------------------------------------------


def evaluation() -> pd.DataFrame:
    """Rows of `outcomes.evaluated`: an untrained model, and two arms of two conditions; two pools."""
    rng = np.random.default_rng(0)
    tasks = [("long", kind) for kind in ("single", "multi_hop", "single")] + [("short", "short_single")] * 2
    models = [("base", ""), ("gateau", "scarce_30"), ("full", "scarce_30"), ("full", "scarce_30_epochs")]
    return pd.DataFrame(
        {"method": m, "condition": c, "seed": n, "id": f"{part}-{i}", "set": part, "kind": kind}
        | dict(zip(("probability", "token_accuracy"), rng.random(2), strict=True))
        | {"exact": bool(rng.random() < 0.5)}
        for m, c in models for n in range(2) for i, (part, kind) in enumerate(tasks)
    )  # fmt: skip


def test_metrics_rows_have_the_conditions_of_their_arms():
    table = evaluation()
    found = pd.DataFrame(outcomes.selection_metrics(table))
    assert not found.duplicated(["metric", "method", "condition", "seed"]).any()
    measures = {"long_probability", "long_accuracy", "long_exact", "short_probability", "short_accuracy"}
    measures |= {"long_probability_single", "long_probability_multi_hop"}
    models = {("gateau", "scarce_30"), ("full", "scarce_30"), ("full", "scarce_30_epochs")}
    models |= {
        ("base", "scarce_30"),
        ("base", "scarce_30_epochs"),
    }  # what runs began with, in every condition
    expected = {(metric, *model, seed) for metric in measures for model in models for seed in range(2)}
    rows = {tuple(row) for row in found[["metric", "method", "condition", "seed"]].itertuples(index=False)}
    assert rows == expected
    by = found.set_index(["metric", "method", "condition", "seed"])
    one = table.query("method == 'full' and condition == 'scarce_30_epochs' and seed == 1 and set == 'long'")
    row = by.loc[("long_probability", "full", "scarce_30_epochs", 1)]
    assert row["value"] == pytest.approx(one["probability"].mean()) and row["n"] == 3
    row = by.loc[("long_probability_multi_hop", "full", "scarce_30_epochs", 1)]
    assert row["value"] == one["probability"].iloc[1] and row["n"] == 1
    assert by.loc[("long_exact", "full", "scarce_30_epochs", 1), "value"] == one["exact"].mean()
    bases = [by.loc[("short_accuracy", "base", c, 0), "value"] for c in ("scarce_30", "scarce_30_epochs")]
    assert bases[0] == bases[1]


def test_tasks_are_told_with_and_without_written_answers():
    rows = outcomes.in_conditions(evaluation()).query("condition == 'scarce_30'")
    read = outcomes.task_table(rows)
    assert list(read.columns.levels[0]) == ["probability of the answer", "answer tokens right"]
    assert list(read.index) == ["base", "gateau", "full"]
    written = outcomes.task_table(rows.assign(exact_match=True, f1=1.0))
    assert (written["exact match"] == 1).all(axis=None)


def test_a_tuned_model_keeps_the_condition_of_its_run(study, inputs, tmp_path):
    jobs = jobs_of(study, inputs, 1)[:2]
    (first, _) = outcomes.tuned(jobs, [tmp_path, tmp_path])
    assert (first.method, first.seed, first.condition) == ("short_only", 1, "scarce_30")
    assert Arm("short_only", "scarce", 0.3) == ARMS[0]
