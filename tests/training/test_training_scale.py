"""Any number of processes and passes gives one process's losses; kills, failures, adapters, templates."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from families import FAMILIES, build
from hypothesis import given
from hypothesis import strategies as st
from reference.loss import encoded_batches, reference_loss
from safetensors.torch import load_file
from tiny import eager
from tiny_data import sample

from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import encode
from gateau_lib.models import adapters, loading, output_head, prompts, rope
from gateau_lib.study import devices, errors, progress, workers
from gateau_lib.study.command import messages_shown
from gateau_lib.study.profiles import resolve
from gateau_lib.study.store import Study
from gateau_lib.training import fine_tuning, minibatches, recipe, reports, sft, trainer
from gateau_lib.training.input_rows import IGNORED, collate, pack_rows
from gateau_lib.training.packing import plan_epochs, split_step
from gateau_lib.training.recipe import ByEpochs, ByTokens, FineTune

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def job(saved_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> FineTune:
    """18 samples of 40 to 250 tokens, about seven steps."""
    samples = write_samples(
        [sample(i, i) for i in range(18)], tmp_path_factory.mktemp("data") / "samples.jsonl"
    )
    sizes = {"length": ByTokens(3000, 400), "window": 256, "learning_rate": 1e-3, "seed": 0}
    return FineTune("run", saved_pair[1], (samples,), **sizes)


def close(found: list[float], expected: list[float]) -> bool:
    return found == pytest.approx(expected, rel=1e-5)


# How steps are planned and dealt


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=40),
    st.integers(1, 5),
    st.sampled_from([None, 50, 300, 1000]),
)
def test_a_step_is_dealt_whole_and_evenly(lengths, processes, micro_tokens):
    split = split_step(lengths, processes, micro_tokens)
    assert len(split) == processes and len({len(passes) for passes in split}) == 1
    counted = [row for passes in split for rows, counts in passes for row in rows if counts]
    assert sorted(counted) == list(range(len(lengths)))
    for rows, counts in (each for passes in split for each in passes):
        padded = len(rows) * max(lengths[row] for row in rows)
        assert micro_tokens is None or padded <= max(micro_tokens, *lengths, 0)
        assert counts or (len(rows) == 1 and lengths[rows[0]] == min(lengths))
    assert len(split[0]) == 1 or micro_tokens is not None


def test_short_rows_beside_long_ones_are_dealt_evenly():
    """Eight rows of 60k tokens stand alone; the 88 short ones must not all go to one process."""
    lengths = [777] * 88 + [60_000] * 8
    split = split_step(lengths, 8, 65_536)
    padded = [sum(len(rows) * max(lengths[row] for row in rows) for rows, _ in passes) for passes in split]
    assert padded == [60_000 + 11 * 777] * 8 and all(len(passes) == 2 for passes in split)


def test_a_step_read_by_one_process_at_once_keeps_its_order():
    assert split_step([3, 3, 5, 5, 9]) == [[([0, 1, 2, 3, 4], True)]]


@given(
    st.lists(st.integers(5, 60), min_size=1, max_size=60),
    st.sampled_from([0.5, 1, 2, 2.5]),
    st.integers(1, 24),
)
def test_epochs_use_every_sample_as_often_in_steps_of_one_size(lengths, epochs, size):
    if round(epochs * len(lengths)) == 0:
        return
    plan = plan_epochs(lengths, epochs, size, 3)
    used = [i for step in plan for (i,) in step]
    counts = [used.count(i) for i in range(len(lengths))]
    assert len(used) == round(epochs * len(lengths)) and max(counts) - min(counts) <= 1
    assert all(len(step) == size for step in plan[:-1]) and len(plan[-1]) <= size
    packs = plan_epochs(lengths, epochs, size, 3, pack_window=100)
    assert sorted(i for step in packs for pack in step for i in pack) == sorted(used) or epochs % 1
    assert all(sum(lengths[i] for i in pack) <= 100 for step in packs for pack in step)


def test_neighbours_in_a_step_are_of_similar_length_and_steps_are_not():
    lengths = list(range(10, 970, 10))
    (first, *_), means = plan_epochs(lengths, 1, 32, 0), []
    groups = [[lengths[i] for (i,) in first[at : at + 8]] for at in range(0, 32, 8)]
    assert all(max(group) - min(group) == 70 for group in groups)
    means = [sum(group) for group in groups]
    assert means != sorted(means)


def test_published_way_in_a_run(job, tmp_path):
    log = sft.fine_tune(dataclasses.replace(job, length=ByEpochs(2.0, 6)), tmp_path / "a")
    assert (log["steps"], log["samples"], log["distinct"], log["epochs"]) == (6, 36, 18, 2.0)


# One process: passes, packs, positions


@pytest.mark.parametrize("loss", ["token", "sample"])
def test_packed_and_unpacked_losses_agree(job, llama, loss):
    rows = [row for step in encoded_batches(job)[:2] for row in step]
    packed = [pack_rows(rows[:3]), pack_rows(rows[3:])]
    expected = trainer.response_loss(llama, collate(packed, 0), loss).item()
    assert trainer.response_loss(llama, collate(rows, 0), loss).item() == pytest.approx(expected, rel=1e-5)
    small = dataclasses.replace(job, loss=loss, micro_tokens=200)
    for processes in (1, 3):
        parts = [
            part
            for process in range(processes)
            for part in minibatches.deal(small, packed, processes, process)
        ]
        over = minibatches.terms(packed, loss)
        found = sum(
            counts * trainer.response_loss(llama, collate(part, 0), loss, over).item()
            for part, counts in parts
        )
        assert found == pytest.approx(expected, rel=1e-5)
        assert all(len(part) * max(len(row.input_ids) for row in part) <= 256 for part, _ in parts)


def test_passes_of_any_size_give_one_loss_curve(job, tmp_path):
    whole = sft.fine_tune(job, tmp_path / "whole")
    parts = sft.fine_tune(
        dataclasses.replace(job, micro_tokens=256, gradient_checkpointing=True), tmp_path / "parts"
    )
    assert (
        close(parts["losses"], whole["losses"])
        and parts["padded"] <= whole["padded"]
        and parts["tokens"] == whole["tokens"]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_in_parts_gives_the_same_losses_and_gradients(job, monkeypatch, family):
    """Families that scale or cap their logits, too."""
    model = build(family).train()
    batch = collate(encoded_batches(job)[0], 0)
    batch["input_ids"] %= model.config.vocab_size
    batch["labels"] = batch["labels"].where(
        batch["labels"] == IGNORED, batch["labels"] % model.config.vocab_size
    )
    found, calls = [], []
    own = output_head.nll_in_parts
    monkeypatch.setattr(output_head, "nll_in_parts", lambda *arguments: calls.append(1) or own(*arguments))
    for many, part in ((10**6, 1024), (0, 7)):
        monkeypatch.setattr(output_head, "MANY", many)
        monkeypatch.setattr(output_head, "PART", part)
        model.zero_grad()
        loss = trainer.response_loss(model, batch, "sample")
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    model.zero_grad()
    model.eval()
    assert len(calls) == 1 and len(found[0]) == len(found[1]) > 10
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6 * max(1.0, whole.abs().max().item()))
    assert (
        "forward" not in model.get_output_embeddings().__dict__ and "forward" not in model.base_model.__dict__
    )


def test_the_head_in_parts_never_holds_all_logits(llama, monkeypatch):
    monkeypatch.setattr(output_head, "MANY", 50)
    monkeypatch.setattr(output_head, "PART", 16)
    sizes, own = [], torch.nn.functional.cross_entropy

    def counted(logits, *arguments, **options):
        sizes.append(len(logits))
        return own(logits, *arguments, **options)

    monkeypatch.setattr(output_head.functional, "cross_entropy", counted)
    ids = torch.arange(1, 101)[None] % 50
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(100)[None],
    }
    trainer.response_loss(llama, batch | {"labels": ids.index_fill(1, torch.tensor([0]), IGNORED)}).backward()
    llama.zero_grad()
    assert sizes == [16] * 6 + [3] + sizes[7:] and len(sizes) == 14 and max(sizes) == 16


HOW_RUN = [
    {},
    {"dtype": "bfloat16"},
    {"tuning": "lora", "dtype": "bfloat16"},
    {"gradient_checkpointing": True},
]


@pytest.mark.parametrize("change", HOW_RUN)
def test_runs_with_the_head_in_parts_have_the_same_loss_curve(job, tmp_path, monkeypatch, change):
    run = dataclasses.replace(job, length=ByTokens(1200, 400), **change)
    whole = sft.fine_tune(run, tmp_path / "whole")
    monkeypatch.setattr(output_head, "MANY", 0)
    monkeypatch.setattr(output_head, "PART", 7)
    parts = sft.fine_tune(run, tmp_path / "parts")
    assert parts["losses"] == pytest.approx(whole["losses"], rel=1e-5 if run.dtype == "float32" else 2e-3)


def skipping(job: FineTune) -> FineTune:
    return dataclasses.replace(
        job, name="skipping", strategy="skip_all", reach="full", window=512, gradient_checkpointing=True
    )


def explicit(job: FineTune) -> float:
    """Loss of the first step under an explicit 4-D mask, row by row."""
    return reference_loss(eager(loading.load(job.base)[0]), encoded_batches(job)[0]).item()


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_skipped_positions_reach_the_model_in_every_pass(job, tmp_path, tuning):
    skipped = dataclasses.replace(skipping(job), tuning=tuning, micro_tokens=256, length=ByTokens(400, 400))
    log = sft.fine_tune(skipped, tmp_path / "out")
    assert log["max_position"] == 511
    assert log["losses"][0] == pytest.approx(explicit(skipped), rel=1e-5)
    assert abs(log["losses"][0] - explicit(dataclasses.replace(skipped, strategy="normal"))) > 1e-3


# Adapters, templates, dtype


def test_adapters_are_put_on_their_base_with_the_window_they_were_trained_at(job, tmp_path):
    lora = dataclasses.replace(
        job, tuning="lora", lora_rank=4, rope_theta=50_000.0, window=2048, learning_rate=1e-2
    )
    log = sft.fine_tune(lora, tmp_path / "out")
    assert log["losses"][-1] < log["losses"][0]
    assert (
        load_file(tmp_path / "out" / "adapter_model.safetensors")
        and not (tmp_path / "out" / "model.safetensors").exists()
    )
    model, tokenizer = loading.load(tmp_path / "out")
    assert (rope.rope_theta(model), rope.window(model)) == (50_000.0, 2048) and tokenizer.eos_token == "</s>"
    base = loading.load(job.base)[0]
    attention = model.model.layers[0].self_attn.q_proj
    scale, parts = 2.0, load_file(tmp_path / "out" / "adapter_model.safetensors")
    b, a = (parts[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{which}.weight"] for which in "BA")
    assert a.shape[0] == 4 and b.abs().max() > 0
    torch.testing.assert_close(attention.weight, base.model.layers[0].self_attn.q_proj.weight + scale * b @ a)
    assert torch.equal(model.lm_head.weight, base.lm_head.weight)


def test_a_frozen_base_stays_in_its_dtype_and_adapters_do_not(job):
    model, _ = sft._model(dataclasses.replace(job, tuning="lora", dtype="bfloat16"))
    dtypes = {p.requires_grad: p.dtype for p in model.parameters()}
    assert dtypes == {False: torch.bfloat16, True: torch.float32}


def test_adapters_without_peft_or_base_say_so(job, tmp_path, monkeypatch):
    sft.fine_tune(dataclasses.replace(job, tuning="lora", length=ByTokens(400, 400)), tmp_path / "out")
    config = json.loads((tmp_path / "out" / adapters.CONFIG).read_text())
    (tmp_path / "out" / adapters.CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "/gone"}))
    with pytest.raises(errors.ModelError, match="/gone: no config.json there"):
        loading.load(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(adapters.AdapterError, match="pip install peft"):
        sft.fine_tune(dataclasses.replace(job, tuning="lora"), tmp_path / "none")


def test_weights_are_saved_in_the_dtype_they_were_trained_in(job, tmp_path):
    sft.fine_tune(dataclasses.replace(job, dtype="bfloat16", length=ByTokens(800, 400)), tmp_path / "out")
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert next(loading.load(tmp_path / "out")[0].parameters()).dtype == torch.float32


def test_the_published_template_is_trained_with_and_saved(job, tmp_path):
    log = sft.fine_tune(
        dataclasses.replace(job, template=prompts.INST, length=ByTokens(800, 400)), tmp_path / "out"
    )
    assert log["tokens"] > 0
    tokenizer = loading.load_tokenizer(tmp_path / "out")
    turns = [
        {"role": role, "content": text} for role, text in [("user", "a"), ("assistant", "b"), ("user", "c")]
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<s>[INST]a[/INST]b\n\n[INST]c[/INST]"
    one = sample(3, 2)
    ids = encode(one, tokenizer, chat=True)
    assert tokenizer.decode(ids.ids) == f"<s>[INST]{one.context}\n\n{one.instruction}[/INST]{one.response}"
    with pytest.raises(Exception, match="no place for the role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


# Jobs that cannot run, and what a run is called


def test_contradicting_jobs_are_refused(job):
    for change, message in [
        ({"tuning": "qlora"}, "tuning 'qlora'; choose one of full, lora"),
        ({"tuning": "lora", "sharding": "fsdp"}, "give sharding 'ddp'"),
        ({"sharding": "fsdp"}, "needs GPUs"),
    ]:
        with pytest.raises(ValueError, match=f"run: .*{message}"):
            fine_tuning.fine_tune(dataclasses.replace(job, **change), Path("never"))


def test_a_job_survives_its_file(job):
    full = dataclasses.replace(job, pool=Path("pool.jsonl"), selected=("a", "b"), template=prompts.INST)
    for each in (full, dataclasses.replace(full, length=ByEpochs(2.0, 96))):
        read = recipe.from_json(recipe.to_json(each))
        assert dataclasses.replace(read, base=Path(read.base)) == each


def test_how_a_run_is_computed_is_not_part_of_its_name(job, tmp_path):
    study = Study(resolve("smoke"), 0, tmp_path)
    (first,) = fine_tuning.fine_tune_all(study, [dataclasses.replace(job, length=ByTokens(400, 400))])
    again = dataclasses.replace(
        job,
        length=ByTokens(400, 400),
        micro_tokens=100,
        processes=0,
        gradient_checkpointing=True,
        save_steps=2,
    )
    assert fine_tuning.fine_tune_all(study, [again]) == [first]


def test_sharding_and_deepspeed_reach_the_trainers_arguments(job, tmp_path):
    arguments = trainer._arguments(dataclasses.replace(job, sharding="fsdp"), 10, tmp_path)
    assert arguments.fsdp_plugin_args["fsdp_version"] == 2
    assert arguments.fsdp_plugin_args["auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    published = json.loads(trainer.DEEPSPEED.read_text())
    zero = published["zero_optimization"]
    assert (
        zero["stage"] == 3 and zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"
    )
    with pytest.raises(ValueError, match="run: .*deepspeed is not installed"):
        trainer._arguments(dataclasses.replace(job, sharding="deepspeed"), 10, tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "out of memory; lower micro_tokens .now .*gradient_checkpointing",
        ),
        (OSError(28, "No space left on device"), "the disk is full; free some space"),
    ],
)
def test_failures_say_how_to_go_on(job, tmp_path, monkeypatch, error, message):
    """Here in this process; what other processes report takes the same way (next tests)."""
    monkeypatch.setattr(sft, "fine_tune", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(
        errors.TrainingError, match=f"run: {message}.*it begins again, no checkpoint was written"
    ):
        fine_tuning.fine_tune(job, tmp_path / "out")
    for name in ("run-0123456789ab.checkpoints", "run-2-0123456789ab.checkpoints"):
        state = tmp_path / name / "checkpoint-3" / "trainer_state.json"
        state.parent.mkdir(parents=True)
        state.write_text("{}")
    with pytest.raises(errors.TrainingError, match="it goes on from the last checkpoint"):
        fine_tuning.fine_tune(job, tmp_path / "out")
    with pytest.raises(errors.TrainingError, match="it begins again"):
        fine_tuning.fine_tune(job, tmp_path / "elsewhere" / "out")


def test_short_runs_of_large_models_leave_checkpoints(job):
    kinds = [{}, {"tuning": "lora"}, {"gradient_checkpointing": True}, {"sharding": "fsdp"}]
    jobs = [dataclasses.replace(job, **kind) for kind in kinds]
    found = {steps: [trainer.save_steps_of(each, steps) for each in jobs] for steps in (20, 60, 200, 900)}
    assert found == {20: [None] * 4, 60: [None, 20, 20, 20], 200: [None, 50, 50, 50], 900: [100] * 4}
    assert trainer.save_steps_of(dataclasses.replace(job, save_steps=7, tuning="lora"), 5) == 7


def test_a_checkpoint_is_found_though_the_next_try_writes_none(job, tmp_path, monkeypatch):
    step, calls = trainer.ResponseTrainer.training_step, []

    def failing(self, *args):
        calls.append(1)
        if len(calls) == 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, *args)

    monkeypatch.setattr(trainer.ResponseTrainer, "training_step", failing)
    with pytest.raises(errors.TrainingError, match="goes on from the last checkpoint"):
        fine_tuning.fine_tune(dataclasses.replace(job, save_steps=3), tmp_path / "out")
    log = fine_tuning.fine_tune(job, tmp_path / "out")
    assert len(calls) == 6 + log["steps"] - 3 and not list(tmp_path.glob("*.checkpoints"))


def test_after_out_of_memory_smaller_passes_go_on_from_the_checkpoint(job, tmp_path, monkeypatch):
    saving = dataclasses.replace(job, save_steps=3)
    whole = sft.fine_tune(job, tmp_path / "whole")
    step, calls = trainer.ResponseTrainer.training_step, []

    def failing(self, *args):
        calls.append(1)
        if len(calls) == 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, *args)

    monkeypatch.setattr(trainer.ResponseTrainer, "training_step", failing)
    with pytest.raises(errors.TrainingError, match="lower micro_tokens.*goes on from the last checkpoint"):
        fine_tuning.fine_tune(saving, tmp_path / "out")
    log = fine_tuning.fine_tune(
        dataclasses.replace(saving, micro_tokens=256, gradient_checkpointing=True), tmp_path / "out"
    )
    assert len(calls) == 6 + whole["steps"] - 3 and close(log["losses"], whole["losses"])


# Two processes


def jobs_for_two(job: FineTune) -> dict[str, FineTune]:
    """Jobs that two processes run, by name."""
    changes = {
        "normal": {"micro_tokens": 256},
        "sample-packed": {"strategy": "packed", "loss": "sample", "micro_tokens": 256},
        "lora": {"tuning": "lora", "gradient_checkpointing": True},
        "fsdp": {"sharding": "fsdp", "micro_tokens": 256, "gradient_checkpointing": True},
        "fsdp-killed": {"sharding": "fsdp", "micro_tokens": 256, "save_steps": 2},
        "ddp-parts": {"micro_tokens": 256, "gradient_checkpointing": True},
        "lora-parts": {"tuning": "lora", "micro_tokens": 256},
        "fsdp-parts": {"sharding": "fsdp", "micro_tokens": 256, "gradient_checkpointing": True},
        "lora-killed": {"tuning": "lora", "save_steps": 2},
        "long": {each.name: getattr(long_run(job), each.name) for each in dataclasses.fields(job)}
        | {"save_steps": None},
    }
    jobs = {name: dataclasses.replace(job, **change | {"name": name}) for name, change in changes.items()}
    jobs["skipping"] = dataclasses.replace(skipping(job), length=ByTokens(800, 400))
    jobs["fsdp-skipping"] = dataclasses.replace(jobs["skipping"], name="fsdp-skipping", sharding="fsdp")
    return jobs


def long_run(job: FineTune) -> FineTune:
    """Long enough to be killed on the way."""
    return dataclasses.replace(job, name="long", length=ByTokens(16_000, 400), save_steps=5, processes=2)


@pytest.fixture(scope="module")
def two(job: FineTune, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of `jobs_for_two`: a folder each."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "jobs.json").write_text(json.dumps([recipe.to_json(j) for j in jobs_for_two(job).values()]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(Path(__file__).parent / "two_processes.py"), str(folder / "jobs.json"), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


IN_PARTS = ["ddp-parts", "lora-parts", "fsdp-parts"]


@pytest.mark.parametrize(
    "name", ["normal", "sample-packed", "lora", "fsdp", "fsdp-killed", "lora-killed", *IN_PARTS]
)
def test_two_processes_give_one_processs_losses_and_weights(job, two, tmp_path, name):
    one = dataclasses.replace(
        jobs_for_two(job)[name], sharding="ddp", micro_tokens=None, gradient_checkpointing=False
    )
    log = sft.fine_tune(one, tmp_path / "one")
    assert close(sft.training_log(two / name)["losses"], log["losses"])
    file = "adapter_model.safetensors" if one.tuning == "lora" else "model.safetensors"
    found, expected = load_file(two / name / file), load_file(tmp_path / "one" / file)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=2e-4, rtol=1e-3)
    assert loading.load(two / name)[0].config.architectures == ["LlamaForCausalLM"]


@pytest.mark.parametrize("name", ["skipping", "fsdp-skipping"])
def test_two_processes_see_skipped_positions(job, two, name):
    log, skipped = sft.training_log(two / name), jobs_for_two(job)[name]
    assert log["losses"][0] == pytest.approx(explicit(skipped), rel=1e-5) and log["max_position"] == 511
    assert abs(log["losses"][0] - explicit(dataclasses.replace(skipped, strategy="normal"))) > 1e-3


def test_resumed_equals_uninterrupted(two):
    """Sharded, and adapters under DDP: bitwise, since two processes add two numbers in any order."""
    for name, file in (("fsdp", "model.safetensors"), ("lora", "adapter_model.safetensors")):
        whole, halves = (load_file(two / each / file) for each in (name, f"{name}-killed"))
        assert all(torch.equal(whole[key], halves[key]) for key in whole), name


def ranks(folder: Path) -> dict[int, int]:
    """Process ids of the ranks that write below a folder, by rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes():
                rank = [e for e in (process / "environ").read_bytes().split(b"\0") if e.startswith(b"RANK=")]
                found |= {int(rank[0][5:]): int(process.name)} if rank else {}
        except OSError:
            continue
    return found


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def checkpoints(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.glob("long-*.checkpoints/checkpoint-*/trainer_state.json"))


def test_killed_launcher_killed_rank_then_done(job, two, tmp_path, capfd):
    """SIGKILL to the launcher, then to a process; the third try equals an uninterrupted run bit by bit."""
    folder = tmp_path / "runs"
    folder.mkdir()
    (tmp_path / "job.json").write_text(recipe.to_json(long_run(job)))
    program = "import sys; from pathlib import Path; from gateau_lib.training import fine_tuning, recipe; "
    program += (
        "fine_tuning.fine_tune(recipe.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]) / 'out')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "job.json"), str(folder)]
    launcher = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)})
    wait_for(lambda: checkpoints(folder) or launcher.poll() is not None)
    assert launcher.poll() is None, capfd.readouterr().err
    assert len(ranks(folder)) == 2
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    wait_for(lambda: not ranks(folder), 20)
    first = checkpoints(folder)

    def kill_second() -> None:
        wait_for(lambda: checkpoints(folder) not in ([], first))
        os.kill(ranks(folder)[1], signal.SIGKILL)

    killer = threading.Thread(target=kill_second)
    killer.start()
    with pytest.raises(
        errors.TrainingError, match="long: process 1 was killed.*goes on from the last checkpoint"
    ):
        fine_tuning.fine_tune(long_run(job), folder / "out")
    killer.join()
    assert not ranks(folder) and checkpoints(folder)

    log = fine_tuning.fine_tune(long_run(job), folder / "out")
    assert log["losses"] == sft.training_log(two / "long")["losses"] and not checkpoints(folder)
    found, expected = (
        load_file(folder / "out" / "model.safetensors"),
        load_file(two / "long" / "model.safetensors"),
    )
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_failure_in_another_process_is_reported_in_one_line(job, tmp_path):
    with pytest.raises(
        errors.TrainingError, match=r"^run: the loss is (nan|inf) at step \d+; lower learning_rate$"
    ):
        fine_tuning._run([(dataclasses.replace(job, learning_rate=1e30), tmp_path / "out")], 1, tmp_path)
    assert not (tmp_path / "out").exists()


def test_launched_runs_show_their_progress(job, tmp_path, monkeypatch, capsys):
    """Steps of every run, and how many runs are done, from what the first process reports."""
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    monkeypatch.setenv("GATEAU_PROGRESS_SECONDS", "0")
    work = [
        (dataclasses.replace(job, name=name, length=ByTokens(800, 400)), tmp_path / name)
        for name in ("a", "b")
    ]
    with messages_shown():
        fine_tuning._run(work, 1, tmp_path)
    said = capsys.readouterr().err
    for name in ("a", "b"):
        steps = sft.training_log(tmp_path / name)["steps"]
        assert f"{name}: steps: 1/{steps}, " in said and f"{name}: steps: {steps} done" in said
    assert (
        said.index("a: steps")
        < said.index("fine-tuning: 1/2, ")
        < said.index("b: steps")
        < said.index("fine-tuning: 2 done")
    )


def test_a_record_that_is_half_written_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / reports.STEPS
    program = "import sys, time; out = open(sys.argv[1], 'a', buffering=1)\n"
    program += 'for part in (\'{"run": \', \'"a"}\\n{"run"\', \': "b"}\\n\'):\n'
    program += "    out.write(part); out.flush(); time.sleep(0.7)"
    with subprocess.Popen([sys.executable, "-c", program, str(path)]) as run:
        assert [record["run"] for record in fine_tuning._steps(run, path)] == ["a", "b"]


def test_what_fails_before_a_run_begins_is_told_by_its_last_words(job, tmp_path):
    with pytest.raises(
        RuntimeError,
        match="run: the processes failed before a run began; .*is the model that run run begins with",
    ):
        fine_tuning._run([(job, Path(job.base))], 1, tmp_path)


def test_only_responses_are_trained_on_in_every_pass(job):
    rows = encoded_batches(job)[0]
    parts = [
        part
        for process in (0, 1)
        for part in minibatches.deal(dataclasses.replace(job, micro_tokens=256), rows, 2, process)
    ]
    assert all(row.labels[0] == IGNORED and row.labels[-1] != IGNORED for rows, _ in parts for row in rows)


def test_runs_in_turn_are_those_of_their_own_launches_and_stay_when_a_later_one_fails(job, two, tmp_path):
    """Two runs in processes started once; the second fails at first, the first is not trained again."""
    study = Study(resolve("smoke"), 0, tmp_path)
    good = dataclasses.replace(job, name="ddp", processes=2)
    bad = dataclasses.replace(good, name="bad", learning_rate=1e30)
    with pytest.raises(errors.TrainingError, match="bad: the loss is"):
        fine_tuning.fine_tune_all(study, [good, bad])
    first = fine_tuning.build(good).place(study)
    stamp = (first / sft.LOG).stat().st_mtime_ns
    after = dataclasses.replace(good, name="after", seed=1)
    folders = fine_tuning.fine_tune_all(study, [good, after])
    assert folders[0] == first and (first / sft.LOG).stat().st_mtime_ns == stamp
    assert close(sft.training_log(first)["losses"], sft.fine_tune(job, tmp_path / "alone")["losses"])
    assert not list((study.cache / "training").iterdir())


# One GPU, as far as it shows without one


@pytest.fixture
def one_card(monkeypatch) -> list[list[str]]:
    """As on a machine with one GPU; what is launched is not trained, and its jobs' names are noted."""
    launches = []

    def run(work, count, folder):
        assert count == 1
        launches.append([job.name for job, _ in work])
        for job, output in work:
            output.mkdir(parents=True, exist_ok=True)
            (output / sft.LOG).write_text(json.dumps({"losses": [1.0], "name": job.name}))

    monkeypatch.setattr(devices, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(devices, "gpus", lambda: 1)
    monkeypatch.setattr(fine_tuning, "_run", run)
    return launches


def test_on_a_gpu_a_run_never_trains_in_a_process_that_may_have_computed_there(job, one_card, tmp_path):
    """torch reads the determinism of its matrix products once, at the first, and a notebook has made it."""
    assert fine_tuning.fine_tune(job, tmp_path / "out")["losses"] == [1.0] and one_card == [["run"]]
    study = Study(resolve("smoke"), 0, tmp_path)
    folders = fine_tuning.fine_tune_all(study, [dataclasses.replace(job, name=name) for name in ("a", "b")])
    assert one_card[1:] == [["a", "b"]] and [sft.training_log(folder)["name"] for folder in folders] == [
        "a",
        "b",
    ]


def test_a_trained_model_is_not_lost_when_its_artefact_cannot_be_finished(
    job, one_card, tmp_path, monkeypatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    study = Study(resolve("smoke"), 0, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="No space"):
            fine_tuning.fine_tune_all(study, [job])
    (folder,) = fine_tuning.fine_tune_all(study, [job])
    assert one_card == [["run"]] and sft.training_log(folder)["name"] == "run"  # not trained again
    assert not list((study.cache / "training").iterdir())


def test_processes_that_fail_without_a_word_have_their_last_words_told(job, tmp_path):
    (tmp_path / fine_tuning.OUTPUT).write_text("no space left\n")
    (tmp_path / reports.FAILURES).touch()  # a full disk leaves it empty
    assert "last words: no space left" in str(fine_tuning._failure(job, tmp_path / "out", tmp_path))


def test_one_process_does_not_share_a_model(job, one_card, tmp_path):
    with pytest.raises(
        ValueError,
        match="run: sharding 'fsdp' needs more than one process; give sharding 'ddp', or more GPUs",
    ):
        fine_tuning.fine_tune(dataclasses.replace(job, sharding="fsdp"), tmp_path / "out")
    assert not one_card


def test_determinism_ends_with_the_run(job, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "0")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = dict(os.environ)
    sft.fine_tune(dataclasses.replace(job, length=ByTokens(400, 400)), tmp_path / "out")
    assert dict(os.environ) == before


def test_what_lies_unused_on_a_gpu_is_given_back_before_processes_start(job, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(1))
    with pytest.raises(errors.TrainingError, match="the loss is"):
        fine_tuning._run([(dataclasses.replace(job, learning_rate=1e30), tmp_path / "out")], 1, tmp_path)
    assert workers.run_jobs(abs, {"a": (-1,)}, 1, "test") == [1] and len(given) == 2


def test_a_padding_id_below_zero_is_none(job, llama, tmp_path):
    llama.config.pad_token_id = -1
    try:
        made = trainer.make_trainer(job, llama, encoded_batches(job)[:2], tmp_path)
        assert all(batch["input_ids"].min() == 0 for batch in made.data_collator([0])["passes"])
    finally:
        llama.config.pad_token_id = 0
