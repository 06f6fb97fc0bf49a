"""The SkipAlign runs: what they differ in, where they start, and what a missing mask would change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import Sample
from gateau_lib.experiments import skip_runs
from gateau_lib.models import loading, rope
from gateau_lib.models.loading import SHIPPED
from gateau_lib.study import devices
from gateau_lib.study.profiles import resolve
from gateau_lib.study.store import open_study
from gateau_lib.training import pretrain, sft

SIZES = {"pool_seeds": 2, "skip_steps": 3, "skip_batch_tokens": 200, "long_window": 512}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    return open_study("smoke", 1, **SIZES)


def test_the_base_is_raised_alike_in_every_family(study, tmp_path):
    for family in ("llama", "phi", "gemma3"):  # a head turned whole; by half; one base a kind of layer
        families.build(family).save_pretrained(tmp_path / family / "short")
        bases = {job.rope_theta for job in skip_runs.skip_jobs(study, tmp_path, tmp_path / family)}
        assert bases == {20 * rope.rope_theta(families.build(family))}


def test_runs_differ_in_what_their_names_say_only(study, saved_pair):
    jobs = skip_runs.skip_jobs(study, Path("data"), saved_pair[0].parent)
    half = len(jobs) // 2
    assert [job.method for job in jobs[:half]] == [*skip_runs.STRATEGIES, *skip_runs.VARIANTS]
    plain = {"name": "", "method": "", "strategy": "normal", "packed_isolated": True}
    plain |= {"document_turn": False, "skip_share": 1.0, "jumps": 2}
    assert len({replace(job, **plain) for job in jobs[:half]}) == 1
    assert {job.pool_seed for job in jobs[half:]} == {1} and {job.seed for job in jobs} == {100, 101}
    by = {job.method: job for job in jobs[:half]}
    assert {name for name, job in by.items() if job.document_turn} == {
        name for name in by if name.startswith("skip_") and name != "skip_outer_turns"
    }
    assert by["skip_outer_half"].skip_share == 0.5
    assert not by["packed"].packed_isolated and by["normal"].length.batch_tokens == 200
    assert by["normal"].length.tokens == 600


def test_names_are_those_of_the_jobs_of_both_starts(study, saved_pair, monkeypatch):
    monkeypatch.setattr(skip_runs, "wider", lambda *_: saved_pair[1])
    jobs = skip_runs.all_jobs(study, Path("data"), saved_pair[0].parent)
    assert [job.name for job in jobs] == skip_runs.run_names(study.profile)
    second = [job for job in jobs if job.experiment == skip_runs.SKIPPING_WIDER]
    assert [job.method for job in second[:3]] == list(skip_runs.WIDER)
    assert {job.base for job in second} == {saved_pair[1]}
    assert len({job.rope_theta for job in jobs}) == 1  # the starts differ in their window alone
    without = replace(study, profile=replace(study.profile, skip_wider_stages=()))
    jobs = skip_runs.all_jobs(without, Path("data"), saved_pair[0].parent)
    assert [job.name for job in jobs] == skip_runs.run_names(without.profile)
    assert {job.experiment for job in jobs} == {skip_runs.SKIPPING}


def test_a_document_turn_moves_the_document_away_from_the_question(study, tmp_path, saved_pair):
    """Between the papers' two turns the question goes with the document, and only the answer is far."""
    sample = Sample("a", "word " * 12, "What?", "This.")
    for n in range(2):
        write_samples([sample], tmp_path / "plenty" / f"{n}.jsonl")
    found = {}
    for job in skip_runs.skip_jobs(study, tmp_path, saved_pair[0].parent)[:10]:
        tokenizer = loading.load_tokenizer(job.base)
        steps = sft.steps_of(replace(job, reach="full", skip_share=1.0), tokenizer)
        row, encoded = steps[0][0], steps.encoded[0]
        jumps = np.flatnonzero(np.diff(row.position_ids) > 1) + 1
        document, prompt = len(encoded.start) + len(encoded.context), len(encoded.prompt)
        found[job.method] = {"document": document in jumps, "answer": prompt in jumps, "many": len(jumps)}
    assert found["skip_outer_turns"] == {"document": False, "answer": True, "many": 1}
    assert found["skip_outer"]["document"] and found["skip_outer"]["many"] <= 2
    assert found["skip_inner"]["document"] is found["skip_inner"]["answer"] is False
    assert found["skip_inner"]["many"] == 2 and found["skip_all"]["many"] > 2
    assert found["normal"]["many"] == found["packed"]["many"] == 0 and found["randpos"]["many"] > 10


def test_the_stretched_model_is_built_on_the_cpu_in_the_profile_s_dtype(study, saved_pair, monkeypatch):
    study = open_study("smoke", 1, dtype="bfloat16", long_window=512)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "device", lambda: torch.device("meta"))  # any other device
        folder = skip_runs.stretched(study, saved_pair[0].parent)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    model, _ = loading.load(folder)
    assert rope.window(model) == 512
    assert rope.rope_theta(model) == skip_runs.raised_theta(study, saved_pair[0].parent)


def test_the_wider_model_is_the_pair_s_short_one_trained_on(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    study = open_study("smoke", 1, skip_wider_stages=((320, 1, 640),))
    before, _ = loading.load(SHIPPED / "short")
    kept = before.model.embed_tokens.weight.clone()
    monkeypatch.setattr(loading, "load", lambda *_, load=loading.load: (before, load(SHIPPED / "short")[1]))
    folder = skip_runs.wider(study, SHIPPED)
    assert torch.equal(before.model.embed_tokens.weight, kept)  # trained is a copy
    monkeypatch.undo()
    after, _ = loading.load(folder)
    assert rope.window(after) == 320 and rope.rope_theta(after) == 4 * rope.rope_theta(before)
    assert not torch.equal(after.model.embed_tokens.weight, kept)


def test_cost_counts_every_run_and_the_wider_model():
    profile = resolve("cpu", pool_seeds=1)
    wide, runs = skip_runs.cost(profile)
    assert runs.steps == len(skip_runs.run_names(profile)) * profile.skip_steps
    assert np.isclose(runs.tokens, runs.steps * profile.skip_batch_tokens)
    window, steps, tokens = profile.skip_wider_stages[0]
    assert wide.steps == steps and wide.tokens == steps * tokens and window == 2 * profile.short_window
    assert 0 < pretrain.TRAINED_ON < 1
    assert len(skip_runs.cost(resolve("paper"))) == 1


def test_influence_shows_the_blocks_that_a_missing_mask_makes(llama):
    ids, positions = list(range(10, 22)), [0, 1, 2, 3, 40, 41, 42, 43, 80, 81, 82, 83]
    causal = np.tri(12, dtype=bool)
    assert (skip_runs.influence(llama, ids, positions, mask=True) == causal).all()
    blocks = np.arange(12) // 4
    cut = skip_runs.influence(llama, ids, positions, mask=False)
    assert (cut == (causal & (blocks[:, None] == blocks[None, :]))).all()
