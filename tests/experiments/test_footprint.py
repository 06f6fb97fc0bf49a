"""Room that is planned agrees with what was measured, and is divided by what shares it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from gateau_lib.experiments import machine_check, workload
from gateau_lib.models import adapters, sizes
from gateau_lib.models.tiny import build_llama
from gateau_lib.study.profiles import resolve
from gateau_lib.training.trainer import response_loss

LAYERS, HIDDEN, TOKENS, LABELS = 4, 128, 1024, 64


def peak(work: Callable[[], Any]) -> int:
    """Most bytes that torch's allocator holds at a time during a piece of work, over what it held before.

    The profiler's record of every allocation: it knows nothing of fragments and of Python, which the resident
    set counts too.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    with TemporaryDirectory() as folder:
        recorded.export_chrome_trace(f"{folder}/trace.json")
        trace = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    events = [event["args"] for event in trace if event.get("name") == "[memory]"]
    held = [event["Total Allocated"] for event in events]
    return max(held) - (held[0] - events[0]["Bytes"])


def built() -> tuple[torch.nn.Module, sizes.Size]:
    """A small model and its size."""
    model = build_llama(
        500, hidden_size=HIDDEN, layers=LAYERS, heads=8, window=TOKENS, rope_theta=1e4, seed=0
    )
    return model, sizes.of_config(model.config)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 500, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(TOKENS) < TOKENS - LABELS, -100, ids)
    places = {"attention_mask": torch.ones_like(ids), "position_ids": torch.arange(TOKENS)[None]}
    return {"input_ids": ids, "labels": labels, **places}


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_of_training_agrees_with_a_real_one(dtype, tuning, checkpoints, monkeypatch):
    """Two optimizer steps of a real model on the CPU, weights and optimizer states included."""

    def train() -> None:
        model = built()[0].train()
        if tuning == "lora":
            model = adapters.attach(
                model.to(getattr(torch, dtype)), "base", machine_check.ADAPTER_RANK, seed=0
            )
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = response_loss(model, batch())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    size = built()[1]
    monkeypatch.setattr(workload, "pair", lambda profile: (size, size))
    monkeypatch.setattr(machine_check, "_training_passes", lambda profile, many: [(TOKENS, LABELS)])
    how = {"processes": 1, "sharding": "ddp", "dtype": dtype, "tuning": tuning}
    planned = machine_check.training(resolve("paper" if checkpoints else "gpu", **how))
    measured = peak(train)
    assert 0.75 < planned / measured < 1.33, f"{planned / 2**20:.1f} MB, measured {measured / 2**20:.1f} MB"


def test_memory_of_reading_agrees_with_a_real_one():
    model, size = built()
    rows = {name: value for name, value in batch().items() if name != "labels"}
    with torch.inference_mode():
        model(**rows, use_cache=False, logits_to_keep=LABELS)
        measured = peak(lambda: model(**rows, use_cache=False, logits_to_keep=LABELS))
        cached = peak(lambda: model(**rows, use_cache=True, logits_to_keep=LABELS))
    planned = TOKENS * machine_check._passing(size, 4)
    assert 0.75 < planned / measured < 2
    assert 0.75 < (planned + TOKENS * size.cache * 4) / cached < 2


def test_sharing_divides_what_it_shares_and_nothing_else():
    one, eight = (machine_check.training(resolve("paper", processes=n)) for n in (1, 8))
    long = workload.pair(resolve("paper"))[1]
    states = 16 * long.parameters
    assert one - eight > 0.8 * (states - states / 8)
    single, shared = (machine_check.memory(resolve("paper", processes=n))["scoring"] for n in (1, 0))
    assert single == shared
    assert machine_check.host(resolve("paper", processes=8)) == 8 * 4 * long.parameters


def test_the_host_holds_two_models_in_single_precision_for_worked_examples():
    for name in ("paper", "gpu+llama-2-7b"):
        profile = resolve(name, processes=1)
        assert machine_check.host(profile) >= 2 * 4 * workload.pair(profile)[1].parameters


def test_downloads_are_counted_as_weights_are_stored():
    downloads = machine_check.downloads(resolve("gpu+llama-3-8b")) | machine_check.downloads(
        resolve("gpu+granite-2b")
    )
    assert downloads["princeton-nlp/Llama-3-8B-ProLong-64k-Base"] == pytest.approx(32.1e9, rel=0.01)
    assert downloads["ibm-granite/granite-3.0-2b-base"] == pytest.approx(10.1e9, rel=0.01)
    assert downloads["ibm-granite/granite-3.1-2b-base"] == pytest.approx(5.07e9, rel=0.01)
    pickled = machine_check.downloads(resolve("paper"))["THUDM/LongAlign-7B-64k-base"]
    assert pickled == pytest.approx(2 * 13.5e9, rel=0.01)  # and converted


def test_adapters_are_counted_as_peft_makes_them(llama_gqa):
    adapted = adapters.attach(copy.deepcopy(llama_gqa), "base", 4, seed=0)
    made = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert machine_check.adapters(sizes.of_config(llama_gqa.config), 4) == made


def test_adapters_take_less_room_than_all_weights():
    full, lora = (resolve("paper", processes=1, sharding="ddp", tuning=tuning) for tuning in ("full", "lora"))
    assert (
        machine_check.training(lora) < machine_check.training(full) - 10 * workload.pair(full)[1].parameters
    )
    assert machine_check.disk(lora)[0] < machine_check.disk(full)[0] / 10


def test_the_published_set_up_has_room_for_the_published_study():
    assert max(machine_check.memory(resolve("paper"), 8).values()) < 80e9


@pytest.mark.parametrize("name", ["gpu", "gpu+granite-2b"])
def test_gpu_fits_one_card_of_24_gb(name):
    assert max(machine_check.memory(resolve(name), 1).values()) < 24e9
