"""Fine-tuning: the Trainer's own batches and losses against slow references, budgets, exact resume."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.loss import encoded_batches, reference_loss
from safetensors.torch import load_file
from tiny import eager
from tiny_data import sample

from gateau_lib.data.longalign import write_samples
from gateau_lib.models import loading, rope
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import resolve
from gateau_lib.study.store import Study
from gateau_lib.study.workers import JobError
from gateau_lib.training import fine_tuning, sft
from gateau_lib.training import trainer as trainer_module
from gateau_lib.training.fine_tuning import fine_tune_all
from gateau_lib.training.input_rows import IGNORED, collate
from gateau_lib.training.packing import plan_batches
from gateau_lib.training.recipe import ByTokens, FineTune
from gateau_lib.training.sft import fine_tune, training_log
from gateau_lib.training.trainer import make_trainer, response_loss


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file of 12 short samples and a pool of 6 longer ones."""
    folder = tmp_path_factory.mktemp("data")
    short = write_samples([sample(i, i % 3) for i in range(12)], folder / "short.jsonl")
    return short, write_samples(
        [dataclasses.replace(sample(i, 8 + i), id=f"long{i}") for i in range(6)], folder / "pool.jsonl"
    )


@pytest.fixture(autouse=True)
def determinism() -> Iterator[None]:
    """A Trainer made outside `fine_tune` leaves torch's deterministic mode on: not for the next test."""
    with sft._restored_determinism():
        yield


@pytest.fixture
def job(saved_pair: tuple[Path, Path], data: tuple[Path, Path]) -> FineTune:
    sizes = {"length": ByTokens(2500, 300), "window": 256, "learning_rate": 1e-3, "seed": 0}
    return FineTune("run", saved_pair[1], (data[0],), **sizes)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("strategy", ["normal", "skip_all", "skip_outer", "pose", "randpos", "packed"])
def test_the_trainers_loss_and_gradient_equal_an_explicit_mask(job, tmp_path, strategy, checkpointing):
    """The trap closed: the batch comes out of the Trainer's loader, the loss out of its training step."""
    job = dataclasses.replace(
        job, strategy=strategy, gradient_checkpointing=checkpointing, reach="full", window=512
    )
    batches = encoded_batches(job)
    model, _ = loading.load(job.base)
    twin = eager(model)
    trainer = make_trainer(job, model.train(), batches[:1], tmp_path)
    step, seen = trainer.training_step, {}

    def recorded(model, batch, *args):
        seen.update(batch=dict(*batch["passes"]), loss=step(model, batch, *args))
        seen["gradients"] = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        return seen["loss"]

    trainer.training_step = recorded
    trainer.train()
    assert seen["batch"]["attention_mask"] is not None
    if strategy not in ("normal", "packed"):
        assert (seen["batch"]["position_ids"].diff() != 1).any() and seen["batch"][
            "position_ids"
        ].max() >= 256
    expected = reference_loss(twin, batches[0])
    torch.testing.assert_close(seen["loss"], expected.detach(), atol=1e-5, rtol=1e-5)
    expected.backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(seen["gradients"][name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_the_trainer_without_our_mask_trains_something_else(job, tmp_path):
    """The trap itself, in the training path: if this fails, transformers has changed."""
    job = dataclasses.replace(job, strategy="skip_all", reach="full")
    batches = encoded_batches(job)
    model, _ = loading.load(job.base)
    trainer = make_trainer(job, model.train(), batches, tmp_path)
    (batch,) = next(iter(trainer.get_train_dataloader()))["passes"]
    expected = reference_loss(eager(model), batches[0])
    assert (response_loss(model, batch) - expected).abs() < 1e-5
    assert (response_loss(model, batch | {"attention_mask": None}) - expected).abs() > 1e-3


@pytest.mark.parametrize("strategy", ["normal", "packed"])
def test_sample_loss_counts_each_sample_once(job, llama, strategy):
    rows = encoded_batches(dataclasses.replace(job, strategy=strategy))[0]
    batch = collate(rows, 0)
    found = response_loss(llama, batch, "sample")
    torch.testing.assert_close(
        found, reference_loss(eager(llama), rows, by_sample=True), atol=1e-5, rtol=1e-5
    )
    assert abs(found - response_loss(llama, batch)) > 1e-6


def test_only_response_and_end_are_trained_on(job):
    tokenizer = loading.load(job.base)[1]
    for row in (row for batch in encoded_batches(job) for row in batch):
        text = tokenizer.decode([label for label in row.labels if label != IGNORED])
        assert text.startswith("It is ") and text.endswith(".</s>")
        assert row.labels[-1] == tokenizer.eos_token_id and row.labels[0] == IGNORED


@given(
    st.lists(st.integers(5, 60), min_size=1, max_size=30),
    st.integers(60, 2000),
    st.integers(0, 100),
    st.sampled_from([None, 100]),
)
def test_plans_spend_the_budget_and_cycle_evenly(lengths, tokens, seed, window):
    plan = plan_batches(lengths, tokens, 150, seed, window)
    used = [i for batch in plan for row in batch for i in row]
    assert abs(sum(lengths[i] for i in used) - tokens) <= max(lengths) / 2
    counts = [used.count(i) for i in range(len(lengths))]
    assert max(counts) - min(counts) <= 1
    assert all(sum(lengths[i] for row in batch for i in row) <= 150 + 75 + 100 for batch in plan)
    assert (
        all(sum(lengths[i] for i in row) <= window for batch in plan for row in batch)
        if window
        else all(len(row) == 1 for batch in plan for row in batch)
    )
    assert plan == plan_batches(lengths, tokens, 150, seed, window)


def test_batches_hold_similar_lengths():
    lengths = list(range(10, 110))
    plan = plan_batches(lengths, sum(lengths), 600, 0)
    padded = sum(len(batch) * max(lengths[i] for (i,) in batch) for batch in plan)
    assert padded < 1.15 * sum(lengths)
    means = [sum(lengths[i] for (i,) in batch) / len(batch) for batch in plan]
    assert means != sorted(means)  # groups are shuffled


def test_run_lowers_the_loss_and_leaves_a_loadable_model(job, data, tmp_path):
    mixed = dataclasses.replace(
        job,
        pool=data[1],
        selected=("long3", "long1"),
        length=ByTokens(9000, 300),
        rope_theta=5e4,
        learning_rate=3e-3,
    )
    log = fine_tune(mixed, tmp_path / "out")
    assert sum(log["losses"][-5:]) < 0.8 * sum(log["losses"][:5])
    assert log["distinct"] == 14 and log["steps"] == len(log["losses"]) and abs(log["tokens"] - 9000) < 200
    assert log["tokens"] <= log["padded"] < 1.6 * log["tokens"] and log["epochs"] == round(
        log["samples"] / 14, 4
    )
    model, tokenizer = loading.load(tmp_path / "out")
    assert rope.rope_theta(model) == 50_000.0 and tokenizer.eos_token == "</s>"
    assert log == training_log(tmp_path / "out")
    assert not torch.are_deterministic_algorithms_enabled()


def test_first_loss_is_the_base_models(job, tmp_path):
    """Step 1 is computed before any update: it must be the base model's response NLL on the first batch."""
    log = fine_tune(job, tmp_path / "out")
    expected = response_loss(loading.load(job.base)[0], collate(encoded_batches(job)[0], 0))
    assert log["losses"][0] == pytest.approx(expected.item(), abs=1e-3)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_killed_and_resumed_equals_uninterrupted(job, tmp_path, monkeypatch):
    job = dataclasses.replace(job, strategy="skip_all", skip_share=0.5)
    whole = fine_tune(job, tmp_path / "whole")
    saving = dataclasses.replace(job, save_steps=3)
    step, calls = trainer_module.ResponseTrainer.training_step, []

    def killed(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.ResponseTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(saving, tmp_path / "halves")
    assert not (tmp_path / "halves").exists() and list(tmp_path.glob("run-*.checkpoints/checkpoint-3"))
    (next(tmp_path.glob("run-*.checkpoints")) / "checkpoint-6").mkdir()  # cut short while it was written
    steps = []
    monkeypatch.setattr(
        trainer_module.ResponseTrainer,
        "training_step",
        lambda self, *a, **k: steps.append(1) or step(self, *a, **k),
    )
    halves = fine_tune(saving, tmp_path / "halves")
    assert len(steps) == whole["steps"] - 3
    assert not list(tmp_path.glob("*.checkpoints"))
    assert halves["losses"] == whole["losses"]
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_seeds_differ_and_repeat(job, tmp_path):
    runs = [dataclasses.replace(job, seed=seed, length=ByTokens(900, 300)) for seed in (0, 0, 1)]
    a, b, c = (fine_tune(run, tmp_path / str(i))["losses"] for i, run in enumerate(runs))
    assert a == b != c


def test_bad_jobs_are_named(job, data, tmp_path):
    with pytest.raises(DataError, match="1 selected ids are missing, first 'nope'"):
        fine_tune(dataclasses.replace(job, pool=data[1], selected=("long1", "nope")), tmp_path / "a")
    with pytest.raises(DataError, match="'run' has no samples"):
        fine_tune(dataclasses.replace(job, samples=()), tmp_path / "b")
    with pytest.raises(ValueError, match="raise the budget"):
        fine_tune(dataclasses.replace(job, length=ByTokens(3, 300)), tmp_path / "c")
    with pytest.raises(ValueError, match="run: the loss is nan at step"):
        fine_tune(dataclasses.replace(job, learning_rate=1e30), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_all_runs_are_cached_and_processes_equal_the_notebook(job, tmp_path, monkeypatch):
    """Two processes, then none: same bytes; nothing is trained twice; a failing run is named."""
    jobs = [
        dataclasses.replace(job, name=f"run-{s}", strategy=s, length=ByTokens(700, 300))
        for s in ("normal", "pose")
    ]
    study = Study(resolve("smoke"), 0, tmp_path / "a")
    monkeypatch.setattr(fine_tuning, "at_once", lambda _: 2)
    folders = fine_tune_all(study, jobs)
    stamps = [(f / "model.safetensors").stat().st_mtime_ns for f in folders]
    assert fine_tune_all(study, jobs) == folders
    assert [(f / "model.safetensors").stat().st_mtime_ns for f in folders] == stamps
    monkeypatch.setattr(fine_tuning, "at_once", lambda _: 0)
    here = fine_tune_all(Study(resolve("smoke"), 0, tmp_path / "b"), jobs)
    assert [f.name for f in here] == [f.name for f in folders]
    for one, other in zip(folders, here, strict=True):
        assert all(torch.equal(weights(one)[k], weights(other)[k]) for k in weights(one))
        assert json.loads((one / "log.json").read_text())["losses"] == training_log(other)["losses"]
    with pytest.raises(JobError, match="run-bad: .*raise the budget"):
        fine_tune_all(study, [dataclasses.replace(job, name="run-bad", length=ByTokens(3, 300))])
    with pytest.raises(ValueError, match="the same name"):
        fine_tune_all(study, [job, job])
